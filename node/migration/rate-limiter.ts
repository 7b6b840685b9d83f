/**
 * The operator's bandwidth limit for one migration, blocks and memory together: a token bucket that holds at
 * most a tenth of a second, so that the limit is one also over short times.
 */

import type { Clock } from "../clock.ts";

const BURST_MS = 100;

export class RateLimiter {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number | undefined;
  #owedUntilMs = 0;

  /** Without `bytesPerSecond` nothing is ever delayed. */
  constructor(clock: Clock, { bytesPerSecond }: { bytesPerSecond: number | undefined }) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Resolves when `bytes` more may be sent; nothing to wait for without a limit. */
  take(bytes: number): Promise<void> | undefined {
    if (this.#bytesPerSecond === undefined) return undefined;
    const now = this.#clock.nowMs();
    this.#owedUntilMs = Math.max(this.#owedUntilMs, now - BURST_MS) + (bytes * 1000) / this.#bytesPerSecond;
    const waitMs = this.#owedUntilMs - now;
    if (waitMs <= 0) return undefined;
    return new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}
