/** A host's metadata in memory: for tests and the simulation, and to prove the contract. */
import {
  type Durability,
  type KeyValueStore,
  type Scan,
  type StoredEntry,
  Turnstile,
  type WriteOperation,
} from "./key-value-store.ts";
import { StoredMetadata } from "./metadata.ts";
import { MetadataError } from "./metadata-errors.ts";

type Contents = ReadonlyMap<string, Uint8Array>;

/** Bytes that survive a crash exactly when they were synced, or written before something that was. */
export class MemoryStore implements KeyValueStore {
  #entries: Map<string, Uint8Array>;
  #durable: Contents;
  #closed = false;
  readonly #turnstile = new Turnstile();

  constructor(contents: Contents = new Map()) {
    this.#entries = new Map(contents);
    this.#durable = contents;
  }

  /** What a disk would hold if the host lost power now. */
  durable(): Contents {
    return this.#durable;
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    this.#refuseClosed();
    return this.#entries.get(key)?.slice();
  }

  async getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    this.#refuseClosed();
    return keys.map((key) => this.#entries.get(key)?.slice());
  }

  async entries(scan: Scan): Promise<StoredEntry[]> {
    return (await this.keys(scan)).map((key) => ({ key, value: this.#entries.get(key)!.slice() }));
  }

  async keys({ prefix, limit, reverse }: Scan): Promise<string[]> {
    this.#refuseClosed();
    const keys = [...this.#entries.keys()].filter((key) => key.startsWith(prefix)).sort();
    return (reverse === true ? keys.reverse() : keys).slice(0, limit);
  }

  async write(operations: readonly WriteOperation[], durability: Durability): Promise<void> {
    this.#refuseClosed();
    for (const operation of operations) {
      if (operation.type === "put") this.#entries.set(operation.key, operation.value.slice());
      else this.#entries.delete(operation.key);
    }
    if (durability.sync) this.#durable = new Map(this.#entries);
  }

  exclusive<T>(work: () => Promise<T>): Promise<T> {
    return this.#turnstile.run(work);
  }

  async close(): Promise<void> {
    await this.#turnstile.idle();
    // An orderly end writes everything out, as LevelDB's does.
    if (!this.#closed) this.#durable = this.#entries;
    this.#closed = true;
  }

  #refuseClosed(): void {
    if (this.#closed) throw new MetadataError({ code: "METADATA_CLOSED" });
  }
}

export class MemoryMetadata extends StoredMetadata {
  readonly #store: MemoryStore;

  constructor(store: MemoryStore = new MemoryStore()) {
    super(store);
    this.#store = store;
  }

  /** The host's metadata after a crash at this instant: what was not synced is gone. This one may be dropped. */
  afterCrash(): MemoryMetadata {
    return new MemoryMetadata(new MemoryStore(this.#store.durable()));
  }
}
