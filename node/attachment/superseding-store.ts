/**
 * Tells when a guest's write over a missing block was issued and is not acknowledged yet: the instant at which a
 * crash must lose neither what was written nor the record that it is newer than what the source has.
 */

import type { BlockStore, Completion } from "../../storage/block-store.ts";
import { blocksCovered, blocksTouched } from "../../storage/block-store.ts";
import type { MissingBlockStore } from "../../storage/missing-block-store.ts";

export class SupersedingStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #store: MissingBlockStore;
  readonly #superseding: () => Promise<void> | undefined;

  /** A write that supersedes is acknowledged once what `superseding` returns has completed, too. */
  constructor(store: MissingBlockStore, superseding: () => Promise<void> | undefined) {
    this.sizeBytes = store.sizeBytes;
    this.#store = store;
    this.#superseding = superseding;
  }

  read(offset: number, target: Uint8Array): Completion {
    return this.#store.read(offset, target);
  }

  write(offset: number, data: Uint8Array): Completion {
    return this.#issue(offset, data.length, () => this.#store.write(offset, data));
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    return this.#issue(offset, length, () => this.#store.writeZeroes(offset, length, options));
  }

  trim(offset: number, length: number): Completion {
    return this.#issue(offset, length, () => this.#store.trim(offset, length));
  }

  flush(): Completion {
    return this.#store.flush();
  }

  extents(offset: number, length: number): ReturnType<BlockStore["extents"]> {
    return this.#store.extents(offset, length);
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  #issue(offset: number, length: number, issue: () => Completion): Completion {
    const supersedes = this.#coversMissing(offset, length);
    const landed = issue();
    const point = supersedes ? this.#superseding() : undefined;
    if (point === undefined) return landed;
    return Promise.all([landed, point]).then(() => undefined);
  }

  #coversMissing(offset: number, length: number): boolean {
    const { missing } = this.#store;
    if (missing.population === 0 || blocksTouched(offset, length).count === 0) return false;
    const { start, count } = blocksCovered(offset, length, this.sizeBytes);
    const next = count === 0 ? undefined : missing.next(start);
    return next !== undefined && next < start + count;
  }
}
