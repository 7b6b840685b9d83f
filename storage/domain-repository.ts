/** The domains this host knows at first hand: those that live here, lived here, or are about to. */
import type { Durability, KeyValueStore, WriteOperation } from "./key-value-store.ts";
import { prefixOf } from "./keyspaces.ts";
import { MetadataError } from "./metadata-errors.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { DomainRecord } from "./records.ts";

export interface Domains {
  /** Throws METADATA_GENERATION_LOWERED, METADATA_OWNER_CHANGED: the fence may only rise, and names one host. */
  put(record: DomainRecord, durability: Durability): Promise<void>;
  get(id: string): Promise<DomainRecord | undefined>;
  /**
   * By id, else by name, else by the beginning of an id. Undefined when nothing fits; throws
   * METADATA_DOMAIN_AMBIGUOUS when several do.
   */
  find(query: string): Promise<DomainRecord | undefined>;
  list(): Promise<DomainRecord[]>;
  /** All that is stored of a domain but its placement and history, at once. Its vbds' files stay. */
  remove(id: string, durability: Durability): Promise<void>;
}

export class DomainRepository implements Domains {
  readonly #store: KeyValueStore;
  readonly #records: RecordSpace<DomainRecord>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#records = new RecordSpace(store, "domain", DomainRecord);
  }

  async put(record: DomainRecord, durability: Durability): Promise<void> {
    await this.#store.exclusive(async () => this.#store.write(await this.putOperations(record), durability));
  }

  /** For a batch with other records; the caller holds `exclusive`. Throws as `put` does. */
  async putOperations(record: DomainRecord): Promise<WriteOperation[]> {
    const operation = this.#records.put([record.id], record);
    const stored = await this.#records.get(record.id);
    if (stored !== undefined && record.generation < stored.generation) {
      throw new MetadataError({
        code: "METADATA_GENERATION_LOWERED",
        domain: record.id,
        stored: stored.generation,
        offered: record.generation,
      });
    }
    if (stored?.generation === record.generation && stored.owner !== record.owner) {
      throw new MetadataError({
        code: "METADATA_OWNER_CHANGED",
        domain: record.id,
        generation: record.generation,
        stored: stored.owner,
        offered: record.owner,
      });
    }
    return [operation];
  }

  async get(id: string): Promise<DomainRecord | undefined> {
    return this.#records.get(id);
  }

  async find(query: string): Promise<DomainRecord | undefined> {
    if (query === "") return undefined;
    const domains = await this.list();
    const exact = domains.find((domain) => domain.id === query);
    if (exact !== undefined) return exact;
    const named = domains.filter((domain) => domain.name === query);
    const matches = named.length > 0 ? named : domains.filter((domain) => domain.id.startsWith(query));
    if (matches.length > 1) {
      throw new MetadataError({
        code: "METADATA_DOMAIN_AMBIGUOUS",
        query,
        matches: matches.map(({ id, name }) => `${id} (${name})`),
      });
    }
    return matches[0];
  }

  async list(): Promise<DomainRecord[]> {
    return this.#records.list();
  }

  async remove(id: string, durability: Durability): Promise<void> {
    await this.#store.exclusive(async () => {
      const prefixes = (["vbd", "generation", "bitmap", "replica", "custody"] as const).map((space) =>
        prefixOf(space, id),
      );
      const keys = await Promise.all(prefixes.map((prefix) => this.#store.keys({ prefix })));
      const rest = keys.flat().map((key): WriteOperation => ({ type: "del", key }));
      await this.#store.write([this.#records.remove(id), ...rest], durability);
    });
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
