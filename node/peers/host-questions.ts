/**
 * What hosts ask one another in advance: what would fit, where bulk bytes go. Advice only, nothing that gives a host
 * the right to run a domain.
 */

import { z } from "zod";
import { HOSTS_PROTOCOL, NAME_LENGTH_MAX, PROTOCOL_VERSION, VBDS_MAX } from "../../protocol/limits.ts";
import type { DomainDescription } from "../../protocol/messages.ts";
import type { Probe } from "../data/data-service.ts";
import { NodeError } from "../errors.ts";
import type { Links } from "../membership/links.ts";
import { NONCE_LENGTH } from "../network/dial-back.ts";
import type { Network } from "../network/network.ts";
import { answerOn, askHost, DomainDescribed, IdText } from "./question.ts";

const HostFacts = z.strictObject({
  host: IdText,
  hostName: z.string().min(1).max(NAME_LENGTH_MAX),
  version: z.string().max(64),
  protocolVersion: z.int().min(0),
  dataAddresses: z.array(z.string().max(512)).max(16),
  domains: z.int().min(0),
  freeBytes: z.number().min(0),
});
export type HostFacts = z.infer<typeof HostFacts>;

const DialBack = z.strictObject({
  ask: z.literal("dial-back"),
  /** Who is to dial, and whom. */
  from: IdText,
  to: IdText,
  /** On which of the two networks: `data` with what is to be presented there. */
  data: z.exactOptional(z.strictObject({ nonce: z.string().length(NONCE_LENGTH) })),
});
export type DialBack = z.infer<typeof DialBack>;

const Question = z.discriminatedUnion("ask", [
  z.strictObject({ ask: z.literal("facts") }),
  z.strictObject({
    ask: z.literal("probe"),
    domain: DomainDescribed,
    generation: z.int().min(0),
    bytesNeeded: z.int().min(0),
  }),
  DialBack,
]);
export type Question = z.infer<typeof Question>;

const ProbeAnswer = z.union([
  z.strictObject({ refusal: z.string().max(4096) }),
  z.strictObject({
    copies: z
      .array(
        z.discriminatedUnion("kind", [
          z.strictObject({ kind: z.literal("replica"), generation: z.int().min(0) }),
          z.strictObject({ kind: z.literal("unknown"), reason: z.string().max(4096) }),
          z.strictObject({ kind: z.literal("none") }),
        ]),
      )
      .max(VBDS_MAX),
  }),
]);

/** A domain that might come; `bytesNeeded` is what its vbds occupy where it is. */
export type Candidate = { domain: DomainDescription; generation: number; bytesNeeded: number };

export type HostAnswers = {
  facts(): Promise<HostFacts>;
  probe(peer: string, guest: Candidate): Promise<Probe>;
  dialBack(peer: string, wish: DialBack): Promise<void>;
};

/** Answers what other hosts ask. A question that is none gets an error, not a crash. */
export function answerQuestions(network: Network, answers: HostAnswers): Promise<void> {
  return answerOn(network, { protocol: HOSTS_PROTOCOL, question: Question }, async (peer, question) => {
    switch (question.ask) {
      case "facts":
        return answers.facts();
      case "probe":
        return answers.probe(peer, question);
      case "dial-back":
        return answers.dialBack(peer, question);
    }
  });
}

/** One peer, asked over the control connection that it shares with gossip. */
export class HostAsker {
  readonly host: string;
  readonly #links: Links;

  constructor(links: Links, host: string) {
    this.#links = links;
    this.host = host;
  }

  async facts(signal: AbortSignal): Promise<HostFacts> {
    const facts = HostFacts.parse(await this.#ask({ ask: "facts" }, signal));
    if (facts.host !== this.host) throw new Error(`${this.host} calls itself ${facts.host}`);
    if (facts.protocolVersion !== PROTOCOL_VERSION) {
      throw new NodeError("PEER_VERSION", {
        host: facts.hostName,
        ours: PROTOCOL_VERSION,
        theirs: facts.protocolVersion,
      });
    }
    return facts;
  }

  async probe({ domain, ...facts }: Candidate, signal: AbortSignal): Promise<Probe> {
    const copy = { ...domain, vbds: domain.vbds.map((vbd) => ({ ...vbd })) };
    return ProbeAnswer.parse(await this.#ask({ ask: "probe", domain: copy, ...facts }, signal));
  }

  /** Resolves when it was done. */
  async dialBack(wish: DialBack, signal: AbortSignal): Promise<void> {
    await this.#ask(wish, signal);
  }

  #ask(question: Question, signal: AbortSignal): Promise<unknown> {
    return askHost(this.#links, { host: this.host, protocol: HOSTS_PROTOCOL }, question, signal);
  }
}
