/**
 * Slows a domain's writes while it migrates, when it writes faster than they can be sent (PROTOCOL.md §9.3). The
 * domain keeps a stated share of the rate that it had before, over all its vbds together.
 *
 * What waits is the answer, not the write: it has landed and is marked, so neither a fence nor a crash finds
 * writes here that exist nowhere else.
 */

import type { BlockStore, Completion } from "../../storage/block-store.ts";
import type { Clock } from "../clock.ts";

/** A domain may be ahead of its rate by this much: writes come in bursts. */
const BURST_MS = 100;

export class WriteThrottle {
  readonly #clock: Clock;
  #countedBytes = 0;
  #countingSinceMs: number;
  /** Of the domain when nothing slowed it. */
  #bytesPerMs = 0;
  #limit: { bytesPerMs: number; owedUntilMs: number } | undefined;
  readonly #waiting = new Map<NodeJS.Timeout, () => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#countingSinceMs = clock.nowMs();
  }

  /** The limit in bytes per second; undefined while nothing is slowed. */
  get bytesPerSecond(): number | undefined {
    return this.#limit === undefined ? undefined : this.#limit.bytesPerMs * 1000;
  }

  /** The rate from which a share is taken is that from now on. */
  startMeasuring(): void {
    this.#countedBytes = 0;
    this.#countingSinceMs = this.#clock.nowMs();
  }

  /** `share`: above 0, at most 1, of the rate until the first limit. */
  limitTo(share: number): void {
    const nowMs = this.#clock.nowMs();
    if (this.#limit === undefined) {
      this.#bytesPerMs = this.#countedBytes / Math.max(1, nowMs - this.#countingSinceMs);
    }
    // A domain that has written nothing has no rate that a share could be of.
    if (this.#bytesPerMs === 0) return;
    this.#limit = { owedUntilMs: nowMs, ...this.#limit, bytesPerMs: share * this.#bytesPerMs };
  }

  /** Nothing waits any more. */
  lift(): void {
    this.#limit = undefined;
    for (const [timer, resolve] of this.#waiting) {
      clearTimeout(timer);
      resolve();
    }
    this.#waiting.clear();
  }

  /** To be waited for before a write of so many bytes is answered; undefined when there is nothing to wait for. */
  written(bytes: number): Promise<void> | undefined {
    this.#countedBytes += bytes;
    const limit = this.#limit;
    if (limit === undefined) return undefined;
    const nowMs = this.#clock.nowMs();
    // What was written before has to be paid for first; this write is the next one's debt.
    const paidAtMs = Math.max(limit.owedUntilMs, nowMs - BURST_MS);
    limit.owedUntilMs = paidAtMs + bytes / limit.bytesPerMs;
    const waitMs = paidAtMs - nowMs;
    if (waitMs <= 0) return undefined;
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(timer);
        resolve();
      }, waitMs);
      this.#waiting.set(timer, resolve);
    });
  }
}

export class ThrottledStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #store: BlockStore;
  readonly #throttle: WriteThrottle;

  constructor(store: BlockStore, throttle: WriteThrottle) {
    this.sizeBytes = store.sizeBytes;
    this.#store = store;
    this.#throttle = throttle;
  }

  read(offset: number, target: Uint8Array): Completion {
    return this.#store.read(offset, target);
  }

  write(offset: number, data: Uint8Array): Completion {
    return this.#answered(this.#store.write(offset, data), data.length);
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    return this.#answered(this.#store.writeZeroes(offset, length, options), length);
  }

  trim(offset: number, length: number): Completion {
    return this.#answered(this.#store.trim(offset, length), length);
  }

  flush(): Completion {
    return this.#store.flush();
  }

  extents(offset: number, length: number): ReturnType<BlockStore["extents"]> {
    return this.#store.extents(offset, length);
  }

  close(): Promise<void> {
    this.#throttle.lift();
    return this.#store.close();
  }

  #answered(landed: Completion, bytes: number): Completion {
    const wait = this.#throttle.written(bytes);
    if (wait === undefined) return landed;
    return Promise.all([landed, wait]).then(() => undefined);
  }
}
