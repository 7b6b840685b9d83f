/**
 * What a session still has to send on its main channel: one item at a time, in order, except that urgent
 * ones (blocks that a guest waits for) go first. An item is made when its turn comes, so that a block is
 * read when it can be sent and memory holds one item, not the queue.
 */

import type { Channel } from "../network/network.ts";
import type { RateLimiter } from "./rate-limiter.ts";

type Frames = readonly (Uint8Array | readonly Uint8Array[])[];
export type OutboxItem = () => Frames | Promise<Frames>;

export class Outbox {
  readonly #channel: Channel;
  readonly #urgent: OutboxItem[] = [];
  readonly #normal: OutboxItem[] = [];
  readonly #onError: (error: unknown) => void;
  readonly #limiter: RateLimiter | undefined;
  #pumping = false;
  #closed = false;
  #idle: (() => void) | undefined;

  constructor(
    channel: Channel,
    { onError, limiter }: { onError: (error: unknown) => void; limiter?: RateLimiter | undefined },
  ) {
    this.#channel = channel;
    this.#onError = onError;
    this.#limiter = limiter;
  }

  push(item: OutboxItem, { urgent = false }: { urgent?: boolean } = {}): void {
    if (this.#closed) return;
    (urgent ? this.#urgent : this.#normal).push(item);
    if (!this.#pumping) void this.#pump();
  }

  /** Resolves when everything was given to the channel, or the outbox was closed. */
  async drained(): Promise<void> {
    if (!this.#pumping) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }

  /** Forgets what was not sent. */
  close(): void {
    this.#closed = true;
    this.#urgent.length = 0;
    this.#normal.length = 0;
  }

  async #pump(): Promise<void> {
    this.#pumping = true;
    try {
      for (let item = this.#next(); item !== undefined; item = this.#next()) {
        for (const frame of await item()) {
          const wait = this.#limiter?.take(lengthOf(frame));
          if (wait !== undefined) await wait;
          await this.#channel.send(frame);
        }
      }
    } catch (error) {
      if (!this.#closed) this.#onError(error);
      this.close();
    } finally {
      this.#pumping = false;
      this.#idle?.();
      this.#idle = undefined;
    }
  }

  #next(): OutboxItem | undefined {
    return this.#urgent.shift() ?? this.#normal.shift();
  }
}

export function lengthOf(frame: Uint8Array | readonly Uint8Array[]): number {
  return frame instanceof Uint8Array ? frame.length : frame.reduce((sum, part) => sum + part.length, 0);
}
