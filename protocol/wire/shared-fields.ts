/** Fields that messages of both directions have, and their limits. */

import { ProtocolError } from "../errors.ts";
import { HASH_REGION_BLOCKS, PROTOCOL_VERSION } from "../limits.ts";
import type { HashLevel } from "../messages.ts";
import type { FieldReader, FieldWriter, Range, VbdShape } from "./fields.ts";

/** Characters of an id: of a migration, a domain, a host, a session. */
export const ID_LENGTH_MAX = 256;

/** Characters of a documented code: of a refusal, a failure. */
export const CODE_LENGTH_MAX = 64;

/** The first generation is 1. */
export const GENERATION: Range = { min: 1, max: Number.MAX_SAFE_INTEGER - 1 };

export const HASH_LEVEL = { region: 1, block: 2 } as const satisfies Record<HashLevel, number>;

/** Read first in the first message each way: the fields after it may mean something else in another version. */
export function readVersion(from: FieldReader): number {
  const theirs = from.integer("version", { min: 0, max: 0xffff });
  if (theirs === PROTOCOL_VERSION) return theirs;
  throw new ProtocolError({ code: "PROTOCOL_VERSION_MISMATCH", ours: PROTOCOL_VERSION, theirs });
}

/** A list with one item for each vbd, in their order. */
export function writePerVbd<T>(to: FieldWriter, items: readonly T[], write: (item: T) => void): void {
  to.integer(items.length);
  for (const item of items) write(item);
}

export function readPerVbd<T>(from: FieldReader, field: string, read: () => T): T[] {
  const count = from.vbds.length;
  if (from.integer(field) !== count) throw from.wrong(field, "not one for each vbd");
  return Array.from({ length: count }, read);
}

/** How many digests of `level` a vbd has. */
export function digestCountOf({ blockCount }: VbdShape, level: HashLevel): number {
  return level === "block" ? blockCount : Math.ceil(blockCount / HASH_REGION_BLOCKS);
}
