/**
 * What a host knows, durably: the repositories as one bundle, and the LevelDB they live in.
 *
 * LevelDB allows one process, so the daemon's control process opens it and its data process asks by RPC:
 * every method takes and returns values that `structuredClone` can copy, and is asynchronous.
 */
import { type Custody, CustodyRepository } from "./custody-repository.ts";
import { DomainRepository, type Domains } from "./domain-repository.ts";
import { GenerationRepository, type Generations } from "./generation-repository.ts";
import type { KeyValueStore } from "./key-value-store.ts";
import { LevelStore } from "./level-store.ts";
import { HistoryRepository, type MigrationHistory } from "./migration-history.ts";
import { JournalRepository, type MigrationJournal } from "./migration-journal.ts";
import { PlacementRepository, type Placements } from "./placement-repository.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import { RepairRecord } from "./records.ts";
import { ReplicaRepository, type Replicas } from "./replica-repository.ts";
import { bringToSchema, type SchemaOptions } from "./schema.ts";
import { VbdRepository, type Vbds } from "./vbd-repository.ts";

export interface Metadata {
  readonly domains: Domains;
  readonly vbds: Vbds;
  readonly generations: Generations;
  readonly replicas: Replicas;
  readonly placements: Placements;
  readonly history: MigrationHistory;
  readonly custody: Custody;
  readonly journal: MigrationJournal;
  /** Reads everything and returns what cannot be read; every other record is well. */
  verify(): Promise<InvalidRecord[]>;
  /** Waits for what is in flight. Idempotent; every other call throws METADATA_CLOSED afterwards. */
  close(): Promise<void>;
}

/** The repositories over any store. */
export class StoredMetadata implements Metadata {
  readonly domains: DomainRepository;
  readonly vbds: VbdRepository;
  readonly generations: GenerationRepository;
  readonly replicas: ReplicaRepository;
  readonly placements: PlacementRepository;
  readonly history: HistoryRepository;
  readonly custody: CustodyRepository;
  readonly journal: JournalRepository;
  readonly #store: KeyValueStore;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.domains = new DomainRepository(store);
    this.vbds = new VbdRepository(store);
    this.generations = new GenerationRepository(store);
    this.replicas = new ReplicaRepository(store);
    this.placements = new PlacementRepository(store);
    this.history = new HistoryRepository(store);
    this.custody = new CustodyRepository(store);
    this.journal = new JournalRepository(store, this);
  }

  async verify(): Promise<InvalidRecord[]> {
    const { domains, vbds, generations, replicas, placements, history, custody, journal } = this;
    const all = [domains, vbds, generations, replicas, placements, history, custody, journal];
    return (await Promise.all(all.map((repository) => repository.invalid()))).flat();
  }

  async close(): Promise<void> {
    await this.#store.close();
  }
}

export class LevelMetadata extends StoredMetadata {
  /**
   * Set once the folder went through `repairFolder`: the path of the copy made before. What the journal says
   * may then be older than the truth, so no domain starts by itself on such a host.
   */
  readonly repaired: string | undefined;

  private constructor(store: KeyValueStore, repaired: string | undefined) {
    super(store);
    this.repaired = repaired;
  }

  /**
   * Throws METADATA_LOCKED, METADATA_CORRUPT, METADATA_RECORDS_DROPPED, METADATA_UNAVAILABLE,
   * METADATA_FOREIGN, METADATA_SCHEMA_NEWER; then the folder is closed again and as it was.
   */
  static async open(options: SchemaOptions): Promise<LevelMetadata> {
    const store = await LevelStore.open(options.folder);
    try {
      await bringToSchema(store, options);
      const repair = await new RecordSpace(store, "meta", RepairRecord).get("repair");
      return new LevelMetadata(store, repair?.copy);
    } catch (error) {
      await store.close();
      throw error;
    }
  }
}
