/**
 * Runs of blocks that operations in flight hold. A list, because there are never more than the requests in
 * flight, and a run may be a whole vbd.
 */

import type { BlockIndex, BlockRun } from "../protocol/units.ts";

/** Blocks from `start` to before `end`. `released` never fails. */
export type BlockRangeLock = { start: BlockIndex; end: BlockIndex; released: Promise<void> };

export class BlockRangeLocks {
  readonly #locks = new Set<BlockRangeLock>();

  /** Never waits, also where others hold the same blocks; returns the function that releases. */
  acquire(run: BlockRun): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    const lock = { start: run.start, end: run.start + run.count, released: promise };
    this.#locks.add(lock);
    return () => {
      this.#locks.delete(lock);
      resolve();
    };
  }

  /** Of the locks that overlap `run`, the one that begins first. */
  first(run: BlockRun): BlockRangeLock | undefined {
    let first: BlockRangeLock | undefined;
    for (const lock of this.#locks) {
      const overlaps = lock.start < run.start + run.count && lock.end > run.start;
      if (overlaps && (first === undefined || lock.start < first.start)) first = lock;
    }
    return first;
  }

  /** Completes when one that overlaps `run` is released; undefined when none does. */
  released(run: BlockRun): Promise<void> | undefined {
    return this.#locks.size === 0 ? undefined : this.first(run)?.released;
  }

  async allReleased(): Promise<void> {
    while (this.#locks.size > 0) await Promise.all([...this.#locks].map((lock) => lock.released));
  }
}
