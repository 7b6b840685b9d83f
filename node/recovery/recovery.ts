/**
 * `sojourn recover` in the control process: asks both ends, decides, lets this host do its part and asks the other
 * to do its own, until there is nothing left to do. It also hears, from placement, that another host owns a
 * domain of this one under a higher generation: then this host is fenced without anybody asking.
 */

import { doubtOf } from "../../protocol/custody-claim.ts";
import { type Decision, decide, highest, type Testimony } from "../../protocol/recovery.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { CustodyReport, RecoverReport } from "../control/api.ts";
import type { DataService } from "../data/data-service.ts";
import { NodeError } from "../errors.ts";
import type { HostGossip } from "../gossip.ts";
import { hostSigner } from "../host-signer.ts";
import type { Identity } from "../identity.ts";
import type { Log } from "../log.ts";
import type { Network } from "../network/network.ts";
import { custodyCrypto } from "./certificates.ts";
import { CustodyKeeper } from "./custody-keeper.ts";
import { lookUpCustody } from "./custody-lookup.ts";
import { answerRecovery, type Custody, type RecoveryAnswers, RecoveryAsker } from "./questions.ts";

export type RecoveryParts = {
  self: string;
  hostName: string;
  metadata: Metadata;
  asker: RecoveryAsker;
  custody: CustodyKeeper;
  log: Log;
  data(): Pick<DataService, "findAny" | "testify" | "carryOut" | "carryOutAlone" | "adopt">;
  nameOf(host: string): string;
  /** Who says that it has the domain, the highest generation first. */
  claimants(domain: string): readonly { host: string; generation: number }[];
  /** The id and name of a domain that some host says it has. */
  heardOf(query: string): { id: string; name: string } | undefined;
};

export type RecoverWish = { adopt?: { reason: string; user: string } };

const ASK_TIMEOUT_MS = 5_000;
const TURN_TIMEOUT_MS = 30_000;
/** Renounce, take back, and an answer or two that had become old. */
const TURNS_MAX = 6;
const FENCE_CHECK_EVERY_MS = 10_000;

export class Recovery {
  readonly #parts: RecoveryParts;
  readonly #checking = new Map<string, Promise<void>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: RecoveryParts) {
    this.#parts = parts;
  }

  /** A recovery that asks over gossip's connections and believes placement about who claims what. */
  static over(
    { links, peers, placements }: Pick<HostGossip, "links" | "peers" | "placements">,
    {
      identity,
      ...parts
    }: Pick<RecoveryParts, "hostName" | "metadata" | "log" | "data"> & { identity: Identity },
  ): Recovery {
    const { hostName, metadata, log } = parts;
    const { hostId: self, privateKey } = identity;
    const sign = hostSigner(privateKey);
    const asker = new RecoveryAsker(links);
    const recovery = new Recovery({
      ...parts,
      self,
      asker,
      custody: new CustodyKeeper({ self, metadata, asker, sign, log }),
      nameOf: (host) => (host === self ? hostName : peers.nameOf(host)),
      claimants: (domain) => {
        const view = placements.view(domain);
        return view === undefined ? [] : [view.claim, ...view.others];
      },
      heardOf: (query) => {
        const claim = placements.find(query)?.claim;
        return claim === undefined ? undefined : { id: claim.domain, name: claim.name };
      },
    });
    placements.onChange((domain) => recovery.heard(domain));
    return recovery;
  }

  async start(network: Network): Promise<void> {
    await answerRecovery(network, this.#answers);
    this.#timer = setInterval(() => void this.#checkAll(), FENCE_CHECK_EVERY_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#checking.values());
  }

  get #answers(): RecoveryAnswers {
    return {
      custody: (domain) => this.#custody(domain),
      chain: (domain) => this.#parts.custody.chain(domain),
      signed: (peer, certificates) => this.#parts.custody.signed(peer, certificates),
      recover: async (domain) => {
        const found = await this.#parts.data().findAny(domain);
        // Whoever was asked in another's place does not ask a third.
        if (found === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query: domain });
        return this.#recoverHere(found, {});
      },
      yourTurn: async (peer, domain) => (await this.#turns(domain, { peer, mayAsk: false })).did,
    };
  }

  /** The domain's chain of custody, and what is wrong with it. Throws DOMAIN_UNKNOWN. */
  custody(query: string): Promise<CustodyReport> {
    return lookUpCustody({ ...this.#parts, find: (name) => this.#find(name) }, query);
  }

  /** Before the domain is handed on: its chain is known here up to its present generation, if anybody knows it. */
  async knowCustody(domain: string): Promise<void> {
    await this.#parts.custody.reach(domain);
  }

  /** Throws DOMAIN_UNKNOWN, DOMAIN_ELSEWHERE, PEER_UNREACHABLE, OWNERSHIP_UNCERTAIN, USAGE. */
  async recover(query: string, { adopt }: RecoverWish): Promise<RecoverReport> {
    const found = await this.#parts.data().findAny(query);
    return found === undefined ? this.#elsewhere(query, { adopt }) : this.#recoverHere(found, { adopt });
  }

  async #recoverHere(
    { id, name }: { id: string; name: string },
    { adopt }: { adopt?: RecoverWish["adopt"] | undefined },
  ): Promise<RecoverReport> {
    const first = await this.#parts.data().testify(id);
    const peer = this.#peerOf(id, first);
    const turns = await this.#turns(id, { peer, mayAsk: true, adopt });
    const { found, did, decision } = turns;
    return { domain: id, name, found, did, decision: decision.do, ...this.#where(turns) };
  }

  /** Nothing of it is here: the host that says it has it is asked to recover it. */
  async #elsewhere(
    query: string,
    { adopt }: { adopt?: RecoverWish["adopt"] | undefined },
  ): Promise<RecoverReport> {
    const { asker, nameOf } = this.#parts;
    const found = await this.#find(query);
    if (found?.owner === undefined || found.owner === this.#parts.self) {
      throw new NodeError("DOMAIN_UNKNOWN", { query });
    }
    const host = nameOf(found.owner);
    // The word is about what a host has of the domain, and is given there.
    if (adopt !== undefined) throw new NodeError("DOMAIN_ELSEWHERE", { domain: found.name, host });
    try {
      return await asker.recover(found.owner, found.id, AbortSignal.timeout(TURN_TIMEOUT_MS));
    } catch (error) {
      throw new NodeError("PEER_UNREACHABLE", { host, reason: (error as Error).message }, { cause: error });
    }
  }

  /** Somebody else says that it has a domain: if it is this host's under a lower generation, it is so no more. */
  heard(domain: string): void {
    if (this.#checking.has(domain)) return;
    const check = this.#check(domain)
      .then(() => this.#parts.custody.complete(domain))
      .catch((error: unknown) => this.#parts.log.warn("a claim could not be looked into", { domain, error }))
      .finally(() => this.#checking.delete(domain));
    this.#checking.set(domain, check);
  }

  async #checkAll(): Promise<void> {
    for (const { id } of await this.#parts.metadata.domains.list()) this.heard(id);
  }

  /** Gossip is advice: the claimant itself is asked, and has to prove it. */
  async #check(domain: string): Promise<void> {
    const { metadata, self, log, nameOf } = this.#parts;
    const record = await metadata.domains.get(domain);
    if (record === undefined || record.owner !== self) return;
    for (const { host, generation } of this.#parts.claimants(domain)) {
      if (host === self || generation < record.generation) continue;
      if (generation === record.generation) {
        log.error("another host claims the same generation of a domain; neither is touched", {
          domain,
          generation,
          host,
          hostName: nameOf(host),
        });
        continue;
      }
      await this.#turns(domain, { peer: host, mayAsk: false, only: "fence" });
    }
  }

  /** A domain that this host has anything of, or has heard of, and who has it by the newest word. */
  async #find(query: string): Promise<{ id: string; name: string; owner: string | undefined } | undefined> {
    const { metadata, claimants, heardOf } = this.#parts;
    const found = (await this.#parts.data().findAny(query)) ?? heardOf(query);
    if (found === undefined) return undefined;
    const { id, name } = found;
    const record = await metadata.domains.get(id);
    const [claim] = claimants(id);
    const isNewer = claim !== undefined && claim.generation > (record?.generation ?? 0);
    return { id, name, owner: isNewer ? claim.host : record?.owner };
  }

  async #custody(domain: string): Promise<Custody> {
    const data = this.#parts.data();
    const found = await data.findAny(domain);
    return { testimony: await data.testify(domain), description: found?.description };
  }

  async #turns(
    id: string,
    {
      peer,
      mayAsk,
      adopt,
      only,
    }: {
      peer: string | undefined;
      mayAsk: boolean;
      adopt?: RecoverWish["adopt"] | undefined;
      only?: Decision["do"];
    },
  ): Promise<{ did: string[]; found: string[]; decision: Decision; claim: Testimony["claim"] }> {
    const { self, nameOf, asker, hostName } = this.#parts;
    const data = this.#parts.data();
    const did: string[] = [];
    let found: string[] | undefined;
    for (let turn = 0; ; turn++) {
      const mine = await data.testify(id);
      const theirs = peer === undefined ? undefined : await this.#ask(peer, id);
      const heard = Math.max(0, ...this.#parts.claimants(id).map(({ generation }) => generation));
      const decision = decide({ mine, theirs: theirs?.testimony ?? "unreachable", heard });
      found ??= [
        `${hostName}: ${describe(mine, nameOf)}`,
        ...(peer === undefined
          ? []
          : [
              `${nameOf(peer)}: ${theirs === undefined ? "does not answer" : describe(theirs.testimony, nameOf)}`,
            ]),
      ];
      const end = { did, found, decision, claim: highest(mine, theirs?.testimony) };
      if (adopt !== undefined && decision.do !== "wait" && decision.do !== "conflict") {
        if (theirs === undefined || turn > 0) return end;
        throw new NodeError("USAGE", {
          reason: `${nameOf(peer!)} answers: \`recover\` without --adopt does what is right`,
        });
      }
      if ((decision.do === "wait" || decision.do === "conflict") && adopt !== undefined) {
        const word = { ...adopt, heard, rival: theirs?.testimony };
        did.push(`${hostName} ${(await data.adopt(id, word)).did}`);
        adopt = undefined;
        continue;
      }
      if (!("at" in decision) || turn >= TURNS_MAX) return end;
      if (only !== undefined && decision.do !== only) return end;
      if (decision.at === self) {
        const doubt = await this.#doubt(id, decision, mine);
        if (doubt !== undefined) {
          const because = `${nameOf(peer ?? self)} says that the domain is not ${hostName}'s any more, and is not believed: ${doubt}`;
          this.#parts.log.error("a claim of a domain of this host is not believed", {
            domain: id,
            by: peer,
            doubt,
          });
          return { did, found, decision: { do: "nothing", because }, claim: mine.claim };
        }
        const heard = { asked: mine, theirs: theirs?.testimony ?? mine, description: theirs?.description };
        const deed = theirs === undefined ? await data.carryOutAlone(id) : await data.carryOut(id, heard);
        if ("did" in deed) did.push(`${hostName} ${deed.did}`);
        if (decision.do === "finish-handover") return end;
        continue;
      }
      // Who was asked to do its own part does not ask back.
      if (!mayAsk || peer === undefined) return end;
      did.push(...(await asker.yourTurn(peer, id, AbortSignal.timeout(TURN_TIMEOUT_MS))));
      if (decision.do === "finish-handover") return end;
    }
  }

  /** Why what this host's journal gives it is not given up on another's word; undefined where it has proved that word. */
  async #doubt(
    domain: string,
    decision: Extract<Decision, { at: string }>,
    { claim }: Testimony,
  ): Promise<string | undefined> {
    const { self, custody } = this.#parts;
    if (claim?.owner !== self || (decision.do !== "fence" && decision.do !== "renounce")) return undefined;
    if (decision.do === "renounce") return "by its journal this host has it";
    const { owner, generation } = decision;
    const shown = await custody.shownBy(owner, domain);
    if (shown === undefined) return "it does not show its chain of custody";
    const known = await custody.chain(domain);
    const hadIt = await this.#hostsThatHad(domain);
    const facts = { domain, claim: { owner, generation }, self, held: claim.generation, known, hadIt };
    return doubtOf(shown, facts, custodyCrypto);
  }

  /** Who had the domain, or a copy of it, or was to get it from here. */
  async #hostsThatHad(domain: string): Promise<string[]> {
    const { metadata } = this.#parts;
    const holders = (await metadata.replicas.list(domain)).map(({ host }) => host);
    const hops = (await metadata.history.list(domain)).flatMap(({ from, to }) => [from, to]);
    const peers = (await metadata.journal.list()).flatMap(({ domain: of, record: entry }) => {
      if (of !== domain) return [];
      return "destination" in entry ? [entry.destination] : "source" in entry ? [entry.source] : [];
    });
    return [...holders, ...hops, ...peers];
  }

  async #ask(peer: string, domain: string): Promise<Custody | undefined> {
    try {
      return await this.#parts.asker.custody(peer, domain, AbortSignal.timeout(ASK_TIMEOUT_MS));
    } catch (error) {
      this.#parts.log.info("the other end does not answer", {
        peer,
        domain,
        reason: (error as Error).message,
      });
      return undefined;
    }
  }

  /** The other end: of a handover that is not over, else whoever has, or says to have, the domain. */
  #peerOf(domain: string, { outgoing, incoming, claim }: Testimony): string | undefined {
    const { self } = this.#parts;
    if (outgoing !== undefined && (outgoing.phase === "handed-over" || incoming === undefined))
      return outgoing.peer;
    if (incoming !== undefined) return incoming.peer;
    const rival = this.#parts.claimants(domain).find(({ host }) => host !== self);
    if (claim !== undefined && claim.owner !== self) {
      // Its own journal may be long out of date: whoever says to have it later knows more.
      return rival !== undefined && rival.generation > claim.generation ? rival.host : claim.owner;
    }
    return rival?.host;
  }

  #where({
    decision,
    claim,
  }: {
    decision: Decision;
    claim: Testimony["claim"];
  }): Pick<RecoverReport, "where" | "advice" | "adoption"> {
    const { nameOf, hostName, self } = this.#parts;
    const owner = claim?.owner;
    const where = owner === undefined ? "unknown" : owner === self ? hostName : nameOf(owner);
    switch (decision.do) {
      case "nothing":
        return { where, advice: decision.because };
      case "conflict":
        return {
          where: "conflict",
          advice: `generation ${decision.generation} is claimed by ${decision.hosts.map((host) => (host === self ? hostName : nameOf(host))).join(" and ")}, and nothing was touched; compare both by hand, then run \`recover --adopt --reason TEXT\` on the host whose side is right: the other one stops its own and keeps it aside`,
        };
      case "wait": {
        const { because, adoption } = decision;
        if ("refused" in adoption)
          return { where, advice: `${because}; it stays as it is here: ${adoption.refused}` };
        const loses =
          adoption.from === "replica"
            ? `, losing all that was written since generation ${adoption.replica}`
            : "";
        const advice = `${because}; it stays frozen here. If that host is fenced for certain, \`--adopt --reason TEXT\` runs it here from its ${adoption.from} as generation ${adoption.generation}${loses}`;
        return { where, advice, adoption: { from: adoption.from, generation: adoption.generation } };
      }
      case "finish-handover":
        return { where, advice: "the handover goes on by itself as soon as both hosts reach each other" };
      default:
        return { where, advice: `not finished: ${decision.do} is due on ${nameOf(decision.at)}` };
    }
  }
}

/** One host's word, for people. */
function describe(
  { claim, guest, outgoing, incoming, replica }: Testimony,
  nameOf: (host: string) => string,
): string {
  const owner =
    claim === undefined ? "no record" : `generation ${claim.generation} is ${nameOf(claim.owner)}'s`;
  return [
    owner,
    guest === "none" ? "no guest" : `guest ${guest}`,
    ...(outgoing === undefined ? [] : [`${outgoing.phase} to ${nameOf(outgoing.peer)}`]),
    ...(incoming === undefined ? [] : [`${incoming.phase} from ${nameOf(incoming.peer)}`]),
    ...(replica === undefined ? [] : [`replica of generation ${replica}`]),
  ].join(", ");
}
