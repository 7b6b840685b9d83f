/**
 * Digests of a vbd's content for the ladder's hash rung, and the search for what is not zero.
 *
 * Memory is bounded by one region (4 MiB), and between pieces others have their turn on the event loop. What the
 * store knows to be zero is not read: a sparse file costs what it holds.
 */

import { hash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { BlockBitmap } from "../protocol/block-bitmap.ts";
import { assert } from "../protocol/errors.ts";
import { DIGEST_SIZE_BYTES, HASH_REGION_BLOCKS } from "../protocol/limits.ts";
import type { HashLevel } from "../protocol/messages.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../protocol/units.ts";
import type { BlockStore } from "./block-store.ts";

const PIECE_BYTES = 1 << 20;
/** Extents that are asked for at a time, so that a fragmented vbd needs no list of all of them. */
const WINDOW_BYTES = 64 << 20;
const ZEROES = Buffer.alloc(PIECE_BYTES);

/** `count` regions or blocks from the one numbered `start`. */
export type DigestRange = { level: HashLevel; start: number; count: number };

/** How many regions or blocks a vbd has. */
export function digestCountOf(sizeBytes: number, level: HashLevel): number {
  return Math.ceil(sizeBytes / unitBytesOf(level));
}

/** SHA-256 cut to 128 bits of each unit of the range, one after the other. The last unit of a vbd may be short. */
export async function digestsOf(store: BlockStore, range: DigestRange): Promise<Uint8Array> {
  const { level, start, count } = range;
  assert(start >= 0 && count >= 0 && start + count <= digestCountOf(store.sizeBytes, level));
  const unitBytes = unitBytesOf(level);
  const digests = new Uint8Array(count * DIGEST_SIZE_BYTES);
  const ofZeroes = new Map<number, Uint8Array>();
  const buffer = Buffer.allocUnsafeSlow(Math.max(unitBytes, PIECE_BYTES));
  const unitsPerTurn = Math.max(1, PIECE_BYTES / unitBytes);
  for (let first = 0; first < count; first += unitsPerTurn) {
    const units = Math.min(unitsPerTurn, count - first);
    const offset = (start + first) * unitBytes;
    const length = Math.min(units * unitBytes, store.sizeBytes - offset);
    const zero = await isKnownZero(store, offset, length);
    const bytes = buffer.subarray(0, length);
    if (!zero) await readInPieces(store, offset, bytes);
    for (let unit = 0; unit < units; unit++) {
      const part = bytes.subarray(unit * unitBytes, Math.min((unit + 1) * unitBytes, length));
      const digest = zero ? digestOfZeroes(ofZeroes, part.length) : digestOf(part);
      digests.set(digest, (first + unit) * DIGEST_SIZE_BYTES);
    }
    await setImmediate();
  }
  return digests;
}

/** The blocks that are not all zero; undefined where the store cannot tell holes from data. */
export async function allocatedNonZeroBlocks(store: BlockStore): Promise<BlockBitmap | undefined> {
  const blocks = new BlockBitmap(blockCountOf(store.sizeBytes));
  const buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  for (let window = 0; window < store.sizeBytes; window += WINDOW_BYTES) {
    const extents = await store.extents(window, Math.min(WINDOW_BYTES, store.sizeBytes - window));
    if (extents === undefined) return undefined;
    for (const extent of extents) {
      if (extent.zero) continue;
      // Whole blocks, since an extent may begin in the middle of one.
      const from = Math.floor(extent.offset / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES;
      const blockEnd = Math.ceil((extent.offset + extent.length) / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES;
      const end = Math.min(blockEnd, store.sizeBytes);
      for (let at = from; at < end; at += PIECE_BYTES) {
        const bytes = buffer.subarray(0, Math.min(PIECE_BYTES, end - at));
        await store.read(at, bytes);
        addNonZero(blocks, at / BLOCK_SIZE_BYTES, bytes);
        await setImmediate();
      }
    }
    // Also where all is hole: a large empty vbd has many windows.
    await setImmediate();
  }
  return blocks;
}

export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZEROES.length) {
    const end = Math.min(at + ZEROES.length, bytes.length);
    if (ZEROES.compare(bytes, at, end, 0, end - at) !== 0) return false;
  }
  return true;
}

function unitBytesOf(level: HashLevel): number {
  return level === "block" ? BLOCK_SIZE_BYTES : HASH_REGION_BLOCKS * BLOCK_SIZE_BYTES;
}

async function isKnownZero(store: BlockStore, offset: number, length: number): Promise<boolean> {
  const extents = await store.extents(offset, length);
  return extents?.every(({ zero }) => zero) ?? false;
}

async function readInPieces(store: BlockStore, offset: number, target: Uint8Array): Promise<void> {
  for (let at = 0; at < target.length; at += PIECE_BYTES) {
    if (at > 0) await setImmediate();
    await store.read(offset + at, target.subarray(at, Math.min(at + PIECE_BYTES, target.length)));
  }
}

function digestOf(bytes: Uint8Array): Uint8Array {
  return hash("sha256", bytes, "buffer").subarray(0, DIGEST_SIZE_BYTES);
}

function digestOfZeroes(known: Map<number, Uint8Array>, length: number): Uint8Array {
  let digest = known.get(length);
  if (digest === undefined) known.set(length, (digest = digestOf(new Uint8Array(length))));
  return digest;
}

function addNonZero(blocks: BlockBitmap, first: number, bytes: Uint8Array): void {
  if (isZero(bytes)) return;
  for (let at = 0; at < bytes.length; at += BLOCK_SIZE_BYTES) {
    if (!isZero(bytes.subarray(at, at + BLOCK_SIZE_BYTES))) blocks.add(first + at / BLOCK_SIZE_BYTES);
  }
}
