/**
 * The hypervisor's live stream on its way out: cut into chunks, kept until the destination's hypervisor has
 * taken them, sent again from there after a lost link. At most `retainedBytesMax` are kept; then the
 * hypervisor waits, and the guest runs on.
 */

import { MEMORY_CHUNK_SIZE_MAX } from "../../protocol/limits.ts";
import type { OutgoingMemory } from "../hypervisor/hypervisor.ts";
import type { Channel } from "../network/network.ts";
import type { RateLimiter } from "./rate-limiter.ts";
import { codec } from "./session.ts";
import { wait } from "./stall-watch.ts";

/** A few round trips at 10 Gbit/s and 10 ms; also what a lost link costs to send again. */
const RETAINED_BYTES_MAX = 16 << 20;

/**
 * What may be on its way ahead of a freeze: so much as the way takes within this time. With less a guest could write
 * faster than its stream goes from one end's acknowledgement to the next.
 */
const NARROW_MS = 20;
const NARROW_BYTES_MIN = 1 << 20;
/** As good as nothing. */
const DRAINED_BYTES = 128 << 10;
/** Over which the way's rate is measured. */
const RATE_MS = 250;
/** A guest that writes faster than the link takes it is frozen all the same. */
const DRAIN_PATIENCE_MS = 1_000;

export type MemoryRelayHooks = { onLost: (error: unknown) => void; limiter: RateLimiter };

type Chunk = { offset: number; data: Uint8Array };

export class MemoryRelay {
  readonly #source: OutgoingMemory;
  readonly #onLost: (error: unknown) => void;
  readonly #limiter: RateLimiter;
  readonly #retained: Chunk[] = [];
  #retainedBytes = 0;
  /** So much may be kept: then the hypervisor waits. */
  #window = RETAINED_BYTES_MAX;
  /** How fast the destination's hypervisor took what there was, the best of a few times. */
  #rate = { sinceMs: 0, bytes: 0, bytesPerMs: 0 };
  /** Offset after the last byte taken from the hypervisor. */
  #produced = 0;
  /** Index into `#retained` of the next chunk to send on the current channel. */
  #next = 0;
  #channel: Channel | undefined;
  #stopped = false;
  // Producer and sender wait for the same thing: that something changed. Each looks again.
  readonly #waiters: (() => void)[] = [];

  constructor(source: OutgoingMemory, hooks: MemoryRelayHooks) {
    this.#source = source;
    this.#onLost = hooks.onLost;
    this.#limiter = hooks.limiter;
  }

  /** Takes the hypervisor's bytes until its stream ends. Rejects when the stream fails. */
  async produce(): Promise<void> {
    for await (const bytes of this.#source.stream) {
      for (let from = 0; from < bytes.length; from += MEMORY_CHUNK_SIZE_MAX) {
        const data = bytes.subarray(from, from + MEMORY_CHUNK_SIZE_MAX);
        this.#retained.push({ offset: this.#produced, data });
        this.#produced += data.length;
        this.#retainedBytes += data.length;
        this.#wakeUp();
        while (this.#retainedBytes >= this.#window && !this.#stopped) await this.#change();
      }
      if (this.#stopped) return;
    }
  }

  /** Sends on `channel` from `offset` on, until the channel is lost or another one takes over. */
  async sendOn(channel: Channel, offset: number): Promise<void> {
    this.#channel = channel;
    this.#next = 0;
    this.forget(offset);
    try {
      while (this.#channel === channel && !this.#stopped) {
        const chunk = this.#retained[this.#next];
        if (chunk === undefined) {
          await this.#change();
          continue;
        }
        this.#next += 1;
        const wait = this.#limiter.take(chunk.data.length);
        if (wait !== undefined) await wait;
        for (const frame of codec.encode({ type: "memory", ...chunk })) await channel.send(frame);
      }
    } catch (error) {
      if (this.#channel === channel && !this.#stopped) this.#onLost(error);
    }
  }

  /**
   * From now on no more is on its way than is gone within `NARROW_MS`: it stands before the memory's tail, and a frozen
   * domain waits for it. The hypervisor feels it, and sees how fast its stream really is. Resolves when next to nothing
   * is on its way, when the relay was stopped, or after `DRAIN_PATIENCE_MS`.
   */
  async narrow(signal: AbortSignal): Promise<void> {
    const bytes = Math.max(NARROW_BYTES_MIN, NARROW_MS * this.#rate.bytesPerMs);
    this.#window = Math.min(RETAINED_BYTES_MAX, bytes);
    const drain = async (): Promise<void> => {
      while (this.#retainedBytes > DRAINED_BYTES && !this.#stopped) await this.#change();
    };
    await Promise.race([drain(), wait(DRAIN_PATIENCE_MS, signal)]);
  }

  /** As before `narrow`: the domain runs on, and its stream may take what the way can. */
  widen(): void {
    this.#window = RETAINED_BYTES_MAX;
    this.#wakeUp();
  }

  /** The destination's hypervisor took everything before `offset`. */
  forget(offset: number): void {
    this.#measure(offset);
    let chunk = this.#retained[0];
    while (chunk !== undefined && chunk.offset < offset) {
      const { data } = chunk;
      if (chunk.offset + data.length > offset) {
        // Taken in part: the rest is what a reconnect has to begin with.
        const taken = offset - chunk.offset;
        if (this.#next > 0) break;
        this.#retained[0] = { offset, data: data.subarray(taken) };
        this.#retainedBytes -= taken;
        break;
      }
      this.#retained.shift();
      this.#next = Math.max(0, this.#next - 1);
      this.#retainedBytes -= data.length;
      chunk = this.#retained[0];
    }
    this.#wakeUp();
  }

  stop(): void {
    this.#stopped = true;
    this.#channel = undefined;
    this.#wakeUp();
  }

  #measure(offset: number): void {
    const nowMs = performance.now();
    const { sinceMs, bytes, bytesPerMs } = this.#rate;
    if (nowMs - sinceMs < RATE_MS) return;
    const rate = sinceMs === 0 ? 0 : (offset - bytes) / (nowMs - sinceMs);
    // While nothing is sent it is not the way that is slow: an older figure fades.
    this.#rate = { sinceMs: nowMs, bytes: offset, bytesPerMs: Math.max(rate, bytesPerMs / 2) };
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  #wakeUp(): void {
    for (const resolve of this.#waiters.splice(0)) resolve();
  }
}
