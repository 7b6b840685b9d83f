/**
 * What is stored, record by record. A record is checked when it is written (so that a mistake of ours is
 * found before a crash makes it the only truth) and when it is read (so that a damaged one is an error
 * that names its key). Times are milliseconds since 1970.
 */
import { z } from "zod";
import { BLOCK_COUNT_MAX, NAME_LENGTH_MAX, VBDS_MAX } from "../protocol/limits.ts";
import { BLOCK_SIZE_BYTES } from "../protocol/units.ts";

/** Ids are parts of keys and come from peers: bounded, never empty. */
const Id = z.string().min(1).max(256);
const Name = z.string().min(1).max(NAME_LENGTH_MAX);
const Generation = z.int().min(0);
const TimeMs = z.number().min(0);
const SizeBytes = z
  .int()
  .min(0)
  .max(BLOCK_COUNT_MAX * BLOCK_SIZE_BYTES);
/** As long as a message that brought it may be. */
const Text = z.string().max(1 << 20);

export const SchemaRecord = z.strictObject({ version: z.int().min(1) });
export type SchemaRecord = z.infer<typeof SchemaRecord>;

/** LevelDB left records out at an open; the folder is refused until it was repaired. */
export const DamageRecord = z.strictObject({ droppedBytes: z.int().min(0) });

/** The folder was repaired: what it says about ownership may be older than the truth. */
export const RepairRecord = z.strictObject({ copy: z.string() });

export const VbdShape = z.strictObject({ name: Name, sizeBytes: SizeBytes });

/**
 * What this host last knew of a domain's state. `prepared`: whole and suspended here, the handover not
 * seen yet. `away`: the domain lives on another host.
 */
export const DOMAIN_STATES = ["running", "suspended", "stopped", "crashed", "prepared", "away"] as const;

export const DomainRecord = z.strictObject({
  id: Id,
  name: Name,
  hypervisor: z.string().min(1).max(64),
  memoryBytes: z.int().min(0),
  /** The hypervisor adapter's own JSON. */
  config: Text,
  /** The order is the vbd index of every message and bitmap. */
  vbds: z.array(VbdShape).max(VBDS_MAX).readonly(),
  /** The highest generation this host knows of. May only rise: it is the fence. */
  generation: Generation,
  /** The host that runs, or may run, the domain under `generation`. */
  owner: Id,
  state: z.enum(DOMAIN_STATES),
  createdAt: TimeMs,
  /** Of a guest that was let run again under a higher generation: the one in the names by which it reaches its vbds. */
  guestGeneration: z.exactOptional(Generation),
});
export type DomainRecord = z.infer<typeof DomainRecord>;

export const VbdRecord = z.strictObject({
  domain: Id,
  name: Name,
  /** The file or device of this host that holds the bytes. */
  path: z.string().min(1).max(4096),
  sizeBytes: SizeBytes,
  /** Part of the NBD export's name, so that only who was told it can attach. */
  exportToken: z.string().min(1).max(256),
  /** What the file was when we last closed it: a difference means that someone else wrote to it. */
  identity: z.exactOptional(z.record(z.string(), z.json())),
});
export type VbdRecord = z.infer<typeof VbdRecord>;

/** One entry of a generation log without its bitmaps, which lie in chunks of their own. */
export const GenerationHeader = z.strictObject({
  first: Generation,
  last: Generation,
  /** Per vbd: length and digest of the encoded bitmap. Equal ones need not be written again. */
  written: z
    .array(z.strictObject({ sizeBytes: z.int().min(0), sha256: z.string().length(64) }))
    .max(VBDS_MAX),
});
export type GenerationHeader = z.infer<typeof GenerationHeader>;

/** `GenerationLogEntry` with its bitmaps as `BlockBitmap.encode()` gives them: it may cross processes. */
export type StoredLogEntry = {
  readonly first: number;
  readonly last: number;
  readonly written: readonly Uint8Array[];
};

/**
 * A host's kept copy of a domain's vbds: whole through `generation`. For this host's own copy `state` says
 * whether that can be believed.
 */
export const REPLICA_STATES = ["whole", "receiving", "unknown"] as const;

export const ReplicaRecord = z.strictObject({
  domain: Id,
  host: Id,
  generation: Generation,
  updatedAt: TimeMs,
  /** Since when something has been writing to the copy: until that ends its label is a memory, not a fact. */
  dirtySince: z.exactOptional(TimeMs),
  state: z.exactOptional(z.enum(REPLICA_STATES)),
  /** Why `state` is what it is, for people. */
  reason: z.exactOptional(Text),
});
export type ReplicaRecord = z.infer<typeof ReplicaRecord>;

/** Where a domain is, as `host` said. Advice: the right to run comes from the journal. */
export const PlacementRecord = z.strictObject({
  domain: Id,
  name: Name,
  host: Id,
  hostName: z.string().max(NAME_LENGTH_MAX),
  generation: Generation,
  state: z.string().min(1).max(32),
  /** Orders what one host says about one generation. */
  seq: z.int().min(0),
  updatedAt: TimeMs,
  /** Who told us. */
  from: Id,
  /** The whole record as `host` signed it (protocol/placement.ts), base64. */
  signed: z.exactOptional(z.base64().max(64 << 10)),
});
export type PlacementRecord = z.infer<typeof PlacementRecord>;

export const HistoryRecord = z.strictObject({
  migration: Id,
  domain: Id,
  from: Id,
  to: Id,
  /** The generation that the migration ended (or tried to). */
  generation: Generation,
  startedAt: TimeMs,
  endedAt: TimeMs,
  outcome: z.string().min(1).max(64),
  /** What was measured, JSON. */
  figures: Text,
});
export type HistoryRecord = z.infer<typeof HistoryRecord>;

/** `SignedCertificate` of `protocol/custody.ts`. */
export const CustodyRecord = z.strictObject({
  certificate: z.strictObject({
    kind: z.enum(["handover", "taken back", "adopted"]),
    domain: Id,
    generation: Generation,
    from: Id,
    to: Id,
    previous: z.string().min(1).max(64),
    digest: z.string().min(1).max(64),
    timeMs: z.int().min(0),
    word: z.string().max(4096),
  }),
  fromSignature: z.exactOptional(z.string().length(128)),
  toSignature: z.exactOptional(z.string().length(128)),
});
export type CustodyRecord = z.infer<typeof CustodyRecord>;
