/** What this host knows of every host's copies of a domain's vbds, its own included. */
import type { Durability, KeyValueStore } from "./key-value-store.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { ReplicaRecord } from "./records.ts";

export interface Replicas {
  put(record: ReplicaRecord, durability: Durability): Promise<void>;
  get(domain: string, host: string): Promise<ReplicaRecord | undefined>;
  list(domain: string): Promise<ReplicaRecord[]>;
  remove(domain: string, host: string, durability: Durability): Promise<void>;
}

export class ReplicaRepository implements Replicas {
  readonly #store: KeyValueStore;
  readonly #records: RecordSpace<ReplicaRecord>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#records = new RecordSpace(store, "replica", ReplicaRecord);
  }

  async put(record: ReplicaRecord, durability: Durability): Promise<void> {
    await this.#store.write([this.putOperation(record)], durability);
  }

  /** For a batch with other records. */
  putOperation(record: ReplicaRecord) {
    return this.#records.put([record.domain, record.host], record);
  }

  async get(domain: string, host: string): Promise<ReplicaRecord | undefined> {
    return this.#records.get(domain, host);
  }

  async list(domain: string): Promise<ReplicaRecord[]> {
    return this.#records.list(domain);
  }

  async remove(domain: string, host: string, durability: Durability): Promise<void> {
    await this.#store.write([this.#records.remove(domain, host)], durability);
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
