/**
 * Ordered keys and values with atomic batches: what the repositories need of a database, and no more.
 * LevelDB (`level-store.ts`) and memory (`memory-metadata.ts`) implement it, so there is one set of
 * repositories and two places where bytes may lie.
 */

/** Whether a write must have reached the disk when it completes. Never a default: the caller decides. */
export type Durability = { readonly sync: boolean };

export type WriteOperation =
  | { readonly type: "put"; readonly key: string; readonly value: Uint8Array }
  | { readonly type: "del"; readonly key: string };

export type StoredEntry = { readonly key: string; readonly value: Uint8Array };

export type Scan = {
  /** Keys that begin with this; "" for all. */
  readonly prefix: string;
  readonly limit?: number;
  readonly reverse?: boolean;
};

export interface KeyValueStore {
  get(key: string): Promise<Uint8Array | undefined>;
  getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]>;
  entries(scan: Scan): Promise<StoredEntry[]>;
  keys(scan: Scan): Promise<string[]>;
  /**
   * All operations or none, whatever crashes. With `sync` they, and every write that completed before, are
   * on the disk when this completes.
   */
  write(operations: readonly WriteOperation[], durability: Durability): Promise<void>;
  /** Runs what reads and then writes, one at a time: two callers cannot decide on the same old value. */
  exclusive<T>(work: () => Promise<T>): Promise<T>;
  /** Waits for what is in flight. Idempotent. */
  close(): Promise<void>;
}

/** One at a time, in the order asked. Work that fails does not hold up the next. */
export class Turnstile {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** Resolves when everything asked so far has ended. */
  async idle(): Promise<void> {
    await this.#last;
  }
}
