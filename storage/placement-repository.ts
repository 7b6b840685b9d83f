/**
 * Where every domain of the cluster was last said to be, host by host: two that claim one domain are both kept.
 * Advice, never the right to run one.
 */
import type { Durability, KeyValueStore } from "./key-value-store.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { PlacementRecord } from "./records.ts";

export interface Placements {
  put(record: PlacementRecord, durability: Durability): Promise<void>;
  /** Of those who claim the domain the one with the highest generation. */
  get(domain: string): Promise<PlacementRecord | undefined>;
  list(): Promise<PlacementRecord[]>;
  /** What `host` said, or what anybody did. */
  remove(domain: string, durability: Durability & { host?: string }): Promise<void>;
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
    return this.#records.put([record.domain, record.host], record);
  }

  async get(domain: string): Promise<PlacementRecord | undefined> {
    const claims = await this.#records.list(domain);
    return claims.sort((a, b) => b.generation - a.generation)[0];
  }

  async list(): Promise<PlacementRecord[]> {
    return this.#records.list();
  }

  async remove(domain: string, { host, sync }: Durability & { host?: string }): Promise<void> {
    const hosts = host === undefined ? (await this.#records.list(domain)).map((each) => each.host) : [host];
    await this.#store.write(
      hosts.map((each) => this.#records.remove(domain, each)),
      { sync },
    );
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
