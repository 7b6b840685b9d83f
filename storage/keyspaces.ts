/**
 * The one list of key prefixes of the metadata database, each with "key → value".
 *
 * A number is never reused: a keyspace that goes leaves its number behind, so that an old folder can
 * never be read as something else. On disk a key is `<number>/<part>/<part>…`, in messages
 * `<name>/<part>/…`. Parts are escaped, so a vbd may be called `a/b`; numbers are padded, so that keys
 * sort as their numbers do.
 */

export const KEYSPACES = {
  /** schema → SchemaRecord; damage → DamageRecord; repair → RepairRecord */
  meta: "00",
  /** domain id → DomainRecord */
  domain: "01",
  /** domain id, vbd name → VbdRecord */
  vbd: "02",
  /** domain id, first generation → GenerationHeader */
  generation: "03",
  /** domain id, vbd index, first generation, chunk → a piece of the encoded block-bitmap, raw */
  bitmap: "04",
  /** domain id, host id → ReplicaRecord */
  replica: "05",
  /** domain id, host id → PlacementRecord */
  placement: "06",
  /** domain id, sequence number → HistoryRecord */
  history: "07",
  /** migration id → JournalEntry */
  journal: "08",
  /** domain id, generation → CustodyRecord */
  custody: "09",
} as const;

export type Keyspace = keyof typeof KEYSPACES;
export type KeyPart = string | number;

/** 2^53 has 16 digits. */
const NUMBER_DIGITS = 16;

/** The key of one record. */
export function keyOf(keyspace: Keyspace, ...parts: readonly KeyPart[]): string {
  return [KEYSPACES[keyspace], ...parts.map(escapePart)].join("/");
}

/** What all keys begin with whose first parts are `parts`; none of another domain, however alike its id. */
export function prefixOf(keyspace: Keyspace, ...parts: readonly KeyPart[]): string {
  return `${keyOf(keyspace, ...parts)}/`;
}

/** The parts that `keyOf` was given, numbers as their padded text. */
export function partsOf(key: string): string[] {
  return key.split("/").slice(1).map(decodeURIComponent);
}

/** A key as a person reads it: `domain/<id>` for `01/<id>`. */
export function readableKey(key: string): string {
  const [number, ...parts] = key.split("/");
  const name =
    Object.entries(KEYSPACES).find(([, value]) => value === number)?.[0] ?? `unknown keyspace ${number}`;
  return [name, ...parts.map((part) => part.replace(/^0{1,15}(?=\d+$)/, ""))].join("/");
}

function escapePart(part: KeyPart): string {
  if (typeof part === "number") return String(part).padStart(NUMBER_DIGITS, "0");
  // encodeURIComponent refuses a lone surrogate; such a part can name nothing we stored.
  return encodeURIComponent(part.toWellFormed());
}
