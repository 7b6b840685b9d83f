/**
 * A vbd at the destination of a migration in post-copy: some of its blocks are still at the source.
 *
 *                 read / write of a part: pull, wait
 *      missing ─────────────────────────────────────────▶ present
 *         │  arrive: check and write under one lock           ▲
 *         └── write, zeroes, trim of the whole block ─────────┘ (supersedes)
 *
 * A block that is present never becomes missing again. Until it is present nobody reads what this disk holds of
 * it: that is a replica's old content. Whatever changes a missing block holds a lock on it while the inner store
 * works, and the block becomes present in the log, in memory and for those who wait in one step after that:
 *
 * - An arriving block that finds a superseding write in progress waits for it. If the write succeeds the block
 *   is late and loses; if it fails the block is stored after all, so neither version is ever lost.
 * - A write that finds an arriving block in progress waits too: the inner store promises no order between them.
 *
 * Guest reads and partial writes wait through any loss of the link; only `close` ends them.
 */

import type { BlockBitmap } from "../protocol/block-bitmap.ts";
import { assert } from "../protocol/errors.ts";
import type { PostCopyCounts } from "../protocol/messages.ts";
import {
  BLOCK_SIZE_BYTES,
  type BlockIndex,
  type BlockRun,
  blockCountOf,
  byteRangeOf,
} from "../protocol/units.ts";
import { type BlockRangeLock, BlockRangeLocks } from "./block-range-locks.ts";
import { type BlockStore, blocksCovered, blocksTouched, type Completion, checkRange } from "./block-store.ts";
import { BlockWaits } from "./block-waits.ts";
import { StorageError } from "./errors.ts";
import { withMissing } from "./missing-extents.ts";
import type { PresenceLog } from "./presence-log.ts";
import { SharedSync } from "./shared-sync.ts";

export type MissingBlockStoreParts = {
  store: BlockStore;
  presence: PresenceLog;
  /** Asks the source for blocks that somebody waits for. Called once per block, until `requestedAgain`. */
  pull: (runs: readonly BlockRun[]) => void;
  /** The last missing block has become present; not necessarily durable. Not called when none was missing at first. */
  onComplete?: () => void;
};

export class MissingBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #store: BlockStore;
  readonly #presence: PresenceLog;
  readonly #missing: BlockBitmap;
  readonly #onComplete: () => void;
  readonly #waits: BlockWaits;
  /** Superseding writes, which may overlap each other. */
  readonly #superseding = new BlockRangeLocks();
  /** Arriving blocks on their way into the store. */
  readonly #arriving = new BlockRangeLocks();
  readonly #counts = { pushed: 0, pulled: 0, superseded: 0, late: 0 };
  readonly #flushes: SharedSync;
  #flushesRunning = 0;
  #closing: Promise<void> | undefined;

  /** Owns the store and the presence log: closing it closes them. */
  constructor(parts: MissingBlockStoreParts) {
    const { store, presence } = parts;
    assert(presence.missing.blockCount === blockCountOf(store.sizeBytes), "a presence log of another size");
    this.#store = store;
    this.#presence = presence;
    this.#missing = presence.missing;
    this.#onComplete = parts.onComplete ?? (() => {});
    this.#waits = new BlockWaits(parts.pull, (block) => this.#missing.has(block) && !this.#locked(block));
    this.#flushes = new SharedSync(() => presence.flush(() => store.flush()));
    this.sizeBytes = store.sizeBytes;
  }

  /** To be read only. */
  get missing(): BlockBitmap {
    return this.#missing;
  }

  /** In blocks. `pushed` and `pulled` were stored, by whether somebody had asked; `late` were not. */
  get counts(): PostCopyCounts {
    return { ...this.#counts };
  }

  /** After a reconnect, or when storing an arrival has failed: what is still waited for. It counts as asked for. */
  requestedAgain(): readonly BlockRun[] {
    return this.#waits.requestAll();
  }

  /**
   * Stores the blocks that are still missing: `data` holds `runs` one after the other (the last block of the vbd
   * may be short), `zeroes` are all zero. `data` belongs to the caller again once this completed. When it fails,
   * what was not stored is still missing.
   */
  arrive(runs: readonly BlockRun[], zeroes: readonly BlockRun[], data: Uint8Array): Completion {
    this.#checkOpen("arrive");
    this.#checkArrival(runs, zeroes, data);
    const later: Promise<void>[] = [];
    let at = 0;
    for (const run of runs) {
      const { length } = byteRangeOf(run, this.sizeBytes);
      this.#arriveRun(run, data.subarray(at, at + length), later);
      at += length;
    }
    for (const run of zeroes) this.#arriveRun(run, undefined, later);
    if (later.length > 0) return allDone(later);
  }

  read(offset: number, target: Uint8Array): Completion {
    this.#checkOpen("read");
    checkRange(offset, target.length, this.sizeBytes);
    const touched = blocksTouched(offset, target.length);
    if (!this.#anyMissing(touched)) return this.#store.read(offset, target);
    return this.#readLater(touched, offset, target);
  }

  write(offset: number, data: Uint8Array): Completion {
    return this.#supersede("write", offset, data.length, () => this.#store.write(offset, data));
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    const issue = (): Completion => this.#store.writeZeroes(offset, length, options);
    return this.#supersede("writeZeroes", offset, length, issue);
  }

  /**
   * A missing block that is trimmed in part is left alone: it goes on to read as the source's version, "as
   * before". One that is trimmed wholly needs no pull, but the inner store's trim may leave it "as before", and
   * there before is a replica's content that this guest never wrote: so it is zeroed.
   */
  trim(offset: number, length: number): Completion {
    this.#checkOpen("trim");
    checkRange(offset, length, this.sizeBytes);
    const touched = blocksTouched(offset, length);
    if (!this.#anyMissing(touched)) return this.#store.trim(offset, length);
    const covered = blocksCovered(offset, length, this.sizeBytes);
    const last = touched.start + touched.count - 1;
    const skipsFirst = !contains(covered, touched.start) && this.#missing.has(touched.start);
    const skipsLast = !contains(covered, last) && this.#missing.has(last);
    const start = skipsFirst ? (touched.start + 1) * BLOCK_SIZE_BYTES : offset;
    const end = skipsLast ? last * BLOCK_SIZE_BYTES : offset + length;
    if (end <= start) return;
    return this.writeZeroes(start, end - start, { mayUnmap: true });
  }

  /** The data first, then the presence that depends on it: see `PresenceLog`. */
  flush(): Completion {
    this.#checkOpen("flush");
    if (!this.#presence.flushNeeded && this.#flushesRunning === 0) return this.#store.flush();
    this.#flushesRunning++;
    return this.#flushes.request().finally(() => this.#flushesRunning--);
  }

  /** What is missing counts as data: only the source knows. */
  extents(offset: number, length: number): ReturnType<BlockStore["extents"]> {
    this.#checkOpen("extents");
    checkRange(offset, length, this.sizeBytes);
    // As of now: what arrives while the inner store looks may have been looked at before.
    const missing = this.#missingRuns(blocksTouched(offset, length));
    const extents = this.#store.extents(offset, length);
    if (extents instanceof Promise) {
      return extents.then((found) => found && withMissing(found, missing));
    }
    return extents && withMissing(extents, missing);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#waits.rejectAll(
      new StorageError({ code: "STORAGE_PULL_FAILED", operation: "close", reason: "the store was closed" }),
    );
    await Promise.all([this.#superseding.allReleased(), this.#arriving.allReleased(), this.#flushes.idle()]);
    try {
      await this.#store.close();
    } finally {
      await this.#presence.close();
    }
  }

  async #readLater(touched: BlockRun, offset: number, target: Uint8Array): Promise<void> {
    await this.#waits.wait(this.#missingRuns(touched));
    await this.#store.read(offset, target);
  }

  #supersede(operation: string, offset: number, length: number, issue: () => Completion): Completion {
    this.#checkOpen(operation);
    checkRange(offset, length, this.sizeBytes);
    const touched = blocksTouched(offset, length);
    if (!this.#anyMissing(touched)) return issue();
    const covered = blocksCovered(offset, length, this.sizeBytes);
    const obstacle = this.#obstacle(touched, covered);
    if (obstacle === undefined) return this.#issue(covered, issue);
    return this.#supersedeLater({ operation, touched, covered, issue }, obstacle);
  }

  async #supersedeLater(
    write: { operation: string; touched: BlockRun; covered: BlockRun; issue: () => Completion },
    obstacle: Promise<void> | undefined,
  ): Promise<void> {
    while (obstacle !== undefined) {
      await obstacle;
      this.#checkOpen(write.operation);
      // Anything may have happened until this turn; nothing can between this look and the write.
      obstacle = this.#obstacle(write.touched, write.covered);
    }
    await this.#issue(write.covered, write.issue);
  }

  /** What a write must wait for: the old bytes of blocks that it covers in part, and arrivals under way. */
  #obstacle(touched: BlockRun, covered: BlockRun): Promise<void> | undefined {
    const last = touched.start + touched.count - 1;
    const parts = touched.count > 1 ? [touched.start, last] : [touched.start];
    const wanted = parts.filter((block) => !contains(covered, block) && this.#missing.has(block));
    if (wanted.length > 0) return this.#waits.wait(wanted.map((start) => ({ start, count: 1 })));
    return this.#arriving.released(covered);
  }

  /** Writes; what it covers wholly is present once it has landed, and missing as before when it fails. */
  #issue(covered: BlockRun, issue: () => Completion): Completion {
    const landed = issue();
    if (!this.#anyMissing(covered)) return landed;
    if (landed === undefined) this.#becomePresent(covered, "superseded");
    else return this.#holding(this.#superseding, covered, landed, "superseded");
  }

  /** Cuts an arriving run into what is late, what must wait for a write or another arrival, and what is stored now. */
  #arriveRun(run: BlockRun, data: Uint8Array | undefined, later: Promise<void>[]): void {
    const end = run.start + run.count;
    const bytesFrom = (start: BlockIndex): Uint8Array | undefined =>
      data?.subarray((start - run.start) * BLOCK_SIZE_BYTES);
    for (let at = run.start; at < end; ) {
      const missing = this.#missing.nextRun(at, end - at);
      const start = missing === undefined ? end : Math.min(missing.start, end);
      this.#counts.late += start - at;
      if (missing === undefined || start === end) return;
      const whole = { start, count: Math.min(missing.count, end - start) };
      const holder = this.#firstHolder(whole);
      if (holder === undefined || holder.start > start) {
        const free = { start, count: Math.min(holder?.start ?? end, start + whole.count) - start };
        this.#storeArrival(free, bytesFrom(start), later);
        at = start + free.count;
      } else {
        const held = { start, count: Math.min(holder.end, start + whole.count) - start };
        later.push(this.#arriveAfter(holder.released, held, bytesFrom(start)));
        at = start + held.count;
      }
    }
  }

  /** Of those who hold blocks of `run`, the one that begins first. */
  #firstHolder(run: BlockRun): BlockRangeLock | undefined {
    const write = this.#superseding.first(run);
    const arrival = this.#arriving.first(run);
    if (write === undefined || arrival === undefined) return write ?? arrival;
    return write.start <= arrival.start ? write : arrival;
  }

  async #arriveAfter(released: Promise<void>, run: BlockRun, data: Uint8Array | undefined): Promise<void> {
    await released;
    this.#checkOpen("arrive");
    const later: Promise<void>[] = [];
    this.#arriveRun(run, data, later);
    await allDone(later);
  }

  #storeArrival(run: BlockRun, data: Uint8Array | undefined, later: Promise<void>[]): void {
    const { offset, length } = byteRangeOf(run, this.sizeBytes);
    try {
      const landed =
        data === undefined
          ? this.#store.writeZeroes(offset, length, { mayUnmap: true })
          : this.#store.write(offset, data.subarray(0, length));
      if (landed === undefined) this.#becomePresent(run, "arrived");
      else later.push(this.#holding(this.#arriving, run, landed, "arrived"));
    } catch (error) {
      later.push(Promise.reject(error));
    }
  }

  /** Holds a lock on `run` until the inner store has answered; success and presence are one step. */
  async #holding(
    locks: BlockRangeLocks,
    run: BlockRun,
    landed: Promise<void>,
    how: "superseded" | "arrived",
  ): Promise<void> {
    const release = locks.acquire(run);
    try {
      await landed;
      this.#becomePresent(run, how);
    } finally {
      release();
      // After a failure those who wait may have asked nobody yet, because help was on its way.
      this.#waits.requestNew();
    }
  }

  #becomePresent(run: BlockRun, how: "superseded" | "arrived"): void {
    for (const present of this.#missingRuns(run)) {
      const asked = this.#waits.countRequested(present);
      this.#presence.markPresent(present);
      if (how === "superseded") this.#counts.superseded += present.count;
      else {
        this.#counts.pulled += asked;
        this.#counts.pushed += present.count - asked;
      }
      this.#waits.resolve(present);
      if (this.#missing.population === 0) this.#onComplete();
    }
  }

  #anyMissing(run: BlockRun): boolean {
    if (this.#missing.population === 0 || run.count === 0) return false;
    if (run.count === 1) return this.#missing.has(run.start);
    const next = this.#missing.next(run.start);
    return next !== undefined && next < run.start + run.count;
  }

  #missingRuns(run: BlockRun): BlockRun[] {
    const runs: BlockRun[] = [];
    const end = run.start + run.count;
    for (let from = run.start; from < end; ) {
      const next = this.#missing.nextRun(from, end - from);
      if (next === undefined || next.start >= end) break;
      const count = Math.min(next.count, end - next.start);
      runs.push({ start: next.start, count });
      from = next.start + count;
    }
    return runs;
  }

  #locked(block: BlockIndex): boolean {
    return this.#firstHolder({ start: block, count: 1 }) !== undefined;
  }

  #checkArrival(runs: readonly BlockRun[], zeroes: readonly BlockRun[], data: Uint8Array): void {
    let lengthSum = 0;
    for (const run of [...runs, ...zeroes]) {
      const valid = Number.isSafeInteger(run.start) && Number.isSafeInteger(run.count);
      if (!valid || run.start < 0 || run.count < 1 || run.start + run.count > this.#missing.blockCount) {
        throw new StorageError({ code: "STORAGE_BAD_ARRIVAL", reason: `run ${run.start}+${run.count}` });
      }
    }
    for (const run of runs) lengthSum += byteRangeOf(run, this.sizeBytes).length;
    if (lengthSum === data.length) return;
    throw new StorageError({
      code: "STORAGE_BAD_ARRIVAL",
      reason: `${data.length} octets for ${lengthSum}`,
    });
  }

  #checkOpen(operation: string): void {
    if (this.#closing !== undefined) throw new StorageError({ code: "STORAGE_CLOSED", operation });
  }
}

function contains(run: BlockRun, block: BlockIndex): boolean {
  return block >= run.start && block < run.start + run.count;
}

/** Waits for all, then fails with the first failure: an operation is not over while a part of it is under way. */
async function allDone(operations: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(operations);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}
