/** Where every domain of the cluster was last said to be. Advice, never the right to run one. */
import type { Durability, KeyValueStore } from "./key-value-store.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { PlacementRecord } from "./records.ts";

export interface Placements {
  put(record: PlacementRecord, durability: Durability): Promise<void>;
  get(domain: string): Promise<PlacementRecord | undefined>;
  list(): Promise<PlacementRecord[]>;
  remove(domain: string, durability: Durability): Promise<void>;
}

export class PlacementRepository implements Placements {
  readonly #store: KeyValueStore;
  readonly #records: RecordSpace<PlacementRecord>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#records = new RecordSpace(store, "placement", PlacementRecord);
  }

  async put(record: PlacementRecord, durability: Durability): Promise<void> {
    await this.#store.write([this.putOperation(record)], durability);
  }

  /** For a batch with other records. */
  putOperation(record: PlacementRecord) {
    return this.#records.put([record.domain], record);
  }

  async get(domain: string): Promise<PlacementRecord | undefined> {
    return this.#records.get(domain);
  }

  async list(): Promise<PlacementRecord[]> {
    return this.#records.list();
  }

  async remove(domain: string, durability: Durability): Promise<void> {
    await this.#store.write([this.#records.remove(domain)], durability);
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
