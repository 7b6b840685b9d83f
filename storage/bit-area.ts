/** A block-bitmap in a file, one bit per block from the lowest bit of the first octet. */

import { BlockBitmap } from "../protocol/block-bitmap.ts";
import type { BlockIndex, BlockRun } from "../protocol/units.ts";
import type { ByteFile } from "./byte-file.ts";

/** Octets that are read or written at a time. */
const PIECE_BYTES = 64 << 10;
/** What the page cache writes at a time. */
const PAGE_BYTES = 4 << 10;
const EMPTY = new Uint8Array(PIECE_BYTES);

export class BitArea {
  readonly #file: ByteFile;
  readonly #offset: number;
  readonly #blockCount: number;
  readonly sizeBytes: number;

  constructor(file: ByteFile, options: { offset: number; blockCount: number }) {
    this.#file = file;
    this.#offset = options.offset;
    this.#blockCount = options.blockCount;
    this.sizeBytes = Math.ceil(options.blockCount / 8);
  }

  /** The set in the file; undefined when bits beyond the last block are set, which we never do. */
  load(): BlockBitmap | undefined {
    const bitmap = new BlockBitmap(this.#blockCount);
    const piece = new Uint8Array(PIECE_BYTES);
    for (let at = 0; at < this.sizeBytes; at += PIECE_BYTES) {
      const bytes = piece.subarray(0, Math.min(PIECE_BYTES, this.sizeBytes - at));
      this.#file.pread(this.#offset + at, bytes);
      // Most of a large map is empty.
      if (Buffer.compare(bytes, EMPTY.subarray(0, bytes.length)) === 0) continue;
      if (!addRuns(bitmap, at * 8, bytes)) return undefined;
    }
    return bitmap;
  }

  /** Makes the file equal to `bitmap`. Octets that are right already are not written, so holes stay holes. */
  storeAll(bitmap: BlockBitmap): void {
    const before = new Uint8Array(PIECE_BYTES);
    const after = new Uint8Array(PIECE_BYTES);
    for (let at = 0; at < this.sizeBytes; at += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, this.sizeBytes - at);
      this.#file.pread(this.#offset + at, before.subarray(0, length));
      after.fill(0);
      const end = Math.min((at + length) * 8, this.#blockCount);
      for (let from = at * 8; from < end; ) {
        const run = bitmap.nextRun(from, end - from);
        if (run === undefined || run.start >= end) break;
        const count = Math.min(run.count, end - run.start);
        setBits(after, run.start - at * 8, count);
        from = run.start + count;
      }
      this.#storeChanged(at, { before: before.subarray(0, length), after: after.subarray(0, length) });
    }
  }

  /** Only the pages that differ: of a few blocks far from one another no more is to be flushed than there must be. */
  #storeChanged(at: number, { before, after }: { before: Uint8Array; after: Uint8Array }): void {
    if (Buffer.compare(after, before) === 0) return;
    let from = -1;
    for (let page = 0; page < after.length; page += PAGE_BYTES) {
      const end = Math.min(page + PAGE_BYTES, after.length);
      const isSame = Buffer.compare(after.subarray(page, end), before.subarray(page, end)) === 0;
      if (!isSame && from < 0) from = page;
      if (from >= 0 && (isSame || end === after.length)) {
        this.#file.pwrite(this.#offset + at + from, after.subarray(from, isSame ? page : end));
        from = -1;
      }
    }
  }

  /**
   * Writes the octets that hold `run`, every block of which takes `value`. `has` says what the neighbours are
   * that share the run's first and last octet.
   */
  storeRun(run: BlockRun, value: boolean, has: (block: BlockIndex) => boolean): void {
    const first = Math.floor(run.start / 8);
    const last = Math.floor((run.start + run.count - 1) / 8);
    const bytes = new Uint8Array(last - first + 1).fill(value ? 0xff : 0);
    const octet = (index: number): number => {
      let bits = 0;
      const end = Math.min(index * 8 + 8, this.#blockCount);
      for (let block = index * 8; block < end; block++) {
        const inside = block >= run.start && block < run.start + run.count;
        if (inside ? value : has(block)) bits |= 1 << (block & 7);
      }
      return bits;
    };
    bytes[0] = octet(first);
    bytes[bytes.length - 1] = octet(last);
    this.#file.pwrite(this.#offset + first, bytes);
  }
}

/** Adds the set bits of `bytes`, which begin at block `base`. False when one is beyond the bitmap. */
function addRuns(bitmap: BlockBitmap, base: BlockIndex, bytes: Uint8Array): boolean {
  let start = -1;
  const close = (end: BlockIndex): void => {
    if (start >= 0) bitmap.addRange(start, end - start);
    start = -1;
  };
  // A map of a large vbd is opened while a guest waits: words without a set bit are passed over as such.
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  for (let index = 0; index < bytes.length; index++) {
    if ((index & 3) === 0 && words[index >>> 2] === 0) {
      close(base + index * 8);
      index += 3;
      continue;
    }
    const byte = bytes[index]!;
    const at = base + index * 8;
    if (byte === 0) close(at);
    else if (byte === 0xff && at + 8 <= bitmap.blockCount) start = start < 0 ? at : start;
    else {
      for (let bit = 0; bit < 8; bit++) {
        if ((byte & (1 << bit)) === 0) close(at + bit);
        else if (at + bit >= bitmap.blockCount) return false;
        else if (start < 0) start = at + bit;
      }
    }
  }
  close(Math.min(base + bytes.length * 8, bitmap.blockCount));
  return true;
}

function setBits(bytes: Uint8Array, from: number, count: number): void {
  const end = from + count;
  for (let bit = from; bit < end; ) {
    if (bit % 8 === 0 && end - bit >= 8) {
      bytes.fill(0xff, bit / 8, Math.floor(end / 8));
      bit = Math.floor(end / 8) * 8;
    } else {
      bytes[bit >>> 3]! |= 1 << (bit & 7);
      bit++;
    }
  }
}
