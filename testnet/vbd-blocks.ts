/**
 * What lies in a vbd's file, block by block: a second opinion on a migration's own figures. Only for files that
 * nobody writes to: a replica, or what a domain left behind.
 */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { BLOCK_SIZE_BYTES } from "../protocol/units.ts";
import { FileBlockStore } from "../storage/file-block-store.ts";

/** Per block the CRC of its bytes: two blocks that differ look the same once in four thousand million times. */
export type BlockSums = Uint32Array;

const READ_BYTES = 1 << 20;

export async function readBlockSums(path: string): Promise<BlockSums> {
  const store = FileBlockStore.open(path, { readOnly: true });
  try {
    const sums = new Uint32Array(Math.ceil(store.sizeBytes / BLOCK_SIZE_BYTES)).fill(ZERO_SUM);
    const extents = store.extents(0, store.sizeBytes) ?? [
      { offset: 0, length: store.sizeBytes, hole: false, zero: false },
    ];
    const buffer = Buffer.alloc(READ_BYTES);
    for (const { offset, length, hole } of extents) {
      if (hole) continue;
      // An extent may begin inside a block where the file system's unit is smaller than ours.
      const end = offset + length;
      for (let at = offset - (offset % BLOCK_SIZE_BYTES); at < end; at += READ_BYTES) {
        const bytes = buffer.subarray(0, Math.min(READ_BYTES, store.sizeBytes - at));
        await store.read(at, bytes);
        sumBlocks(bytes, sums.subarray(at / BLOCK_SIZE_BYTES));
        await setImmediate();
      }
    }
    return sums;
  } finally {
    await store.close();
  }
}

/** Blocks that hold anything but zeroes. */
export function countNonZero(sums: BlockSums): number {
  return sums.reduce((count, sum) => count + (sum === ZERO_SUM ? 0 : 1), 0);
}

export function countDiffering(one: BlockSums, other: BlockSums): number {
  return one.reduce((count, sum, block) => count + (sum === other[block] ? 0 : 1), 0);
}

export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: READ_BYTES }))
    hash.update(chunk as Buffer);
  return hash.digest("hex");
}

const ZERO_SUM = crc32(new Uint8Array(BLOCK_SIZE_BYTES));

function sumBlocks(bytes: Buffer, sums: BlockSums): void {
  for (let at = 0; at < bytes.length; at += BLOCK_SIZE_BYTES) {
    const block = bytes.subarray(at, at + BLOCK_SIZE_BYTES);
    const isShort = block.length < BLOCK_SIZE_BYTES;
    // The last block of a file that ends inside it counts as if zeroes followed.
    sums[at / BLOCK_SIZE_BYTES] = crc32(isShort ? Buffer.concat([block], BLOCK_SIZE_BYTES) : block);
  }
}
