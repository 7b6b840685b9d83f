/**
 * A set of blocks of one vbd (paper §1.5, the layered bitmap).
 *
 * The blocks are cut into chunks. Only a chunk that is neither empty nor full has words of its own, so that
 * an empty or a full bitmap of any size costs its table, and one of 1 TiB at most 32 MiB. Each chunk counts its
 * blocks and the bitmap counts them all: nothing is ever counted by reading the words.
 *
 * A mutable set, because copying it at every transition would cost more than the migration. It may be changed
 * between two steps of an iteration; the iteration then goes on from where it stands.
 */

import { assignBits, nextClearBit, nextSetBit, popcount } from "./bit-words.ts";
import {
  CHUNK_BLOCKS,
  chunkCountOf,
  chunkSizeOf,
  decodeChunks,
  encodeChunks,
  WORDS_PER_CHUNK,
} from "./block-bitmap-wire.ts";
import { assert, type ProtocolError } from "./errors.ts";
import { BLOCK_COUNT_MAX } from "./limits.ts";
import { badField } from "./octets.ts";
import type { BlockIndex, BlockRun } from "./units.ts";

// A block is below 2 ** 32, where `>>>` and `&` are exact. The end of a range may be 2 ** 32, where they are not.
const CHUNK_SHIFT = Math.log2(CHUNK_BLOCKS);
const CHUNK_MASK = CHUNK_BLOCKS - 1;

/** A reference and a count. */
const TABLE_BYTES_PER_CHUNK = 10;

type Words = Uint32Array<ArrayBuffer>;

export class BlockBitmap {
  readonly blockCount: number;
  /** Set for the chunks that are neither empty nor full. */
  readonly #chunks: (Words | undefined)[];
  /** How many blocks of each chunk are in the set. */
  readonly #populations: Uint16Array<ArrayBuffer>;
  #population = 0;
  #chunksWithWords = 0;
  /** The wire form, while the set is what it was: on its way from journal to journal it is wanted again and again. */
  #encoded: Uint8Array | undefined;

  constructor(blockCount: number) {
    assert(Number.isSafeInteger(blockCount) && blockCount >= 0 && blockCount <= BLOCK_COUNT_MAX);
    this.blockCount = blockCount;
    this.#chunks = new Array(chunkCountOf(blockCount)).fill(undefined);
    this.#populations = new Uint16Array(this.#chunks.length);
  }

  static full(blockCount: number): BlockBitmap {
    const bitmap = new BlockBitmap(blockCount);
    bitmap.addRange(0, blockCount);
    return bitmap;
  }

  static of(blockCount: number, blocks: Iterable<BlockIndex>): BlockBitmap {
    const bitmap = new BlockBitmap(blockCount);
    for (const block of blocks) bitmap.add(block);
    return bitmap;
  }

  /** How many blocks are in the set. */
  get population(): number {
    return this.#population;
  }

  /** Memory that the set takes now, beside its wire form. */
  get allocatedBytes(): number {
    return this.#chunks.length * TABLE_BYTES_PER_CHUNK + this.#chunksWithWords * WORDS_PER_CHUNK * 4;
  }

  has(block: BlockIndex): boolean {
    this.#assertBlock(block);
    const words = this.#chunks[block >>> CHUNK_SHIFT];
    if (words === undefined) return this.#populations[block >>> CHUNK_SHIFT]! > 0;
    return (words[(block & CHUNK_MASK) >>> 5]! & (1 << (block & 31))) !== 0;
  }

  add(block: BlockIndex): void {
    this.#assign(block, true);
  }

  /** Returns whether the block was in the set. */
  delete(block: BlockIndex): boolean {
    return this.#assign(block, false);
  }

  addRange(start: BlockIndex, count: number): void {
    this.#assignRange(start, count, true);
  }

  deleteRange(start: BlockIndex, count: number): void {
    this.#assignRange(start, count, false);
  }

  /** The lowest block of the set at or after `from`. Does not wrap. */
  next(from: BlockIndex = 0): BlockIndex | undefined {
    this.#assertFrom(from);
    const block = this.#find(from, this.blockCount, true);
    return block < this.blockCount ? block : undefined;
  }

  /** The first run at or after `from`, cut to `countMax` blocks. */
  nextRun(from: BlockIndex, countMax: number): BlockRun | undefined {
    assert(countMax > 0);
    const start = this.next(from);
    if (start === undefined) return undefined;
    const end = this.#find(start, Math.min(this.blockCount, start + countMax), false);
    return { start, count: end - start };
  }

  *runs(): Iterable<BlockRun> {
    let run = this.nextRun(0, this.blockCount + 1);
    while (run !== undefined) {
      yield run;
      run = this.nextRun(run.start + run.count, this.blockCount + 1);
    }
  }

  *[Symbol.iterator](): Iterator<BlockIndex> {
    for (let block = this.next(); block !== undefined; block = this.next(block + 1)) yield block;
  }

  /** In place: this set and `other`'s. */
  union(other: BlockBitmap): void {
    this.#combine(other, (index, theirs) => {
      if (this.#isFull(index) || other.#populations[index] === 0) return;
      if (theirs === undefined) this.#setWhole(index, true);
      else if (this.#populations[index] === 0)
        this.#setWords(index, theirs.slice(), other.#populations[index]!);
      else this.#changeWords(index, theirs, (word, their) => word | their);
    });
  }

  /** In place: this set without `other`'s. */
  subtract(other: BlockBitmap): void {
    this.#combine(other, (index, theirs) => {
      if (this.#populations[index] === 0 || other.#populations[index] === 0) return;
      if (theirs === undefined) this.#setWhole(index, false);
      else this.#changeWords(index, theirs, (word, their) => word & ~their);
    });
  }

  /** In place: what is in this set and in `other` too. */
  intersect(other: BlockBitmap): void {
    this.#combine(other, (index, theirs) => {
      if (this.#populations[index] === 0 || other.#isFull(index)) return;
      if (theirs === undefined) this.#setWhole(index, false);
      else this.#mapWords(index, (word, at) => word & theirs[at]!);
    });
  }

  clone(): BlockBitmap {
    const bitmap = new BlockBitmap(this.blockCount);
    bitmap.union(this);
    return bitmap;
  }

  clear(): void {
    this.deleteRange(0, this.blockCount);
  }

  equals(other: BlockBitmap): boolean {
    if (this.blockCount !== other.blockCount || this.#population !== other.#population) return false;
    if (this.#populations.some((population, index) => population !== other.#populations[index])) return false;
    for (const [index, words] of this.#chunks.entries()) {
      if (words === undefined) continue;
      const theirs = other.#chunks[index]!;
      for (let at = 0; at < words.length; at++) {
        if (words[at] !== theirs[at]) return false;
      }
    }
    return true;
  }

  /** The wire form: see `block-bitmap-wire.ts`. To be read only. */
  encode(): Uint8Array {
    this.#encoded ??= encodeChunks(this.#present(), this.blockCount);
    return this.#encoded;
  }

  /**
   * Throws ProtocolError for octets that are not the wire form of a set of these blocks, or of one that takes
   * more than `allocatedBytesMax` here: few octets can describe a set whose words fill a lot of memory.
   */
  static decode(bytes: Uint8Array, blockCount: number, allocatedBytesMax = Infinity): BlockBitmap {
    if (chunkCountOf(blockCount) * TABLE_BYTES_PER_CHUNK > allocatedBytesMax)
      throw tooLarge(allocatedBytesMax);
    const bitmap = new BlockBitmap(blockCount);
    for (const { index, chunk, population } of decodeChunks(bytes, blockCount)) {
      if (chunk === "full") bitmap.#setWhole(index, true);
      else bitmap.#setWords(index, chunk, population);
      if (bitmap.allocatedBytes > allocatedBytesMax) throw tooLarge(allocatedBytesMax);
    }
    // Each set has one wire form. A copy: these octets may be a part of something large.
    bitmap.#encoded = new Uint8Array(bytes);
    return bitmap;
  }

  *#present(): Iterable<{ index: number; chunk: "full" | Words }> {
    for (let index = 0; index < this.#chunks.length; index++) {
      if (this.#populations[index]! > 0) yield { index, chunk: this.#chunks[index] ?? "full" };
    }
  }

  /** Returns whether the block was in the set before. On the path of every tracked write: few steps. */
  #assign(block: BlockIndex, value: boolean): boolean {
    this.#assertBlock(block);
    const index = block >>> CHUNK_SHIFT;
    const known = this.#chunks[index];
    if (known === undefined && this.#populations[index]! > 0 === value) return value;
    const words = known ?? this.#wordsOf(index);
    const at = (block & CHUNK_MASK) >>> 5;
    const bit = 1 << (block & 31);
    const before = (words[at]! & bit) !== 0;
    if (before === value) return before;
    words[at]! ^= bit;
    this.#setWords(index, words, this.#populations[index]! + (value ? 1 : -1));
    return before;
  }

  #assignRange(start: BlockIndex, count: number, value: boolean): void {
    const end = start + count;
    assert(Number.isSafeInteger(start) && start >= 0 && Number.isSafeInteger(count) && count >= 0);
    assert(end <= this.blockCount, `blocks ${start} to ${end} of ${this.blockCount}`);
    for (let from = start; from < end; ) {
      const index = from >>> CHUNK_SHIFT;
      const first = index * CHUNK_BLOCKS;
      const to = Math.min(end, first + CHUNK_BLOCKS);
      if (to - from === this.#sizeOf(index)) {
        this.#setWhole(index, value);
      } else if (value ? !this.#isFull(index) : this.#populations[index]! > 0) {
        const words = this.#wordsOf(index);
        const changed = assignBits(words, from - first, to - first, value);
        this.#setWords(index, words, this.#populations[index]! + (value ? changed : -changed));
      }
      from = to;
    }
  }

  /** The first block from `from` that is in the set (or is not), or `end`. */
  #find(from: BlockIndex, end: BlockIndex, value: boolean): BlockIndex {
    while (from < end) {
      const index = from >>> CHUNK_SHIFT;
      const first = index * CHUNK_BLOCKS;
      const to = Math.min(end, first + CHUNK_BLOCKS);
      const words = this.#chunks[index];
      if (words === undefined) {
        if (this.#populations[index]! > 0 === value) return from;
      } else {
        const search = value ? nextSetBit : nextClearBit;
        const found = first + search(words, from - first, to - first);
        if (found < to) return found;
      }
      from = to;
    }
    return end;
  }

  #combine(other: BlockBitmap, combine: (index: number, theirs: Words | undefined) => void): void {
    assert(other.blockCount === this.blockCount, "bitmaps of two sizes");
    for (let index = 0; index < this.#chunks.length; index++) combine(index, other.#chunks[index]);
  }

  /** Where `theirs` has no bit nothing changes, and most words of a large vbd's have none. */
  #changeWords(index: number, theirs: Words, change: (word: number, their: number) => number): void {
    const words = this.#wordsOf(index);
    let population = this.#populations[index]!;
    for (let at = 0; at < words.length; at++) {
      const their = theirs[at]!;
      if (their === 0) continue;
      const before = words[at]!;
      const after = change(before, their);
      words[at] = after;
      population += popcount(after) - popcount(before);
    }
    this.#setWords(index, words, population);
  }

  #mapWords(index: number, map: (word: number, at: number) => number): void {
    const words = this.#wordsOf(index);
    let population = 0;
    for (let at = 0; at < words.length; at++) {
      const word = map(words[at]!, at);
      words[at] = word;
      population += popcount(word);
    }
    this.#setWords(index, words, population);
  }

  /** The words of a chunk to change; `setWords` must follow. */
  #wordsOf(index: number): Words {
    const words = this.#chunks[index];
    if (words !== undefined) return words;
    const fresh = new Uint32Array(WORDS_PER_CHUNK);
    if (this.#populations[index]! > 0) assignBits(fresh, 0, this.#sizeOf(index), true);
    return fresh;
  }

  #setWords(index: number, words: Words, population: number): void {
    if (population === 0 || population === this.#sizeOf(index)) {
      this.#setWhole(index, population > 0);
      return;
    }
    if (this.#chunks[index] === undefined) this.#chunksWithWords += 1;
    this.#chunks[index] = words;
    this.#setPopulation(index, population);
  }

  #setWhole(index: number, value: boolean): void {
    if (this.#chunks[index] !== undefined) {
      this.#chunks[index] = undefined;
      this.#chunksWithWords -= 1;
    }
    this.#setPopulation(index, value ? this.#sizeOf(index) : 0);
  }

  #setPopulation(index: number, population: number): void {
    this.#population += population - this.#populations[index]!;
    this.#populations[index] = population;
    // No operation changes bits and leaves their number: each only adds, or only removes.
    this.#encoded = undefined;
  }

  #isFull(index: number): boolean {
    return this.#chunks[index] === undefined && this.#populations[index]! > 0;
  }

  #sizeOf(index: number): number {
    return chunkSizeOf(index, this.blockCount);
  }

  #assertBlock(block: BlockIndex): void {
    assert(Number.isSafeInteger(block) && block >= 0 && block < this.blockCount, "a block outside the vbd");
  }

  /** One past the last block is a place to stand, too. */
  #assertFrom(from: BlockIndex): void {
    assert(Number.isSafeInteger(from) && from >= 0 && from <= this.blockCount, "a block outside the vbd");
  }
}

function tooLarge(allocatedBytesMax: number): ProtocolError {
  return badField("bitmap", `takes more than ${allocatedBytesMax} bytes`);
}
