/** The units that every file of Sojourn counts in. Units stand last in a name: `sizeBytes`, `dirtyBlocksMax`. */

/** Index of one block of a vbd, from 0. */
export type BlockIndex = number;

/** One stay of a domain on one host, numbered from 1 by handovers. Also the fencing number. */
export type Generation = number;

/** Adjacent blocks: `count` of them from `start`. */
export type BlockRun = { readonly start: BlockIndex; readonly count: number };

/**
 * The unit of every bitmap (paper §1.5: 4 KiB, because file systems write 4 KiB; a 512-byte unit
 * makes the map eight times larger and breaks the downtime).
 */
export const BLOCK_SIZE_BYTES = 4096;

/** Blocks that a vbd of `sizeBytes` has; the last one may be short. */
export function blockCountOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / BLOCK_SIZE_BYTES);
}

/** Bytes of the blocks of `run` in a vbd of `sizeBytes`: the last block of a vbd may be short. */
export function byteRangeOf(run: BlockRun, sizeBytes: number): { offset: number; length: number } {
  const offset = run.start * BLOCK_SIZE_BYTES;
  return { offset, length: Math.min(run.count * BLOCK_SIZE_BYTES, sizeBytes - offset) };
}
