/**
 * The wire form of a block-bitmap. There is exactly one for every set; any other octets are refused.
 *
 * Segments in ascending order cover the chunks that are not empty; what follows the last one is empty.
 *
 *   head       varint: chunks skipped since the last segment * 4 + kind
 *   kind 0     full chunks: varint, how many less one. As many as there are in a row.
 *   kind 1     one chunk as runs: varint, how many less one; then per run two varints, the blocks skipped
 *              since the last run (less one, except for the first) and its length less one
 *   kind 2     one chunk as it is, one bit per block, lowest block in the lowest bit of the first octet; only
 *              where that is shorter than the runs
 */

import { assignBits, countBits, countRuns, nextSetBit } from "./bit-words.ts";
import { badField, OctetReader, OctetWriter } from "./octets.ts";

/** Blocks per chunk: 128 MiB of a vbd, 4 KiB of bitmap. */
export const CHUNK_BLOCKS = 32_768;

export const WORDS_PER_CHUNK = CHUNK_BLOCKS / 32;

/** A chunk's words are its bits, none set beyond the vbd's end; it is neither empty nor full. */
export type Chunk = "full" | Uint32Array<ArrayBuffer>;

type PlacedChunk = { readonly index: number; readonly chunk: Chunk };

const KIND = { full: 0, runs: 1, raw: 2 } as const;

const FIELD = "bitmap";

export function chunkCountOf(blockCount: number): number {
  return Math.ceil(blockCount / CHUNK_BLOCKS);
}

/** Blocks of chunk `index`: the last one may be short. */
export function chunkSizeOf(index: number, blockCount: number): number {
  return Math.min(CHUNK_BLOCKS, blockCount - index * CHUNK_BLOCKS);
}

/** Encodes the chunks that are not empty, given in ascending order. */
export function encodeChunks(chunks: Iterable<PlacedChunk>, blockCount: number): Uint8Array {
  const writer = new OctetWriter();
  let next = 0;
  let full = { start: 0, count: 0 };
  const endFull = () => {
    if (full.count === 0) return;
    writer.varint((full.start - next) * 4 + KIND.full);
    writer.varint(full.count - 1);
    next = full.start + full.count;
    full = { start: 0, count: 0 };
  };
  for (const { index, chunk } of chunks) {
    if (full.count > 0 && index > full.start + full.count) endFull();
    if (chunk === "full") {
      if (full.count === 0) full.start = index;
      full.count += 1;
      continue;
    }
    endFull();
    const sizeBlocks = chunkSizeOf(index, blockCount);
    const runs = encodeRuns(chunk, sizeBlocks);
    writer.varint((index - next) * 4 + (runs === undefined ? KIND.raw : KIND.runs));
    if (runs === undefined) encodeRaw(chunk, writer.space(rawSizeOf(sizeBlocks)));
    else writer.octets(runs);
    next = index + 1;
  }
  endFull();
  return writer.finish();
}

/**
 * Reads the chunks that are not empty in ascending order. Allocates words for a chunk only after the octets that
 * describe it were seen, so never more than a small multiple of what a disk of `blockCount` blocks deserves.
 */
export function* decodeChunks(
  bytes: Uint8Array,
  blockCount: number,
): Generator<PlacedChunk & { readonly population: number }> {
  const chunkCount = chunkCountOf(blockCount);
  const reader = new OctetReader(bytes);
  let next = 0;
  let previousFull = false;
  while (reader.remaining > 0) {
    const head = reader.varint(FIELD, chunkCount * 4 + 3);
    const kind = head % 4;
    const skipped = Math.floor(head / 4);
    const index = next + skipped;
    if (index >= chunkCount) throw badField(FIELD, "beyond the last block");
    if (kind === KIND.full) {
      if (previousFull && skipped === 0) throw badField(FIELD, "full chunks in a row given apart");
      const count = reader.varint(FIELD, chunkCount - index - 1) + 1;
      for (let full = index; full < index + count; full++) {
        yield { index: full, chunk: "full", population: chunkSizeOf(full, blockCount) };
      }
      next = index + count;
    } else {
      const sizeBlocks = chunkSizeOf(index, blockCount);
      if (kind === KIND.runs) yield { index, ...decodeRuns(reader, sizeBlocks) };
      else if (kind === KIND.raw) yield { index, ...decodeRaw(reader, sizeBlocks) };
      else throw badField(FIELD, `unknown kind ${kind}`);
      next = index + 1;
    }
    previousFull = kind === KIND.full;
  }
}

function rawSizeOf(sizeBlocks: number): number {
  return Math.ceil(sizeBlocks / 8);
}

/** The chunk as runs, or undefined where its bits as they are take fewer octets. */
function encodeRuns(words: Uint32Array, sizeBlocks: number): Uint8Array | undefined {
  const sizeMax = rawSizeOf(sizeBlocks);
  const count = countRuns(words);
  // A run takes two octets at least, so a scattered chunk is seen without encoding it.
  if (count * 2 + 1 > sizeMax) return undefined;
  const writer = new OctetWriter(sizeMax + 8);
  writer.varint(count - 1);
  let before = -1;
  let carry = 0;
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    // Bits that are unlike the one below them: where a run begins or has ended.
    let edges = word ^ ((word << 1) | carry);
    carry = word >>> 31;
    if (edges === 0) continue;
    while (edges !== 0) {
      const edge = (index << 5) + 31 - Math.clz32(edges & -edges);
      edges &= edges - 1;
      writer.varint(edge - before - 1);
      before = edge;
    }
    if (writer.size > sizeMax) return undefined;
  }
  if (carry === 1) writer.varint(sizeBlocks - before - 1);
  return writer.size > sizeMax ? undefined : writer.finish();
}

function decodeRuns(
  reader: OctetReader,
  sizeBlocks: number,
): { chunk: Uint32Array<ArrayBuffer>; population: number } {
  const sizeMax = rawSizeOf(sizeBlocks);
  const before = reader.remaining;
  const count = reader.varint(FIELD, CHUNK_BLOCKS / 2) + 1;
  const words = new Uint32Array(WORDS_PER_CHUNK);
  let population = 0;
  let end = -1;
  for (let run = 0; run < count; run++) {
    const start = end + 1 + reader.varint(FIELD, CHUNK_BLOCKS);
    const length = reader.varint(FIELD, CHUNK_BLOCKS) + 1;
    end = start + length;
    if (end > sizeBlocks) throw badField(FIELD, "a run beyond its chunk");
    assignBits(words, start, end, true);
    population += length;
  }
  if (population === sizeBlocks) throw badField(FIELD, "a full chunk given as runs");
  if (before - reader.remaining > sizeMax) throw badField(FIELD, "runs longer than the bits themselves");
  return { chunk: words, population };
}

function encodeRaw(words: Uint32Array, target: Uint8Array): void {
  const view = new DataView(target.buffer, target.byteOffset, target.length);
  const whole = target.length & ~3;
  for (let octet = 0; octet < whole; octet += 4) view.setUint32(octet, words[octet >>> 2]!, true);
  for (let octet = whole; octet < target.length; octet++) {
    target[octet] = words[octet >>> 2]! >>> ((octet & 3) * 8);
  }
}

function decodeRaw(
  reader: OctetReader,
  sizeBlocks: number,
): { chunk: Uint32Array<ArrayBuffer>; population: number } {
  const octets = reader.octets(rawSizeOf(sizeBlocks));
  const words = new Uint32Array(WORDS_PER_CHUNK);
  const view = new DataView(octets.buffer, octets.byteOffset, octets.length);
  const whole = octets.length & ~3;
  for (let octet = 0; octet < whole; octet += 4) words[octet >>> 2] = view.getUint32(octet, true);
  for (let octet = whole; octet < octets.length; octet++) {
    words[octet >>> 2]! |= octets[octet]! << ((octet & 3) * 8);
  }
  const population = countBits(words);
  if (nextSetBit(words, sizeBlocks, CHUNK_BLOCKS) < CHUNK_BLOCKS) {
    throw badField(FIELD, "bits beyond the last block");
  }
  if (population === 0 || population === sizeBlocks) {
    throw badField(FIELD, "an empty or full chunk given as bits");
  }
  if (encodeRuns(words, sizeBlocks) !== undefined) throw badField(FIELD, "bits where runs are shorter");
  return { chunk: words, population };
}
