/**
 * Pre-copy of a running guest's memory: passes over what changed, each smaller than the last, until the guest
 * is frozen and the rest, the tail, goes out with an end mark.
 *
 *   passes ──freeze──▶ tail ──▶ ended ──thaw──▶ passes
 *
 * Which pages may have changed is said by the dirty log that the guest and its host keep; what did change is
 * found by comparison with a copy of what was sent. A page's log byte is cleared before the page is read.
 */

import { setImmediate as nextTurn } from "node:timers/promises";
import type { GuestMachine } from "./guest-machine.ts";
import { ALWAYS_DIRTY_BYTES, DIRTY_LOG, PAGE_BYTES } from "./layout.ts";
import { isLogPage, MemoryEncoder } from "./memory-stream.ts";

export type Round = { round: number; remainingBytes: number; converged: boolean };

export type OutgoingOptions = {
  machine: GuestMachine;
  /** Resolves when the reader has room for more. Rejects when it is gone. */
  send: (bytes: Buffer) => Promise<void>;
  onRound: (round: Round) => void;
  /** The tail and its end mark were handed to `send`. */
  onEnded: (ended: { totalBytes: number }) => void;
};

const CHUNK_BYTES = 256 * 1024;
/** Pages that go out in a few milliseconds: fewer are not worth a further pass. */
const GOAL_PAGES = 256;
/** Passes after which whatever is left is left. */
const ROUNDS_MAX = 30;
/** A pass that leaves more than this part of what the one before left does not get anywhere. */
const SHRINK_RATIO = 0.9;
/** Passes while all is nearly said: they keep the tail small and should not cost the guest its core. */
const CONVERGED_PAUSE_MS = 50;
/** Hashing in slices of about a millisecond. */
const SETTLE_PAGES = 256;

export class OutgoingMigration {
  readonly #options: OutgoingOptions;
  readonly #encoder: MemoryEncoder;
  #round = 0;
  #remainingPages = Number.POSITIVE_INFINITY;
  #frozen = false;
  #cancelled = false;
  #work: Promise<void> = Promise.resolve();
  /** The end of the pass under way, and then the tail. */
  #finishing: Promise<void> = Promise.resolve();
  #unpause: (() => void) | undefined;

  constructor(options: OutgoingOptions) {
    this.#options = options;
    this.#encoder = new MemoryEncoder(options.machine.memory, { chunkBytes: CHUNK_BYTES });
    // The receiver has nothing: the first pass looks at every page.
    const { memory, pages } = options.machine;
    memory.fill(1, DIRTY_LOG, DIRTY_LOG + pages);
  }

  get frozen(): boolean {
    return this.#frozen;
  }

  /** Makes passes until `freeze` or `cancel`. Rejects when the reader is gone. */
  run(): Promise<void> {
    this.#work = this.#passes();
    return this.#work;
  }

  /** The guest stands still: ends the pass under way, sends the tail and the end mark. */
  finish(): Promise<void> {
    this.#frozen = true;
    this.#unpause?.();
    this.#finishing = this.#finish();
    return this.#finishing;
  }

  /** After `finish`: resolves when the tail is out, and `run` may be called again. */
  async thaw(): Promise<void> {
    await this.#finishing;
    this.#frozen = false;
  }

  cancel(): void {
    this.#cancelled = true;
    this.#unpause?.();
  }

  async #finish(): Promise<void> {
    await this.#work;
    if (this.#cancelled) return;
    this.#work = this.#tail();
    await this.#work;
  }

  async #passes(): Promise<void> {
    while (!this.#frozen && !this.#cancelled) {
      await this.#pass();
      if (this.#frozen || this.#cancelled) return;
      const converged = this.#judge();
      if (converged) await this.#pause();
    }
  }

  async #pass(): Promise<void> {
    const encoder = this.#encoder;
    for (const page of this.#dirtyPages()) {
      if (encoder.isFull) {
        // The page's log byte is cleared already: set again, should the pass end here.
        this.#log(page, 1);
        encoder.settle(SETTLE_PAGES);
        await this.#send();
        if (this.#frozen || this.#cancelled) return;
        this.#log(page, 0);
      }
      encoder.page(page);
    }
    while (!encoder.settle(SETTLE_PAGES)) {
      await nextTurn();
      if (this.#frozen || this.#cancelled) return;
    }
    encoder.round(++this.#round);
    await this.#send();
  }

  async #tail(): Promise<void> {
    const encoder = this.#encoder;
    const parts: Buffer[] = [];
    for (const page of this.#dirtyPages()) {
      if (encoder.isFull) parts.push(encoder.take());
      encoder.page(page);
    }
    encoder.end();
    parts.push(encoder.take());
    const { totalBytes } = encoder;
    for (const part of parts) await this.#options.send(part);
    this.#options.onEnded({ totalBytes });
  }

  async #send(): Promise<void> {
    await this.#options.send(this.#encoder.take());
    // The guest's turn, even where the reader takes everything at once.
    await nextTurn();
  }

  /** Each page that may have changed, its log byte cleared before it is given out. */
  *#dirtyPages(): Generator<number> {
    const { memory, pages } = this.#options.machine;
    for (let page = 0; page < ALWAYS_DIRTY_BYTES / PAGE_BYTES; page++) {
      this.#log(page, 0);
      yield page;
    }
    let from = DIRTY_LOG;
    for (;;) {
      const at = memory.indexOf(1, from);
      if (at < 0 || at >= DIRTY_LOG + pages) return;
      const page = at - DIRTY_LOG;
      from = at + 1;
      this.#log(page, 0);
      if (!isLogPage(page, pages)) yield page;
    }
  }

  #log(page: number, value: number): void {
    this.#options.machine.memory[DIRTY_LOG + page] = value;
  }

  #judge(): boolean {
    const before = this.#remainingPages;
    const { memory, pages } = this.#options.machine;
    let remaining = 0;
    for (const byte of memory.subarray(DIRTY_LOG, DIRTY_LOG + pages)) remaining += byte;
    this.#remainingPages = remaining;
    const stuck = this.#round > 2 && remaining > before * SHRINK_RATIO;
    const converged = remaining <= GOAL_PAGES || stuck || this.#round >= ROUNDS_MAX;
    this.#options.onRound({ round: this.#round, remainingBytes: remaining * PAGE_BYTES, converged });
    return converged;
  }

  async #pause(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, CONVERGED_PAUSE_MS);
    this.#unpause = resolve;
    await promise;
    this.#unpause = undefined;
    clearTimeout(timer);
  }
}
