/**
 * Questions between hosts on the control connection: one JSON request and one JSON answer per channel, both
 * bounded. Advice only (what would fit, where bulk bytes go): nothing that gives a host the right to run a domain.
 */

import { z } from "zod";
import { HOSTS_PROTOCOL, NAME_LENGTH_MAX, PROTOCOL_VERSION, VBDS_MAX } from "../../protocol/limits.ts";
import type { DomainDescription } from "../../protocol/messages.ts";
import type { Probe } from "../data/data-service.ts";
import { NodeError } from "../errors.ts";
import type { Links } from "../membership/links.ts";
import { NONCE_LENGTH } from "../network/dial-back.ts";
import type { Channel, Network } from "../network/network.ts";

const ID = z.string().min(1).max(256);

const Description = z.strictObject({
  id: ID,
  name: z.string().min(1).max(NAME_LENGTH_MAX),
  hypervisor: z.string().min(1).max(64),
  memoryBytes: z.int().min(0),
  config: z.string().max(1 << 20),
  vbds: z
    .array(z.strictObject({ name: z.string().min(1).max(NAME_LENGTH_MAX), sizeBytes: z.int().min(0) }))
    .max(VBDS_MAX),
});

const HostFacts = z.strictObject({
  host: ID,
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
  from: ID,
  to: ID,
  /** On which of the two networks: `data` with what is to be presented there. */
  data: z.exactOptional(z.strictObject({ nonce: z.string().length(NONCE_LENGTH) })),
});
export type DialBack = z.infer<typeof DialBack>;

const Question = z.discriminatedUnion("ask", [
  z.strictObject({ ask: z.literal("facts") }),
  z.strictObject({
    ask: z.literal("probe"),
    domain: Description,
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

const Answer = z.strictObject({ answer: z.unknown() }).or(z.strictObject({ error: z.string().max(4096) }));

/** A domain that might come; `bytesNeeded` is what its vbds occupy where it is. */
export type Candidate = { domain: DomainDescription; generation: number; bytesNeeded: number };

export type HostAnswers = {
  facts(): Promise<HostFacts>;
  probe(peer: string, guest: Candidate): Promise<Probe>;
  dialBack(peer: string, wish: DialBack): Promise<void>;
};

/** Answers what other hosts ask. A question that is none gets an error, not a crash. */
export async function answerQuestions(network: Network, answers: HostAnswers): Promise<void> {
  await network.handle(HOSTS_PROTOCOL, async (channel) => {
    for await (const frame of channel.frames()) {
      await channel.send(encode(await reply(channel.peer, frame, answers)));
    }
    await channel.close();
  });
}

async function reply(peer: string, frame: Uint8Array, answers: HostAnswers): Promise<unknown> {
  try {
    const question = Question.parse(decode(frame));
    switch (question.ask) {
      case "facts":
        return { answer: await answers.facts() };
      case "probe":
        return { answer: await answers.probe(peer, question) };
      case "dial-back":
        await answers.dialBack(peer, question);
        return { answer: true };
    }
  } catch (error) {
    return { error: (error instanceof Error ? error.message : String(error)).slice(0, 4096) };
  }
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

  async #ask(question: Question, signal: AbortSignal): Promise<unknown> {
    const connection = await this.#links.connect(this.host, HOSTS_PROTOCOL, signal);
    const channel = await connection.open(HOSTS_PROTOCOL, signal);
    try {
      await channel.send(encode(question), signal);
      const answer = Answer.parse(decode(await firstFrame(channel, signal)));
      if ("error" in answer) throw new Error(answer.error);
      return answer.answer;
    } finally {
      await channel.close(signal).catch(() => undefined);
    }
  }
}

async function firstFrame(channel: Channel, signal: AbortSignal): Promise<Uint8Array> {
  for await (const frame of channel.frames(signal)) return frame;
  throw new Error("the peer gave no answer");
}

function encode(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

function decode(frame: Uint8Array): unknown {
  return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(frame));
}
