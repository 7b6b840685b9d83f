/** The chain of custody of each domain, oldest first: `protocol/custody.ts` says what a certificate is. */
import { CERTIFICATES_MAX } from "../protocol/custody.ts";
import type { Durability, KeyValueStore, WriteOperation } from "./key-value-store.ts";
import { keyOf, prefixOf } from "./keyspaces.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { CustodyRecord } from "./records.ts";

export interface Custody {
  /** Replaces the record of its generation. The oldest go when a domain has more than CERTIFICATES_MAX. */
  put(records: readonly CustodyRecord[], durability: Durability): Promise<void>;
  /** Oldest first. */
  list(domain: string): Promise<CustodyRecord[]>;
}

export class CustodyRepository implements Custody {
  readonly #store: KeyValueStore;
  readonly #records: RecordSpace<CustodyRecord>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#records = new RecordSpace(store, "custody", CustodyRecord);
  }

  async put(records: readonly CustodyRecord[], durability: Durability): Promise<void> {
    await this.#store.exclusive(async () => this.#store.write(await this.putOperations(records), durability));
  }

  /** For a batch with other records; the caller holds `exclusive`. */
  async putOperations(records: readonly CustodyRecord[]): Promise<WriteOperation[]> {
    const operations: WriteOperation[] = [];
    const keys = new Map<string, Set<string>>();
    for (const record of records) {
      const { domain, generation } = record.certificate;
      operations.push(this.#records.put([domain, generation], record));
      const known =
        keys.get(domain) ?? new Set(await this.#store.keys({ prefix: prefixOf("custody", domain) }));
      keys.set(domain, known.add(keyOf("custody", domain, generation)));
    }
    for (const known of keys.values()) {
      const surplus = [...known].sort().slice(0, Math.max(0, known.size - CERTIFICATES_MAX));
      operations.push(...surplus.map((key): WriteOperation => ({ type: "del", key })));
    }
    return operations;
  }

  async list(domain: string): Promise<CustodyRecord[]> {
    return this.#records.list(domain);
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
