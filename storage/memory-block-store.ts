/** A vbd in memory, of which only what is not zero takes space: for tests, and to prove the contract. */

import { BLOCK_SIZE_BYTES } from "../protocol/units.ts";
import { type BlockStore, type Completion, checkRange, type Extent, pushExtent } from "./block-store.ts";
import { StorageError } from "./errors.ts";

export class MemoryBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #blocks = new Map<number, Uint8Array>();
  #closed = false;

  constructor(options: { sizeBytes: number }) {
    this.sizeBytes = options.sizeBytes;
  }

  read(offset: number, target: Uint8Array): Completion {
    this.#check("read", offset, target.length);
    for (const { block, from, length, at } of pieces(offset, target.length)) {
      const bytes = this.#blocks.get(block);
      if (bytes === undefined) target.fill(0, at, at + length);
      else target.set(bytes.subarray(from, from + length), at);
    }
  }

  write(offset: number, data: Uint8Array): Completion {
    this.#check("write", offset, data.length);
    for (const { block, from, length, at } of pieces(offset, data.length)) {
      let bytes = this.#blocks.get(block);
      if (bytes === undefined) this.#blocks.set(block, (bytes = new Uint8Array(BLOCK_SIZE_BYTES)));
      bytes.set(data.subarray(at, at + length), from);
    }
  }

  writeZeroes(offset: number, length: number, _options: { mayUnmap: boolean }): Completion {
    this.#check("writeZeroes", offset, length);
    this.#zero(offset, length);
  }

  trim(offset: number, length: number): Completion {
    this.#check("trim", offset, length);
    this.#zero(offset, length);
  }

  flush(): Completion {
    this.#check("flush", 0, 0);
  }

  extents(offset: number, length: number): readonly Extent[] {
    this.#check("extents", offset, length);
    const extents: Extent[] = [];
    for (const { block, length: part, at } of pieces(offset, length)) {
      const hole = !this.#blocks.has(block);
      pushExtent(extents, { offset: offset + at, length: part, hole, zero: hole });
    }
    return extents;
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #zero(offset: number, length: number): void {
    for (const { block, from, length: part } of pieces(offset, length)) {
      if (part === BLOCK_SIZE_BYTES) this.#blocks.delete(block);
      else this.#blocks.get(block)?.fill(0, from, from + part);
    }
  }

  #check(operation: string, offset: number, length: number): void {
    checkRange(offset, length, this.sizeBytes);
    if (this.#closed) throw new StorageError({ code: "STORAGE_CLOSED", operation });
  }
}

/** Cuts a range at the boundaries of blocks. `from` is in the block, `at` in the range. */
function* pieces(
  offset: number,
  length: number,
): Generator<{ block: number; from: number; length: number; at: number }> {
  for (let at = 0; at < length; ) {
    const block = Math.floor((offset + at) / BLOCK_SIZE_BYTES);
    const from = (offset + at) % BLOCK_SIZE_BYTES;
    const part = Math.min(BLOCK_SIZE_BYTES - from, length - at);
    yield { block, from, length: part, at };
    at += part;
  }
}
