/** Finished migrations, for people: the newest of each domain. */
import type { Durability, KeyValueStore, WriteOperation } from "./key-value-store.ts";
import { prefixOf } from "./keyspaces.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { HistoryRecord } from "./records.ts";

/** Enough to see a domain's year; its records take some 100 KiB. */
export const HISTORY_PER_DOMAIN_MAX = 256;

export interface MigrationHistory {
  /** The oldest go when a domain has more than HISTORY_PER_DOMAIN_MAX. */
  add(record: HistoryRecord, durability: Durability): Promise<void>;
  /** Newest first. */
  list(domain: string): Promise<HistoryRecord[]>;
}

export class HistoryRepository implements MigrationHistory {
  readonly #store: KeyValueStore;
  readonly #records: RecordSpace<HistoryRecord>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#records = new RecordSpace(store, "history", HistoryRecord);
  }

  async add(record: HistoryRecord, durability: Durability): Promise<void> {
    await this.#store.exclusive(async () => this.#store.write(await this.addOperations(record), durability));
  }

  /** For a batch with other records; the caller holds `exclusive`. */
  async addOperations(record: HistoryRecord): Promise<WriteOperation[]> {
    const prefix = prefixOf("history", record.domain);
    const keys = await this.#store.keys({ prefix });
    const sequence = Number(keys.at(-1)?.slice(prefix.length) ?? 0) + 1;
    const surplus = keys.slice(0, Math.max(0, keys.length + 1 - HISTORY_PER_DOMAIN_MAX));
    return [
      this.#records.put([record.domain, sequence], record),
      ...surplus.map((key): WriteOperation => ({ type: "del", key })),
    ];
  }

  async list(domain: string): Promise<HistoryRecord[]> {
    return (await this.#records.list(domain)).reverse();
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
