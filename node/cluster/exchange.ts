/**
 * Brings a set of self-proving things (`protocol/members/exchange.ts`) to the same state on all members: at every
 * connect, every 30 s with one member at random, and at once, by push, when something is new here.
 *
 * Nothing that a peer sends makes us hold more than one frame and what the topic itself keeps: ids are bounded by
 * the frame, items are given to the topic frame by frame, and a peer whose items are refused again and again is
 * cut off for this exchange.
 */

import {
  compareIds,
  decodeExchange,
  type ExchangeFrame,
  encodeExchange,
  ITEM_ID_SIZE,
  itemFrames,
  summaryOctets,
} from "../../protocol/members/exchange.ts";
import type { Log } from "../log.ts";
import type { Channel, Connection, Network } from "../network/network.ts";
import { sha256 } from "./signing.ts";

export type Topic = {
  readonly protocol: string;
  /** Undefined while there is nothing to exchange: no cluster. */
  set(): { ids(): string[]; get(id: string): Uint8Array | undefined } | undefined;
  /** Resolves when what is good is durable. */
  learn(items: readonly Uint8Array[], from: string): Promise<{ refused: number }>;
};

/** Of one exchange or push: more wrong items than this are no accident. */
const REFUSED_MAX = 100;
/** Of one peer: pushes that are read within a second. What comes above it is dropped, and repaired later. */
const PUSHES_PER_SECOND_MAX = 50;
const EXCHANGE_TIMEOUT_MS = 30_000;

export class Exchange {
  readonly #topic: Topic;
  readonly #log: Log;
  /** Pushes of each peer in the current second. */
  readonly #pushes = new Map<string, { second: number; count: number }>();

  constructor(topic: Topic, log: Log) {
    this.#topic = topic;
    this.#log = log;
  }

  async serve(network: Network): Promise<void> {
    await network.handle(this.#topic.protocol, (channel) => this.#answer(channel));
  }

  /** Compares with the peer of a connection; both have the same afterwards, but for what one of them refuses. */
  async run(connection: Connection): Promise<void> {
    const set = this.#topic.set();
    if (set === undefined) return;
    const signal = AbortSignal.timeout(EXCHANGE_TIMEOUT_MS);
    const channel = await connection.open(this.#topic.protocol, signal);
    try {
      await send(channel, { type: "summary", summary: summaryOf(set.ids()) }, signal);
      const frames = channel.frames(signal);
      const answer = await next(frames);
      if (answer.type === "ids") {
        const { weLack, theyLack } = compareIds(set.ids(), answer.ids);
        for (const frame of itemFrames(itemsOf(set, theyLack))) await send(channel, frame, signal);
        await send(channel, { type: "want", ids: weLack }, signal);
        await this.#learnUntilEnd(frames, connection.peer);
      }
      await channel.close(signal);
    } catch (error) {
      channel.abort(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }

  /** Tells the peer what is new. */
  async push(connection: Connection, items: readonly Uint8Array[]): Promise<void> {
    const signal = AbortSignal.timeout(EXCHANGE_TIMEOUT_MS);
    const channel = await connection.open(this.#topic.protocol, signal);
    for (const frame of itemFrames(items)) await send(channel, frame, signal);
    await channel.close(signal);
  }

  async #answer(channel: Channel): Promise<void> {
    const set = this.#topic.set();
    const signal = AbortSignal.timeout(EXCHANGE_TIMEOUT_MS);
    if (set === undefined) throw new Error("no cluster");
    let refused = 0;
    for await (const bytes of channel.frames(signal)) {
      const frame = decodeExchange(bytes);
      switch (frame.type) {
        case "summary": {
          const ids = set.ids();
          const isSame = summaryOf(ids).equals(frame.summary);
          await send(channel, isSame ? { type: "same" } : { type: "ids", ids }, signal);
          break;
        }
        case "items":
          if (this.#isFlood(channel.peer)) throw new Error("too many pushes");
          refused += (await this.#topic.learn(frame.items, channel.peer)).refused;
          if (refused > REFUSED_MAX) throw new Error(`${refused} items refused`);
          break;
        case "want":
          for (const each of itemFrames(itemsOf(set, frame.ids))) await send(channel, each, signal);
          await send(channel, { type: "end" }, signal);
          break;
        default:
          throw new Error(`unexpected ${frame.type}`);
      }
    }
    await channel.close(signal);
  }

  async #learnUntilEnd(frames: AsyncGenerator<Uint8Array>, from: string): Promise<void> {
    let refused = 0;
    for (;;) {
      const frame = await next(frames);
      if (frame.type === "end") return;
      if (frame.type !== "items") throw new Error(`unexpected ${frame.type}`);
      refused += (await this.#topic.learn(frame.items, from)).refused;
      if (refused > REFUSED_MAX) throw new Error(`${refused} items refused`);
    }
  }

  #isFlood(peer: string): boolean {
    const second = Math.floor(performance.now() / 1000);
    const seen = this.#pushes.get(peer);
    if (seen?.second !== second) {
      this.#pushes.set(peer, { second, count: 1 });
      return false;
    }
    seen.count += 1;
    if (seen.count !== PUSHES_PER_SECOND_MAX + 1) return seen.count > PUSHES_PER_SECOND_MAX;
    this.#log.warn("a member pushes too much", { peer, protocol: this.#topic.protocol });
    return true;
  }
}

async function send(channel: Channel, frame: ExchangeFrame, signal: AbortSignal): Promise<void> {
  await channel.send(encodeExchange(frame), signal);
}

async function next(frames: AsyncGenerator<Uint8Array>): Promise<ExchangeFrame> {
  const { value, done } = await frames.next();
  if (done === true) throw new Error("the peer ended the exchange");
  return decodeExchange(value);
}

function* itemsOf(
  set: { get(id: string): Uint8Array | undefined },
  ids: readonly string[],
): Generator<Uint8Array> {
  for (const id of new Set(ids)) {
    const item = set.get(id);
    if (item !== undefined) yield item;
  }
}

function summaryOf(ids: readonly string[]): Buffer {
  return sha256(summaryOctets(ids.filter((id) => id.length === 2 * ITEM_ID_SIZE)));
}
