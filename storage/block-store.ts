/**
 * The bytes of one vbd. Every implementation passes `test/contract/block-store.contract.ts`.
 *
 * An operation may complete at once (page cache, memory) or later: it returns nothing or a promise.
 * A caller that awaits works with both; the NBD server's hot path looks first and spares the promise.
 * It fails with a `StorageError`, thrown at once or by rejection, in the same way.
 * Ranges are in bytes, need no alignment, and lie inside the store: a caller that lets a peer choose
 * them checks first, and one outside is refused with `STORAGE_OUT_OF_RANGE`.
 *
 * A write that was answered is visible to every later read, and durable only after a later `flush`.
 */

import { BLOCK_SIZE_BYTES, type BlockRun } from "../protocol/units.ts";
import { StorageError } from "./errors.ts";

export type Completion = void | Promise<void>;

/** `hole`: no space allocated. `zero`: reads as zero for certain. A hole may be not zero on some devices. */
export type Extent = { offset: number; length: number; hole: boolean; zero: boolean };

export interface BlockStore {
  readonly sizeBytes: number;
  /** Fills `target` with the bytes from `offset`. */
  read(offset: number, target: Uint8Array): Completion;
  /** `data` belongs to the caller again once this completed. */
  write(offset: number, data: Uint8Array): Completion;
  /** The range reads as zero afterwards. With `mayUnmap` space is given back where that is possible. */
  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion;
  /** The contents of the range are no longer needed; it reads as zero afterwards, or as before. */
  trim(offset: number, length: number): Completion;
  /** Everything answered before this call is durable when it completes. */
  flush(): Completion;
  /** Allocation of the range, merged extents in order, covering it wholly; undefined where nothing can be said. */
  extents(
    offset: number,
    length: number,
  ): readonly Extent[] | undefined | Promise<readonly Extent[] | undefined>;
  /** Waits for what is in flight, then closes. Idempotent. */
  close(): Promise<void>;
}

/** Throws `STORAGE_OUT_OF_RANGE` unless the bytes lie inside a store of `sizeBytes`. */
export function checkRange(offset: number, length: number, sizeBytes: number): void {
  // Written so that NaN fails too.
  if (offset >= 0 && length >= 0 && offset + length <= sizeBytes) {
    if (Number.isInteger(offset) && Number.isInteger(length)) return;
  }
  throw new StorageError({ code: "STORAGE_OUT_OF_RANGE", offset, length, sizeBytes });
}

/** The blocks that the bytes touch, in whole or in part. None for an empty range. */
export function blocksTouched(offset: number, length: number): BlockRun {
  const start = Math.floor(offset / BLOCK_SIZE_BYTES);
  if (length === 0) return { start, count: 0 };
  return { start, count: Math.floor((offset + length - 1) / BLOCK_SIZE_BYTES) - start + 1 };
}

/** The blocks that the bytes cover wholly; the last block of the vbd is whole up to `sizeBytes`. */
export function blocksCovered(offset: number, length: number, sizeBytes: number): BlockRun {
  const start = Math.ceil(offset / BLOCK_SIZE_BYTES);
  const end =
    offset + length === sizeBytes
      ? Math.ceil(sizeBytes / BLOCK_SIZE_BYTES)
      : Math.floor((offset + length) / BLOCK_SIZE_BYTES);
  return { start, count: length === 0 ? 0 : Math.max(0, end - start) };
}

/** Appends to a list of extents, merging with the last one where they say the same. */
export function pushExtent(extents: Extent[], extent: Extent): void {
  if (extent.length === 0) return;
  const last = extents.at(-1);
  if (last !== undefined && last.hole === extent.hole && last.zero === extent.zero) {
    last.length += extent.length;
  } else {
    extents.push(extent);
  }
}
