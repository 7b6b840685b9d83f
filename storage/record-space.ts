/**
 * One keyspace seen as typed records: JSON, checked both ways, under a checksum of our own. (LevelDB has
 * checksums too, but its Node binding never verifies those of its tables when it reads.)
 *
 *   value = crc32 of key and body (4 octets, big-endian) · body
 */
import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import { z } from "zod";
import type { KeyValueStore, StoredEntry, WriteOperation } from "./key-value-store.ts";
import { type KeyPart, type Keyspace, keyOf, prefixOf, readableKey } from "./keyspaces.ts";
import { MetadataError } from "./metadata-errors.ts";

const CHECKSUM_SIZE = 4;

/** A stored record that cannot be read: its key in readable form, and why. */
export type InvalidRecord = { readonly key: string; readonly reason: string };

export class RecordSpace<T> {
  readonly #store: KeyValueStore;
  readonly #keyspace: Keyspace;
  readonly #schema: z.ZodType<T>;

  constructor(store: KeyValueStore, keyspace: Keyspace, schema: z.ZodType<T>) {
    this.#store = store;
    this.#keyspace = keyspace;
    this.#schema = schema;
  }

  /** Undefined when there is none. Throws METADATA_RECORD_INVALID. */
  async get(...parts: KeyPart[]): Promise<T | undefined> {
    const key = keyOf(this.#keyspace, ...parts);
    const value = await this.#store.get(key);
    return value === undefined ? undefined : this.decode(key, value);
  }

  /** All records below `parts`, in the order of their keys. Throws METADATA_RECORD_INVALID. */
  async list(...parts: KeyPart[]): Promise<T[]> {
    const prefix = prefixOf(this.#keyspace, ...parts);
    return (await this.#store.entries({ prefix })).map(({ key, value }) => this.decode(key, value));
  }

  /** Throws METADATA_RECORD_INVALID: what could not be read back is not written. */
  put(parts: readonly KeyPart[], record: T): WriteOperation {
    const key = keyOf(this.#keyspace, ...parts);
    const checked = parsed(key, this.#schema, record);
    return { type: "put", key, value: seal(key, Buffer.from(JSON.stringify(checked), "utf8")) };
  }

  remove(...parts: KeyPart[]): WriteOperation {
    return { type: "del", key: keyOf(this.#keyspace, ...parts) };
  }

  /** Throws METADATA_RECORD_INVALID. */
  decode(key: string, value: Uint8Array): T {
    let json: unknown;
    const body = unseal(key, value);
    try {
      json = JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString("utf8"));
    } catch (cause) {
      throw new MetadataError(
        { code: "METADATA_RECORD_INVALID", key: readableKey(key), reason: "not JSON" },
        { cause },
      );
    }
    return parsed(key, this.#schema, json);
  }

  /** The records of this keyspace that cannot be read; the others are well. */
  async invalid(): Promise<InvalidRecord[]> {
    const entries = await this.#store.entries({ prefix: prefixOf(this.#keyspace) });
    return entries.flatMap((entry) => this.#invalidOrNot(entry));
  }

  #invalidOrNot({ key, value }: StoredEntry): InvalidRecord[] {
    try {
      this.decode(key, value);
      return [];
    } catch (error) {
      return [invalidRecordOf(error)];
    }
  }
}

/** What METADATA_RECORD_INVALID says, as facts; anything else is thrown again. */
export function invalidRecordOf(error: unknown): InvalidRecord {
  if (!(error instanceof MetadataError) || error.detail.code !== "METADATA_RECORD_INVALID") throw error;
  const { key, reason } = error.detail;
  return { key, reason };
}

/** `body` with the checksum that ties it to its key. */
export function seal(key: string, body: Uint8Array): Uint8Array {
  const value = Buffer.allocUnsafe(CHECKSUM_SIZE + body.byteLength);
  value.writeUInt32BE(crc32(body, crc32(key)));
  value.set(body, CHECKSUM_SIZE);
  return value;
}

/** The body again, a view of `value`. Throws METADATA_RECORD_INVALID. */
export function unseal(key: string, value: Uint8Array): Uint8Array {
  const body = value.subarray(CHECKSUM_SIZE);
  const stored =
    value.byteLength < CHECKSUM_SIZE ? undefined : new DataView(value.buffer, value.byteOffset).getUint32(0);
  if (stored !== crc32(body, crc32(key))) {
    throw new MetadataError({
      code: "METADATA_RECORD_INVALID",
      key: readableKey(key),
      reason: "its checksum is wrong",
    });
  }
  return body;
}

function parsed<T>(key: string, schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new MetadataError(
    { code: "METADATA_RECORD_INVALID", key: readableKey(key), reason: z.prettifyError(result.error) },
    { cause: result.error },
  );
}
