/** Where the bytes of each vbd lie on this host, and how to know them again. */
import type { Durability, KeyValueStore } from "./key-value-store.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { VbdRecord } from "./records.ts";

export interface Vbds {
  put(record: VbdRecord, durability: Durability): Promise<void>;
  get(domain: string, name: string): Promise<VbdRecord | undefined>;
  /** Ordered by name. The vbd index is the order of the domain's record, not this one. */
  list(domain: string): Promise<VbdRecord[]>;
  remove(domain: string, name: string, durability: Durability): Promise<void>;
}

export class VbdRepository implements Vbds {
  readonly #store: KeyValueStore;
  readonly #records: RecordSpace<VbdRecord>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#records = new RecordSpace(store, "vbd", VbdRecord);
  }

  async put(record: VbdRecord, durability: Durability): Promise<void> {
    await this.#store.write([this.putOperation(record)], durability);
  }

  /** For a batch with other records. */
  putOperation(record: VbdRecord) {
    return this.#records.put([record.domain, record.name], record);
  }

  async get(domain: string, name: string): Promise<VbdRecord | undefined> {
    return this.#records.get(domain, name);
  }

  async list(domain: string): Promise<VbdRecord[]> {
    return this.#records.list(domain);
  }

  async remove(domain: string, name: string, durability: Durability): Promise<void> {
    await this.#store.write([this.#records.remove(domain, name)], durability);
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
