/** Fault injection that ships: a store whose operations take their time. */
import type { BlockStore, Completion, Extent } from "../../block-store.ts";

export type DelayOptions = { readMs?: number; writeMs?: number; flushMs?: number };

export class DelayBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #store: BlockStore;
  readonly #delays: Required<DelayOptions>;
  readonly #delayed = new Set<Promise<void>>();

  /** A delay of zero leaves an operation as it is. The delay comes first: data is read or written after it. */
  constructor(store: BlockStore, { readMs = 0, writeMs = 0, flushMs = 0 }: DelayOptions) {
    this.#store = store;
    this.sizeBytes = store.sizeBytes;
    this.#delays = { readMs, writeMs, flushMs };
  }

  read(offset: number, target: Uint8Array): Completion {
    return this.#after(this.#delays.readMs, () => this.#store.read(offset, target));
  }

  write(offset: number, data: Uint8Array): Completion {
    return this.#after(this.#delays.writeMs, () => this.#store.write(offset, data));
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    return this.#after(this.#delays.writeMs, () => this.#store.writeZeroes(offset, length, options));
  }

  trim(offset: number, length: number): Completion {
    return this.#after(this.#delays.writeMs, () => this.#store.trim(offset, length));
  }

  flush(): Completion {
    return this.#after(this.#delays.flushMs, () => this.#store.flush());
  }

  extents(
    offset: number,
    length: number,
  ): readonly Extent[] | undefined | Promise<readonly Extent[] | undefined> {
    return this.#store.extents(offset, length);
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#delayed);
    await this.#store.close();
  }

  #after(delayMs: number, operation: () => Completion): Completion {
    if (delayMs === 0) return operation();
    const delayed = new Promise<void>((resolve) => setTimeout(resolve, delayMs)).then(operation);
    this.#delayed.add(delayed);
    const forget = (): void => void this.#delayed.delete(delayed);
    delayed.then(forget, forget);
    return delayed;
  }
}
