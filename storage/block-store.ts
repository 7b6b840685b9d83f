/**
 * The bytes of one vbd. Every implementation passes `test/contract/block-store.contract.ts`.
 *
 * An operation may complete at once (page cache, memory) or later: it returns nothing or a promise.
 * A caller that awaits works with both; the NBD server's hot path looks first and spares the promise.
 * Ranges are in bytes, need no alignment, and lie inside the store: a caller that lets a peer choose
 * them checks first, and one outside is refused with `STORAGE_OUT_OF_RANGE`.
 *
 * A write that was answered is visible to every later read, and durable only after a later `flush`.
 */

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
  extents(offset: number, length: number): readonly Extent[] | undefined | Promise<readonly Extent[] | undefined>;
  /** Waits for what is in flight, then closes. Idempotent. */
  close(): Promise<void>;
}
