/**
 * Questions between hosts on the control connection: one JSON request and one JSON answer per channel, both
 * bounded. Advice only (who is where, what would fit): nothing that gives a host the right to run a domain.
 */

import { z } from "zod";
import { HOSTS_PROTOCOL, NAME_LENGTH_MAX, PROTOCOL_VERSION, VBDS_MAX } from "../../protocol/limits.ts";
import type { DomainDescription } from "../../protocol/messages.ts";
import { PlacementRecord } from "../../storage/records.ts";
import type { Probe } from "../data/data-service.ts";
import { NodeError } from "../errors.ts";
import type { Channel, Connection, Network } from "../network/network.ts";

const ID = z.string().min(1).max(256);
const PLACEMENTS_MAX = 4096;

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

const Question = z.discriminatedUnion("ask", [
  z.strictObject({ ask: z.literal("facts") }),
  z.strictObject({ ask: z.literal("placements") }),
  z.strictObject({ ask: z.literal("announce"), placements: z.array(PlacementRecord).max(PLACEMENTS_MAX) }),
  z.strictObject({ ask: z.literal("probe"), domain: Description, generation: z.int().min(0) }),
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

export type HostAnswers = {
  facts(): Promise<HostFacts>;
  placements(): Promise<PlacementRecord[]>;
  announce(peer: string, placements: readonly PlacementRecord[]): Promise<void>;
  probe(peer: string, domain: DomainDescription, generation: number): Promise<Probe>;
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
      case "placements":
        return { answer: await answers.placements() };
      case "announce":
        await answers.announce(peer, question.placements);
        return { answer: null };
      case "probe":
        return { answer: await answers.probe(peer, question.domain, question.generation) };
    }
  } catch (error) {
    return { error: (error instanceof Error ? error.message : String(error)).slice(0, 4096) };
  }
}

/** One peer, asked over a connection that is kept while it works. */
export class HostAsker {
  readonly host: string;
  /** To be tried in this order, each with the host's id; others may come at any time. */
  addresses: readonly string[];
  readonly #network: Network;
  #connection: Promise<Connection> | undefined;

  constructor(network: Network, { host, addresses }: { host: string; addresses: readonly string[] }) {
    this.#network = network;
    this.host = host;
    this.addresses = addresses;
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

  async placements(signal: AbortSignal): Promise<PlacementRecord[]> {
    const answer = await this.#ask({ ask: "placements" }, signal);
    return z.array(PlacementRecord).max(PLACEMENTS_MAX).parse(answer);
  }

  async announce(placements: PlacementRecord[], signal: AbortSignal): Promise<void> {
    await this.#ask({ ask: "announce", placements }, signal);
  }

  async probe(domain: DomainDescription, generation: number, signal: AbortSignal): Promise<Probe> {
    const copy = { ...domain, vbds: domain.vbds.map((vbd) => ({ ...vbd })) };
    return ProbeAnswer.parse(await this.#ask({ ask: "probe", domain: copy, generation }, signal));
  }

  /** Round trip of the connection, milliseconds. */
  async ping(signal: AbortSignal): Promise<number> {
    return (await this.#connect(signal)).ping(signal);
  }

  async close(): Promise<void> {
    const connection = await this.#connection?.catch(() => undefined);
    await connection?.close();
  }

  async #ask(question: Question, signal: AbortSignal): Promise<unknown> {
    const connection = await this.#connect(signal);
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

  #connect(signal: AbortSignal): Promise<Connection> {
    this.#connection ??= this.#dialAny(signal).then(
      (connection) => {
        connection.onClose(() => {
          this.#connection = undefined;
        });
        return connection;
      },
      (error) => {
        this.#connection = undefined;
        throw error;
      },
    );
    return this.#connection;
  }

  /** A host that cannot be dialled, behind a NAT for instance, is asked over a connection that it has dialled. */
  async #dialAny(signal: AbortSignal): Promise<Connection> {
    let failure: unknown = new Error("no address of it is known");
    for (const address of this.addresses) {
      try {
        return await this.#network.dial(address, signal);
      } catch (error) {
        failure = error;
      }
    }
    const inbound = this.#network
      .connections()
      .find(({ peer, direction }) => peer === this.host && direction === "inbound");
    if (inbound !== undefined) return inbound;
    throw failure;
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
