/**
 * Fault injection that ships: a store that fails now and then. Which operations fail follows from the seed alone, so a
 * failure can be had again.
 */
import type { BlockStore, Completion, Extent } from "../../block-store.ts";
import { StorageError } from "../../errors.ts";

export type FailingOperation = "read" | "write" | "writeZeroes" | "trim" | "flush";

export type ErrorOptions = {
  seed: number;
  /** How often each kind of operation fails, from 0 to 1. */
  rates: Partial<Record<FailingOperation, number>>;
  /** What it fails with; an I/O error unless told. */
  failure?: (operation: FailingOperation) => Error;
};

export class ErrorBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #store: BlockStore;
  readonly #rates: ErrorOptions["rates"];
  readonly #failure: (operation: FailingOperation) => Error;
  #random: number;

  constructor(store: BlockStore, { seed, rates, failure = ioError }: ErrorOptions) {
    this.#store = store;
    this.sizeBytes = store.sizeBytes;
    this.#rates = rates;
    this.#failure = failure;
    this.#random = seed >>> 0;
  }

  read(offset: number, target: Uint8Array): Completion {
    this.#maybeFail("read");
    return this.#store.read(offset, target);
  }

  write(offset: number, data: Uint8Array): Completion {
    this.#maybeFail("write");
    return this.#store.write(offset, data);
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    this.#maybeFail("writeZeroes");
    return this.#store.writeZeroes(offset, length, options);
  }

  trim(offset: number, length: number): Completion {
    this.#maybeFail("trim");
    return this.#store.trim(offset, length);
  }

  flush(): Completion {
    this.#maybeFail("flush");
    return this.#store.flush();
  }

  extents(
    offset: number,
    length: number,
  ): readonly Extent[] | undefined | Promise<readonly Extent[] | undefined> {
    return this.#store.extents(offset, length);
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  /** Before the operation, and nothing of it is done: the caller must treat any part as possible all the same. */
  #maybeFail(operation: FailingOperation): void {
    const rate = this.#rates[operation] ?? 0;
    if (rate > 0 && this.#nextRandom() < rate) throw this.#failure(operation);
  }

  /** Mulberry32. */
  #nextRandom(): number {
    this.#random = (this.#random + 0x6d2b79f5) >>> 0;
    let mixed = this.#random;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  }
}

function ioError(operation: FailingOperation): Error {
  return new StorageError({ code: "STORAGE_IO", operation, reason: "injected" });
}
