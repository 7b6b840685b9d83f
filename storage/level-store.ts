/**
 * The key-value store on LevelDB, and what a person has to know when it does not open.
 *
 * LevelDB as its Node binding opens it (no paranoid checks) drops every record of a damaged log block,
 * synced ones too, notes it in its text file `LOG`, and opens as if nothing were missing: one flipped bit
 * took 14 of 20 synced records with it. One of them may be the handover of a domain, so we read that file
 * after every open, note the loss durably (the next open would find nothing any more) and refuse the
 * folder until it was repaired.
 */
import { mkdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { Level } from "level";
import {
  type Durability,
  type KeyValueStore,
  type Scan,
  type StoredEntry,
  Turnstile,
  type WriteOperation,
} from "./key-value-store.ts";
import { MetadataError } from "./metadata-errors.ts";
import { RecordSpace } from "./record-space.ts";
import { DamageRecord } from "./records.ts";

type Database = Level<string, Uint8Array>;

/** `level` types only what browsers have, too; under Node its class is classic-level's, which can repair. */
const levelWithRepair = Level as unknown as { repair(location: string): Promise<void> };

/** Above every character a key can have: ends the range of a prefix. */
const AFTER_ALL = "\uffff";

export class LevelStore implements KeyValueStore {
  readonly #folder: string;
  readonly #database: Database;
  readonly #turnstile = new Turnstile();

  private constructor(folder: string, database: Database) {
    this.#folder = folder;
    this.#database = database;
  }

  /**
   * Opens or creates `folder`. Throws METADATA_LOCKED, METADATA_CORRUPT, METADATA_RECORDS_DROPPED,
   * METADATA_UNAVAILABLE.
   */
  static async open(folder: string): Promise<LevelStore> {
    const database = await openDatabase(folder);
    const store = new LevelStore(folder, database);
    try {
      await refuseDamage(folder, store);
      return store;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /**
   * LevelDB's own repair, then opens what is left without asking whether records were dropped.
   * Throws METADATA_LOCKED, METADATA_CORRUPT, METADATA_UNAVAILABLE.
   */
  static async repair(folder: string): Promise<LevelStore> {
    try {
      await levelWithRepair.repair(folder);
    } catch (error) {
      throw await openErrorOf(folder, error);
    }
    return new LevelStore(folder, await openDatabase(folder));
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    return this.#guarded(() => this.#database.get(key));
  }

  async getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    return this.#guarded(() => this.#database.getMany([...keys]));
  }

  async entries(scan: Scan): Promise<StoredEntry[]> {
    const all = await this.#guarded(() => this.#database.iterator(rangeOf(scan)).all());
    return all.map(([key, value]) => ({ key, value }));
  }

  async keys(scan: Scan): Promise<string[]> {
    return this.#guarded(() => this.#database.keys(rangeOf(scan)).all());
  }

  async write(operations: readonly WriteOperation[], durability: Durability): Promise<void> {
    if (operations.length === 0) return;
    await this.#guarded(() => this.#database.batch([...operations], { sync: durability.sync }));
  }

  exclusive<T>(work: () => Promise<T>): Promise<T> {
    return this.#turnstile.run(work);
  }

  async close(): Promise<void> {
    await this.#turnstile.idle();
    await this.#database.close();
  }

  async #guarded<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw metadataErrorOf(this.#folder, error);
    }
  }
}

async function openDatabase(folder: string): Promise<Database> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const database: Database = new Level(folder, { keyEncoding: "utf8", valueEncoding: "view" });
    await database.open();
    return database;
  } catch (error) {
    throw await openErrorOf(folder, error);
  }
}

async function refuseDamage(folder: string, store: LevelStore): Promise<void> {
  const damage = new RecordSpace(store, "meta", DamageRecord);
  const dropped = await bytesDroppedAtOpen(folder);
  if (dropped > 0) await store.write([damage.put(["damage"], { droppedBytes: dropped })], { sync: true });
  const record = await damage.get("damage");
  if (record !== undefined) {
    throw new MetadataError({ code: "METADATA_RECORDS_DROPPED", folder, droppedBytes: record.droppedBytes });
  }
}

async function bytesDroppedAtOpen(folder: string): Promise<number> {
  // LevelDB begins a new LOG with every open.
  const text = await readFile(join(folder, "LOG"), "utf8").catch((error) => {
    throw unavailable(folder, error);
  });
  return text.matchAll(/: dropping (\d+) bytes/g).reduce((sum, match) => sum + Number(match[1]), 0);
}

/** What LevelDB said when it would not open; it hides the reason in `cause`. */
async function openErrorOf(folder: string, error: unknown): Promise<MetadataError> {
  const reason = error instanceof Error && error.cause !== undefined ? error.cause : error;
  if (codeOf(reason) !== "LEVEL_LOCKED") return metadataErrorOf(folder, reason);
  const holderPid = await lockHolderOf(folder);
  return new MetadataError(
    { code: "METADATA_LOCKED", folder, ...(holderPid === undefined ? {} : { holderPid }) },
    { cause: error },
  );
}

function metadataErrorOf(folder: string, error: unknown): MetadataError {
  switch (codeOf(error)) {
    case "LEVEL_CORRUPTION":
      return new MetadataError({ code: "METADATA_CORRUPT", folder, reason: textOf(error) }, { cause: error });
    case "LEVEL_DATABASE_NOT_OPEN":
    case "LEVEL_ITERATOR_NOT_OPEN":
      return new MetadataError({ code: "METADATA_CLOSED" }, { cause: error });
    default:
      // A file that LevelDB lists and that is gone is damage, though the system calls it an I/O error.
      if (/No such file or directory$/.test(textOf(error)) && /\.(ldb|sst)|MANIFEST/.test(textOf(error))) {
        return new MetadataError(
          { code: "METADATA_CORRUPT", folder, reason: textOf(error) },
          { cause: error },
        );
      }
      return unavailable(folder, error);
  }
}

function unavailable(folder: string, error: unknown): MetadataError {
  return new MetadataError({ code: "METADATA_UNAVAILABLE", folder, reason: textOf(error) }, { cause: error });
}

/** The process that holds the lock, where the system tells (Linux: /proc/locks). For the message only. */
async function lockHolderOf(folder: string): Promise<number | undefined> {
  try {
    const [{ ino }, locks] = await Promise.all([stat(join(folder, "LOCK")), readFile("/proc/locks", "utf8")]);
    const line = locks.split("\n").find((text) => text.includes(`:${ino} `));
    const pid = Number(line?.trim().split(/\s+/)[4]);
    return pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

function rangeOf({ prefix, limit, reverse }: Scan) {
  return { gte: prefix, lt: `${prefix}${AFTER_ALL}`, limit: limit ?? -1, reverse: reverse ?? false };
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
