/** Reading, digesting and comparing blocks of a store: what the real drivers do with `storage/digests.ts`. */
import { createHash } from "node:crypto";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { DIGEST_SIZE_BYTES, HASH_REGION_BLOCKS } from "../../protocol/limits.ts";
import type { HashLevel, SourceMessage } from "../../protocol/messages.ts";
import {
  BLOCK_SIZE_BYTES,
  type BlockIndex,
  type BlockRun,
  blockCountOf,
  byteRangeOf,
} from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";

type Blocks = Extract<SourceMessage, { type: "blocks" }>;

export async function readBlocks(
  store: BlockStore,
  shipment: Pick<Blocks, "ticket" | "purpose" | "vbd" | "runs">,
): Promise<Blocks> {
  const runs: BlockRun[] = [];
  const zeroes: BlockRun[] = [];
  const parts: Uint8Array[] = [];
  for (const run of shipment.runs) {
    for (const [index, block] of (await readRun(store, run)).entries()) {
      const one = { start: run.start + index, count: 1 };
      if (isZero(block)) zeroes.push(one);
      else {
        runs.push(one);
        parts.push(block);
      }
    }
  }
  return { type: "blocks", ...shipment, runs, zeroes, data: Buffer.concat(parts) };
}

/** Undefined when the store cannot tell holes from data. */
export async function allocatedBlocks(store: BlockStore): Promise<BlockBitmap | undefined> {
  const extents = await store.extents(0, store.sizeBytes);
  if (extents === undefined) return undefined;
  const allocated = new BlockBitmap(blockCountOf(store.sizeBytes));
  for (const { offset, length, zero } of extents) {
    if (zero) continue;
    const start = Math.floor(offset / BLOCK_SIZE_BYTES);
    allocated.addRange(start, Math.ceil((offset + length) / BLOCK_SIZE_BYTES) - start);
  }
  return allocated;
}

export async function digestsOf(
  store: BlockStore,
  { level, start, count }: { level: HashLevel; start: number; count: number },
): Promise<Uint8Array> {
  const size = level === "region" ? HASH_REGION_BLOCKS : 1;
  const blockCount = blockCountOf(store.sizeBytes);
  const digests = new Uint8Array(count * DIGEST_SIZE_BYTES);
  for (let index = 0; index < count; index++) {
    const first = (start + index) * size;
    const run = { start: first, count: Math.min(size, blockCount - first) };
    const hash = createHash("md5");
    for (const block of await readRun(store, run)) hash.update(block);
    digests.set(hash.digest().subarray(0, DIGEST_SIZE_BYTES), index * DIGEST_SIZE_BYTES);
  }
  return digests;
}

/** Indexes, from `start`, whose digests differ. */
export function differingDigests(ours: Uint8Array, theirs: Uint8Array, start: number): number[] {
  const differing: number[] = [];
  for (let at = 0; at < ours.length; at += DIGEST_SIZE_BYTES) {
    const end = at + DIGEST_SIZE_BYTES;
    if (Buffer.compare(ours.subarray(at, end), theirs.subarray(at, end)) === 0) continue;
    differing.push(start + at / DIGEST_SIZE_BYTES);
  }
  return differing;
}

async function readRun(store: BlockStore, run: BlockRun): Promise<Uint8Array[]> {
  const { offset, length } = byteRangeOf(run, store.sizeBytes);
  const bytes = new Uint8Array(length);
  await store.read(offset, bytes);
  return Array.from({ length: run.count }, (_, index): Uint8Array => {
    const block: BlockIndex = index * BLOCK_SIZE_BYTES;
    return bytes.subarray(block, block + BLOCK_SIZE_BYTES);
  });
}

function isZero(block: Uint8Array): boolean {
  return new Uint32Array(block.buffer, block.byteOffset, block.length / 4).every((word) => word === 0);
}
