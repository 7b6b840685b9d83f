/**
 * Flushes the vbds ahead of a freeze: the hypervisor flushes a domain that it has frozen, and the guest waits for all
 * that is left to flush then. What cannot be flushed now fails again at the fence, and is reported there.
 */

import { wait } from "./stall-watch.ts";

const FLUSH_EVERY_MS = 5;

export class FlushAhead {
  readonly #flush: () => Promise<void>;
  #flushing: Promise<void> | undefined;
  #hasFailed = false;

  constructor(flush: () => Promise<void>) {
    this.#flush = flush;
  }

  /** With every pass over memory. One at a time. */
  once(): Promise<void> {
    if (this.#hasFailed) return Promise.resolve();
    this.#flushing ??= this.#flush().then(
      () => void (this.#flushing = undefined),
      () => void (this.#hasFailed = true),
    );
    return this.#flushing;
  }

  /** Again and again, until the domain is frozen or will not be. */
  async until(frozen: Promise<unknown>, signal: AbortSignal): Promise<void> {
    let isOver = false;
    const over = (): void => void (isOver = true);
    frozen.then(over, over);
    while (!isOver && !this.#hasFailed && !signal.aborted) {
      await this.once();
      await wait(FLUSH_EVERY_MS, signal);
    }
  }
}
