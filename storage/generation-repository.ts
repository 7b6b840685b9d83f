/**
 * The generation logs: per closed generation (or merged run of them) a header, and the encoded block-bitmaps
 * in chunks. Bitmaps are opaque here; `BlockBitmap.encode()` makes them and `decode` checks them.
 *
 * A log is replaced as a whole and in one batch, but only what differs is written: an unchanged entry has
 * the same digests in its header and its chunks are there already.
 */
import { createHash } from "node:crypto";
import type { Durability, KeyValueStore, WriteOperation } from "./key-value-store.ts";
import { keyOf, partsOf, prefixOf, readableKey } from "./keyspaces.ts";
import { MetadataError } from "./metadata-errors.ts";
import { type InvalidRecord, invalidRecordOf, RecordSpace, seal, unseal } from "./record-space.ts";
import { GenerationHeader, type StoredLogEntry } from "./records.ts";

/** A chunk is one LevelDB value: small enough that compaction and caches do not choke on it. */
export const BITMAP_CHUNK_SIZE = 256 << 10;

export interface Generations {
  /** The log of a domain becomes `entries`, ordered by `first`, not overlapping. All or nothing. */
  replaceLog(domain: string, entries: readonly StoredLogEntry[], durability: Durability): Promise<void>;
  /**
   * Adds one entry, or replaces the one with the same `first`, and reads no bitmap of the others: what a
   * handover can afford within the downtime. Throws METADATA_RECORD_INVALID when it overlaps another.
   */
  putEntry(domain: string, entry: StoredLogEntry, durability: Durability): Promise<void>;
  /** Ordered by `first`; empty when the domain has none. Throws METADATA_RECORD_INVALID. */
  readLog(domain: string): Promise<StoredLogEntry[]>;
}

export class GenerationRepository implements Generations {
  readonly #store: KeyValueStore;
  readonly #headers: RecordSpace<GenerationHeader>;

  constructor(store: KeyValueStore) {
    this.#store = store;
    this.#headers = new RecordSpace(store, "generation", GenerationHeader);
  }

  async replaceLog(
    domain: string,
    entries: readonly StoredLogEntry[],
    durability: Durability,
  ): Promise<void> {
    await this.#store.exclusive(async () => {
      await this.#store.write(await this.replaceOperations(domain, entries), durability);
    });
  }

  async putEntry(domain: string, entry: StoredLogEntry, durability: Durability): Promise<void> {
    await this.#store.exclusive(async () => {
      await this.#store.write(await this.putEntryOperations(domain, entry), durability);
    });
  }

  /** For a batch with other records; the caller holds `exclusive`. */
  async replaceOperations(domain: string, entries: readonly StoredLogEntry[]): Promise<WriteOperation[]> {
    refuseDisorder(domain, entries);
    const prefixes = [prefixOf("generation", domain), prefixOf("bitmap", domain)];
    const present = (await Promise.all(prefixes.map((prefix) => this.#store.keys({ prefix })))).flat();
    return this.#changeOperations(domain, { present, entries });
  }

  /** For a batch with other records; the caller holds `exclusive`. */
  async putEntryOperations(domain: string, entry: StoredLogEntry): Promise<WriteOperation[]> {
    const others = (await this.#headers.list(domain)).filter(({ first }) => first !== entry.first);
    refuseDisorder(
      domain,
      [...others, entry].toSorted((a, b) => a.first - b.first),
    );
    const known = await this.#headerOrNothing(domain, entry.first);
    const chunks = (known?.written ?? []).flatMap(({ sizeBytes }, vbd) =>
      Array.from({ length: chunkCountOf(sizeBytes) }, (_, n) => keyOf("bitmap", domain, vbd, entry.first, n)),
    );
    const present = known === undefined ? [] : [keyOf("generation", domain, entry.first), ...chunks];
    return this.#changeOperations(domain, { present, entries: [entry] });
  }

  /** From the keys that are `present` to those of `entries`: the rest is deleted, what is the same is left. */
  async #changeOperations(
    domain: string,
    { present, entries }: { present: readonly string[]; entries: readonly StoredLogEntry[] },
  ): Promise<WriteOperation[]> {
    const stale = new Set(present);
    const operations: WriteOperation[] = [];
    for (const entry of entries) {
      const header = headerOf(entry);
      const headerKey = keyOf("generation", domain, entry.first);
      const chunks = entry.written.flatMap((bitmap, vbd) => chunksOf(domain, vbd, entry.first, bitmap));
      const known = stale.delete(headerKey) ? await this.#headerOrNothing(domain, entry.first) : undefined;
      const unchanged = known !== undefined && JSON.stringify(known) === JSON.stringify(header);
      if (!unchanged) operations.push(this.#headers.put([domain, entry.first], header));
      for (const { key, bytes } of chunks) {
        if (stale.delete(key) && unchanged) continue;
        operations.push({ type: "put", key, value: seal(key, bytes) });
      }
    }
    return [...operations, ...[...stale].map((key): WriteOperation => ({ type: "del", key }))];
  }

  async readLog(domain: string): Promise<StoredLogEntry[]> {
    // Headers and chunks are read one after the other: a log replaced in between would be torn.
    return this.#store.exclusive(async () => {
      const log: StoredLogEntry[] = [];
      for (const header of await this.#headers.list(domain)) {
        const written: Uint8Array[] = [];
        for (let vbd = 0; vbd < header.written.length; vbd++)
          written.push(await this.#bitmap(domain, vbd, header));
        log.push({ first: header.first, last: header.last, written });
      }
      return log;
    });
  }

  async invalid(): Promise<InvalidRecord[]> {
    const headers = await this.#headers.invalid();
    if (headers.length > 0) return headers;
    return this.#store.exclusive(async () => {
      const invalid: InvalidRecord[] = [];
      for (const { key, value } of await this.#store.entries({ prefix: prefixOf("generation") })) {
        const [domain = ""] = partsOf(key);
        const header = this.#headers.decode(key, value);
        for (let vbd = 0; vbd < header.written.length; vbd++) {
          await this.#bitmap(domain, vbd, header).catch((error) => invalid.push(invalidRecordOf(error)));
        }
      }
      return invalid;
    });
  }

  async #bitmap(domain: string, vbd: number, header: GenerationHeader): Promise<Uint8Array> {
    const { sizeBytes, sha256 } = header.written[vbd]!;
    const keys = Array.from({ length: chunkCountOf(sizeBytes) }, (_, chunk) =>
      keyOf("bitmap", domain, vbd, header.first, chunk),
    );
    const bitmap = new Uint8Array(sizeBytes);
    let offset = 0;
    for (const [index, value] of (await this.#store.getMany(keys)).entries()) {
      const key = keys[index]!;
      if (value === undefined) throw invalidChunk(key, "it is not there");
      const bytes = unseal(key, value);
      if (offset + bytes.byteLength > sizeBytes) throw invalidChunk(key, "it is longer than its header says");
      bitmap.set(bytes, offset);
      offset += bytes.byteLength;
    }
    if (offset !== sizeBytes || digestOf(bitmap) !== sha256) {
      throw invalidChunk(
        keyOf("generation", domain, header.first),
        `the bitmap of vbd ${vbd} does not match its digest`,
      );
    }
    return bitmap;
  }

  /** An old header that cannot be read only means that the entry is written again, whole. */
  async #headerOrNothing(domain: string, first: number): Promise<GenerationHeader | undefined> {
    try {
      return await this.#headers.get(domain, first);
    } catch (error) {
      if (error instanceof MetadataError && error.code === "METADATA_RECORD_INVALID") return undefined;
      throw error;
    }
  }
}

function refuseDisorder(domain: string, entries: readonly { first: number; last: number }[]): void {
  let lastEnd = -1;
  for (const { first, last } of entries) {
    if (first <= lastEnd || last < first) {
      const reason = `generations ${first} to ${last} overlap or go back`;
      throw invalidChunk(keyOf("generation", domain, first), reason);
    }
    lastEnd = last;
  }
}

function headerOf(entry: StoredLogEntry): GenerationHeader {
  const written = entry.written.map((bitmap) => ({ sizeBytes: bitmap.byteLength, sha256: digestOf(bitmap) }));
  return { first: entry.first, last: entry.last, written };
}

function chunksOf(domain: string, vbd: number, first: number, bitmap: Uint8Array) {
  return Array.from({ length: chunkCountOf(bitmap.byteLength) }, (_, chunk) => ({
    key: keyOf("bitmap", domain, vbd, first, chunk),
    bytes: bitmap.subarray(chunk * BITMAP_CHUNK_SIZE, (chunk + 1) * BITMAP_CHUNK_SIZE),
  }));
}

function chunkCountOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / BITMAP_CHUNK_SIZE);
}

function digestOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function invalidChunk(key: string, reason: string): MetadataError {
  return new MetadataError({ code: "METADATA_RECORD_INVALID", key: readableKey(key), reason });
}
