/** What hosts gossip about their domains: tells this host's news, and judges others' before they are told on. */

import { ProtocolError } from "../../protocol/errors.ts";
import type { SignedPlacement } from "../../protocol/placement.ts";
import {
  decodePlacementMessage,
  encodePlacementMessage,
  NEWS_SIZE_MAX,
  PLACEMENT_TOPIC,
  type PlacementMessage,
  recordMessages,
} from "../../protocol/placement-messages.ts";
import { PROVABLE, type Verdict } from "../../protocol/placement-table.ts";
import type { HostMembership } from "../membership/host-membership.ts";
import type { Gossip, GossipMessage, GossipVerdict } from "../network/gossip.ts";
import type { OffenceLog } from "../offence-log.ts";
import type { NewsBudget } from "./news-budget.ts";

export type PlacementNewsParts = {
  gossip: Gossip;
  membership: Pick<HostMembership, "isMember">;
  offences: OffenceLog;
  budget: NewsBudget;
  /** Takes a record that `author` answers for; who breaks the rules has been named. */
  judge(author: string, bytes: Uint8Array, by: { broughtBy: string }): Verdict;
};

/** News of a few milliseconds travel together. */
const GATHER_MS = 10;

export class PlacementNews {
  readonly #parts: PlacementNewsParts;
  /** What is to be told, by domain: of two words about one the later is enough. */
  #outbox = new Map<string, SignedPlacement>();
  #gathering: NodeJS.Timeout | undefined;

  constructor(parts: PlacementNewsParts) {
    this.#parts = parts;
  }

  /** Before the network starts. */
  serve(): void {
    this.#parts.gossip.listen(PLACEMENT_TOPIC, (message) => this.#overhear(message));
  }

  stop(): void {
    clearTimeout(this.#gathering);
  }

  /** A word of this host. */
  tell(signed: SignedPlacement): void {
    this.#outbox.set(signed.placement.domain, signed);
    this.#gathering ??= setTimeout(() => this.#flush(), GATHER_MS);
  }

  #flush(): void {
    this.#gathering = undefined;
    const news = [...this.#outbox.values()];
    this.#outbox = new Map();
    for (const message of recordMessages(news, { sizeMax: NEWS_SIZE_MAX })) {
      this.#parts.gossip.publish(PLACEMENT_TOPIC, encodePlacementMessage(message));
    }
  }

  /** What a host says in gossip is about itself: so each record is its author's own, and the author answers for it. */
  #overhear({ author, from, data }: GossipMessage): GossipVerdict {
    const { membership, offences, budget, judge } = this.#parts;
    if (!membership.isMember(author)) {
      // Perhaps admitted just now; then its own word is heard again when both compare.
      offences.note(author, "stranger", { broughtBy: from, reason: "it is no member that we know of" });
      return "ignore";
    }
    const message = decodeFrom(author, { octets: data, offences });
    if (message?.type !== "records") return "reject";
    let result: GossipVerdict = "ignore";
    for (const record of message.records) {
      const verdict = judge(author, record, { broughtBy: from });
      if (verdict.kind === "refused") {
        if (PROVABLE.has(verdict.offence.kind)) return "reject";
        continue;
      }
      if (verdict.kind === "old") continue;
      if (verdict.signed.placement.host !== author) {
        const reason = `it publishes what ${verdict.signed.placement.host} said`;
        offences.note(author, "replay", { broughtBy: from, reason });
        return "reject";
      }
      // What floods us is not told on: it is kept, and whoever compares with us gets it.
      if (budget.allows(author)) {
        result = "accept";
        continue;
      }
      offences.note(author, "flood", { broughtBy: from });
      if (author === from) result = "reject";
    }
    return result;
  }
}

/** Undefined for what is none; `from` is named for it. */
export function decodeFrom(
  from: string,
  { octets, offences }: { octets: Uint8Array; offences: OffenceLog },
): PlacementMessage | undefined {
  try {
    return decodePlacementMessage(octets);
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    offences.note(from, "malformed", { reason: error.message });
    return undefined;
  }
}
