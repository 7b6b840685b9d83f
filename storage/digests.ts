/**
 * Digests of a store's blocks and regions, for the ladder's hash rung, and which blocks hold anything at all.
 *
 * Memory is bounded by one region; between regions the event loop gets its turn, because a guest's I/O goes
 * through the same process. Holes cost nothing: the digest of zeroes is known.
 */

import { createHash } from "node:crypto";
import { BlockBitmap } from "../protocol/block-bitmap.ts";
import { DIGEST_SIZE_BYTES, HASH_REGION_BLOCKS } from "../protocol/limits.ts";
import type { HashLevel } from "../protocol/messages.ts";
import { BLOCK_SIZE_BYTES, blockCountOf, byteRangeOf } from "../protocol/units.ts";
import type { BlockStore } from "./block-store.ts";

const ZERO_BLOCK = Buffer.alloc(BLOCK_SIZE_BYTES);
const zeroDigests = new Map<number, Buffer>();

/** `count` digests of DIGEST_SIZE_BYTES each: of regions (HASH_REGION_BLOCKS blocks) or of blocks. */
export async function digestsOf(
  store: BlockStore,
  { level, start, count }: { level: HashLevel; start: number; count: number },
): Promise<Uint8Array> {
  const unit = level === "region" ? HASH_REGION_BLOCKS : 1;
  const digests = Buffer.allocUnsafe(count * DIGEST_SIZE_BYTES);
  const scratch = Buffer.allocUnsafe(unit * BLOCK_SIZE_BYTES);
  for (let index = 0; index < count; index++) {
    const range = byteRangeOf({ start: (start + index) * unit, count: unit }, store.sizeBytes);
    const digest = await digestOf(store, range, scratch);
    digest.copy(digests, index * DIGEST_SIZE_BYTES, 0, DIGEST_SIZE_BYTES);
    if (level === "region" || index % HASH_REGION_BLOCKS === HASH_REGION_BLOCKS - 1) await breathe();
  }
  return digests;
}

async function digestOf(
  store: BlockStore,
  { offset, length }: { offset: number; length: number },
  scratch: Buffer,
): Promise<Buffer> {
  const extents = await store.extents(offset, length);
  if (extents?.every(({ zero }) => zero)) return zeroDigest(length);
  const target = scratch.subarray(0, length);
  await store.read(offset, target);
  return createHash("sha256").update(target).digest();
}

function zeroDigest(length: number): Buffer {
  const known = zeroDigests.get(length);
  if (known !== undefined) return known;
  const digest = createHash("sha256").update(Buffer.alloc(length)).digest();
  zeroDigests.set(length, digest);
  return digest;
}

/** The blocks that are allocated and not all zero; undefined when the store cannot tell holes from data. */
export async function allocatedNonZeroBlocks(store: BlockStore): Promise<BlockBitmap | undefined> {
  const { sizeBytes } = store;
  const blocks = new BlockBitmap(blockCountOf(sizeBytes));
  const scratch = Buffer.allocUnsafe(HASH_REGION_BLOCKS * BLOCK_SIZE_BYTES);
  for (let start = 0; start < blocks.blockCount; start += HASH_REGION_BLOCKS) {
    const { offset, length } = byteRangeOf({ start, count: HASH_REGION_BLOCKS }, sizeBytes);
    const extents = await store.extents(offset, length);
    if (extents === undefined) return undefined;
    if (extents.every(({ zero }) => zero)) continue;
    const target = scratch.subarray(0, length);
    await store.read(offset, target);
    for (let at = 0; at < length; at += BLOCK_SIZE_BYTES) {
      const block = target.subarray(at, Math.min(at + BLOCK_SIZE_BYTES, length));
      if (!block.equals(ZERO_BLOCK.subarray(0, block.length))) blocks.add(start + at / BLOCK_SIZE_BYTES);
    }
    await breathe();
  }
  return blocks;
}

function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
