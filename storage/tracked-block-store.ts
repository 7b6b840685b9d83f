/**
 * A store that knows what was written to it: for good, in the generation's log, and per round, for the copier.
 *
 *    write ──▶ log.cover ──▶ store.write ──▶ mark in the round ──▶ answered
 *              durable intent   lands           (also if it failed)
 *
 * Mark twice: durably before the write, in memory after it.
 *
 * The durable mark is for a crash between the two. The block then counts as written even if its bytes never
 * arrived, which costs one block; the other way round it would count as unchanged, and an incremental migration
 * would lose it.
 *
 * The mark in memory is for the copier, which clears a block's bit before it reads the block. Set any earlier,
 * the bit can be cleared and the old bytes read while the write is still on its way, and the destination never
 * sees the new ones. It is set before the write is answered, because a fence that has seen every answer must
 * have seen every mark.
 */

import { BlockBitmap } from "../protocol/block-bitmap.ts";
import { assert } from "../protocol/errors.ts";
import { blockCountOf } from "../protocol/units.ts";
import { type BlockStore, blocksTouched, type Completion, checkRange } from "./block-store.ts";
import type { DirtyLog } from "./dirty-log.ts";
import { StorageError } from "./errors.ts";

type IntentLog = Pick<DirtyLog, "blockCount" | "written" | "cover" | "flush" | "close">;

export class TrackedBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #store: BlockStore;
  readonly #log: IntentLog;
  /** What was written since the round began; undefined while nobody copies. */
  #round: BlockBitmap | undefined;
  #fenced = false;
  #closing: Promise<void> | undefined;
  /** Writes that were accepted and have not landed. */
  #inFlight = 0;
  #drained: (() => void)[] = [];

  /** Owns both: closing it closes them. The log is closed as clean once no write is under way. */
  constructor(parts: { store: BlockStore; log: IntentLog }) {
    assert(parts.log.blockCount === blockCountOf(parts.store.sizeBytes), "a log of another size");
    this.#store = parts.store;
    this.#log = parts.log;
    this.sizeBytes = parts.store.sizeBytes;
  }

  /** Every block written in the open generation, also by writes that are still on their way. To be read only. */
  get written(): BlockBitmap {
    return this.#log.written;
  }

  /** Begins to collect for a copier. Writes that are under way count in the round in which they land. */
  startRound(): void {
    this.#round = new BlockBitmap(this.#log.blockCount);
  }

  /**
   * What was written since the last call, which the copier may now read; the next round has begun with it.
   * A write that is under way lands after this and is in the next round.
   */
  takeRound(): BlockBitmap {
    const round = this.#round;
    assert(round !== undefined, "no round was started");
    this.#round = new BlockBitmap(this.#log.blockCount);
    return round;
  }

  stopRound(): void {
    this.#round = undefined;
  }

  /** No write is accepted any more (`STORAGE_FENCED`). Completes when all that were have landed and are marked. */
  fence(): Promise<void> {
    this.#fenced = true;
    return this.#drain();
  }

  unfence(): void {
    this.#fenced = false;
  }

  read(offset: number, target: Uint8Array): Completion {
    this.#checkOpen("read");
    return this.#store.read(offset, target);
  }

  write(offset: number, data: Uint8Array): Completion {
    return this.#perform("write", offset, data.length, () => this.#store.write(offset, data));
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    return this.#perform("writeZeroes", offset, length, () =>
      this.#store.writeZeroes(offset, length, options),
    );
  }

  /** Counts as a write: the contents may change. */
  trim(offset: number, length: number): Completion {
    return this.#perform("trim", offset, length, () => this.#store.trim(offset, length));
  }

  /** A flush is answered when the data is durable and the log knows of it without its activity. */
  flush(): Completion {
    this.#checkOpen("flush");
    const data = this.#store.flush();
    if (data === undefined) return this.#log.flush();
    return this.#flushBoth(data);
  }

  extents(offset: number, length: number): ReturnType<BlockStore["extents"]> {
    this.#checkOpen("extents");
    return this.#store.extents(offset, length);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#drain();
    try {
      await this.#store.close();
    } finally {
      await this.#log.close({ clean: true });
    }
  }

  /** Completes in the call, without a promise, when the log and the store do. */
  #perform(operation: string, offset: number, length: number, issue: () => Completion): Completion {
    this.#checkOpen(operation);
    // Before the log: it would assert what a client merely got wrong.
    checkRange(offset, length, this.sizeBytes);
    if (this.#fenced) throw new StorageError({ code: "STORAGE_FENCED", operation });
    const { start, count } = blocksTouched(offset, length);
    const covered = this.#log.cover(start, count);
    if (covered !== undefined) return this.#performLater(covered, start, count, issue);

    let landed: Completion;
    try {
      landed = issue();
    } catch (error) {
      // Also when the write failed: it may have changed some of the bytes.
      this.#mark(start, count);
      throw error;
    }
    if (landed === undefined) this.#mark(start, count);
    else return this.#performLater(undefined, start, count, () => landed);
  }

  async #performLater(
    covered: Promise<void> | undefined,
    start: number,
    count: number,
    issue: () => Completion,
  ): Promise<void> {
    this.#inFlight++;
    try {
      // When this fails the write is not issued, and a mark costs one block.
      await covered;
      await issue();
    } finally {
      this.#mark(start, count);
      this.#inFlight--;
      if (this.#inFlight === 0) for (const drained of this.#drained.splice(0)) drained();
    }
  }

  #mark(start: number, count: number): void {
    if (this.#round === undefined || count === 0) return;
    // Most writes are of one block, and this is the hot path.
    if (count === 1) this.#round.add(start);
    else this.#round.addRange(start, count);
  }

  async #flushBoth(data: Promise<void>): Promise<void> {
    // At once, as neither needs the other: what the log says beyond the data costs a block, never a write.
    const [dataFlushed, logFlushed] = await Promise.allSettled([data, (async () => this.#log.flush())()]);
    if (dataFlushed.status === "rejected") throw dataFlushed.reason;
    if (logFlushed.status === "rejected") throw logFlushed.reason;
  }

  #drain(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  #checkOpen(operation: string): void {
    if (this.#closing !== undefined) throw new StorageError({ code: "STORAGE_CLOSED", operation });
  }
}
