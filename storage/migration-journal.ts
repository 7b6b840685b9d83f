/**
 * The durable record of each migration, read back after a crash: what gives a host the right to run a domain,
 * and takes it away.
 *
 * Every write here is synced before it completes: `persist` precedes `send` (DESIGN §4 rule 6), and there is
 * no reason ever to write a journal that may be forgotten, so no argument asks.
 */
import { assert } from "../protocol/errors.ts";
import type { CustodyRepository } from "./custody-repository.ts";
import type { DomainRepository } from "./domain-repository.ts";
import type { GenerationRepository } from "./generation-repository.ts";
import { JournalEntry } from "./journal-records.ts";
import type { KeyValueStore, WriteOperation } from "./key-value-store.ts";
import type { HistoryRepository } from "./migration-history.ts";
import type { PlacementRepository } from "./placement-repository.ts";
import { type InvalidRecord, RecordSpace } from "./record-space.ts";
import type {
  CustodyRecord,
  DomainRecord,
  HistoryRecord,
  PlacementRecord,
  ReplicaRecord,
  StoredLogEntry,
  VbdRecord,
} from "./records.ts";
import type { ReplicaRepository } from "./replica-repository.ts";
import type { VbdRepository } from "./vbd-repository.ts";

/** What changes together: whatever is named is written, all of it or nothing. */
export type Commit = {
  readonly journal?: JournalEntry;
  /** A migration whose journal entry goes: it is over, and `history` says how. */
  readonly journalRemoved?: string;
  readonly domain?: DomainRecord;
  readonly vbds?: readonly VbdRecord[];
  readonly replicas?: readonly ReplicaRecord[];
  /** Replaces the domain's whole generation log. */
  readonly log?: { readonly domain: string; readonly entries: readonly StoredLogEntry[] };
  /** Adds one entry to a domain's log, or replaces the one with its `first`. Not together with `log`. */
  readonly logEntry?: { readonly domain: string; readonly entry: StoredLogEntry };
  readonly placement?: PlacementRecord;
  readonly history?: HistoryRecord;
  readonly custody?: readonly CustodyRecord[];
};

export interface MigrationJournal {
  /** Durable when it completes. Replaces what was there of the same migration. */
  put(entry: JournalEntry): Promise<void>;
  get(migration: string): Promise<JournalEntry | undefined>;
  list(): Promise<JournalEntry[]>;
  /** Durable when it completes. */
  remove(migration: string): Promise<void>;
  /**
   * One durable batch: a change of ownership is one fact in several records, and no crash may separate them.
   * Throws METADATA_GENERATION_LOWERED, METADATA_RECORD_INVALID; then nothing was written.
   */
  commit(changes: Commit): Promise<void>;
}

type Repositories = {
  domains: DomainRepository;
  vbds: VbdRepository;
  generations: GenerationRepository;
  replicas: ReplicaRepository;
  placements: PlacementRepository;
  history: HistoryRepository;
  custody: CustodyRepository;
};

export class JournalRepository implements MigrationJournal {
  readonly #store: KeyValueStore;
  readonly #repositories: Repositories;
  readonly #records: RecordSpace<JournalEntry>;

  constructor(store: KeyValueStore, repositories: Repositories) {
    this.#store = store;
    this.#repositories = repositories;
    this.#records = new RecordSpace(store, "journal", JournalEntry);
  }

  async put(entry: JournalEntry): Promise<void> {
    await this.commit({ journal: entry });
  }

  async get(migration: string): Promise<JournalEntry | undefined> {
    return this.#records.get(migration);
  }

  async list(): Promise<JournalEntry[]> {
    return this.#records.list();
  }

  async remove(migration: string): Promise<void> {
    await this.commit({ journalRemoved: migration });
  }

  async commit(changes: Commit): Promise<void> {
    await this.#store.exclusive(async () => {
      await this.#store.write(await this.#operationsOf(changes), { sync: true });
    });
  }

  async #operationsOf(changes: Commit): Promise<WriteOperation[]> {
    const { domains, vbds, generations, replicas, placements, history, custody } = this.#repositories;
    const { domain, log, custody: certificates } = changes;
    // Each reads before it writes: at once, as a frozen guest may be waiting for all of them.
    const [ofDomain, ofLog, ofCustody] = await Promise.all([
      domain === undefined ? [] : domains.putOperations(domain),
      log === undefined ? [] : generations.replaceOperations(log.domain, log.entries),
      certificates === undefined ? [] : custody.putOperations(certificates),
    ]);
    const operations: WriteOperation[] = [...ofDomain, ...ofLog, ...ofCustody];
    if (changes.journalRemoved !== undefined) operations.push(this.#records.remove(changes.journalRemoved));
    if (changes.journal !== undefined) {
      operations.push(this.#records.put([changes.journal.record.migration], changes.journal));
    }
    for (const vbd of changes.vbds ?? []) operations.push(vbds.putOperation(vbd));
    for (const replica of changes.replicas ?? []) operations.push(replicas.putOperation(replica));
    if (changes.logEntry !== undefined) {
      assert(changes.log === undefined, "a commit changes the log one way");
      operations.push(
        ...(await generations.putEntryOperations(changes.logEntry.domain, changes.logEntry.entry)),
      );
    }
    if (changes.placement !== undefined) operations.push(placements.putOperation(changes.placement));
    if (changes.history !== undefined) operations.push(...(await history.addOperations(changes.history)));
    return operations;
  }

  async invalid(): Promise<InvalidRecord[]> {
    return this.#records.invalid();
  }
}
