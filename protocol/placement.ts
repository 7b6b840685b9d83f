/**
 * Where a domain is, in its host's own signed words: the record, its octets, and what makes one wrong by itself.
 * `placement-table.ts` says which of many records counts; `placement-messages.ts` how they travel.
 *
 *   signed record = record · signature[64]
 *   record        = name LABEL, name domain, name name, name host, name host_name, varint generation, u8 state,
 *                   varint memory_bytes, varint count, (name vbd, varint size_bytes) …,
 *                   varint count, (name host, varint generation, varint at_ms, varint dirty_blocks + 1 or 0) …,
 *                   u8 disputes (name host, varint generation)?, varint seq, varint time_ms
 *
 * The host that a record is about is the one that signs it, so it does not matter who relays it. It is advice: the
 * right to run a domain comes from the journal and the handover, never from here.
 */

import { assert, ProtocolError } from "./errors.ts";
import { BLOCK_COUNT_MAX, NAME_LENGTH_MAX, VBDS_MAX } from "./limits.ts";
import type { HostId } from "./messages.ts";
import { badField } from "./octets.ts";
import { BLOCK_SIZE_BYTES, type Generation } from "./units.ts";
import { FieldReader, FieldWriter } from "./wire/fields.ts";

/** `gone`: destroyed, nothing of it is left; told for a while, so that no old record brings the domain back. */
export type PlacementState = "running" | "suspended" | "stopped" | "crashed" | "gone";

/** A kept copy as the domain's host knows it. */
export type PlacedReplica = {
  readonly host: HostId;
  /** The last generation that it has whole. */
  readonly generation: Generation;
  /** When the domain's host last knew that, in its own wall time. */
  readonly atMs: number;
  /** What had to be sent there when the record was made. */
  readonly dirtyBlocks?: number;
};

export type Placement = {
  readonly domain: string;
  readonly name: string;
  /** Who has the domain under `generation`, and who says so. */
  readonly host: HostId;
  readonly hostName: string;
  readonly generation: Generation;
  readonly state: PlacementState;
  readonly memoryBytes: number;
  readonly vbds: readonly { readonly name: string; readonly sizeBytes: number }[];
  readonly replicas: readonly PlacedReplica[];
  /**
   * Another's claim that this host knows to be wrong: its own journal still has the domain. Keeps this record beside
   * one of a higher generation, so that the quarrel is seen everywhere.
   */
  readonly disputes?: { readonly host: HostId; readonly generation: Generation };
  /** Of all that a host says, the later has the higher: its wall clock in milliseconds, and never the same twice. */
  readonly seq: number;
  /** By the host's wall clock. */
  readonly timeMs: number;
};

export type SignedPlacement = {
  readonly placement: Placement;
  /** As it travels and is kept. */
  readonly octets: Uint8Array;
};

/** Octets of a signed record. 64 vbds and 32 replicas fit. */
export const PLACEMENT_SIZE_MAX = 16 << 10;
export const REPLICAS_MAX = 32;
export const PLACEMENT_SIGNATURE_SIZE = 64;

const LABEL = "sojourn placement 1";
const ID_LENGTH_MAX = 128;
const MEMORY_BYTES_MAX = 2 ** 46;

/** Numbers are never reused. */
const STATE = { running: 1, suspended: 2, stopped: 3, crashed: 4, gone: 5 } as const satisfies Record<
  PlacementState,
  number
>;

const NO_VBDS = { vbds: undefined, bitmapBytesMax: 0 } as const;

/** What a host signs. */
export function placementOctets(placement: Placement): Uint8Array {
  const { vbds, replicas, disputes } = placement;
  const to = new FieldWriter();
  to.name(LABEL, LABEL.length);
  to.name(placement.domain, ID_LENGTH_MAX);
  to.name(placement.name, NAME_LENGTH_MAX);
  to.name(placement.host, ID_LENGTH_MAX);
  to.name(placement.hostName, NAME_LENGTH_MAX);
  to.integer(placement.generation);
  to.member(placement.state, STATE);
  to.integer(placement.memoryBytes);
  assert(vbds.length <= VBDS_MAX && replicas.length <= REPLICAS_MAX, "a placement over its limits");
  to.integer(vbds.length);
  for (const { name, sizeBytes } of vbds) {
    to.name(name, NAME_LENGTH_MAX);
    to.integer(sizeBytes);
  }
  to.integer(replicas.length);
  for (const { host, generation, atMs, dirtyBlocks } of replicas) {
    to.name(host, ID_LENGTH_MAX);
    to.integer(generation);
    to.integer(atMs);
    to.integer(dirtyBlocks === undefined ? 0 : dirtyBlocks + 1);
  }
  to.integer(disputes === undefined ? 0 : 1);
  if (disputes !== undefined) {
    to.name(disputes.host, ID_LENGTH_MAX);
    to.integer(disputes.generation);
  }
  to.integer(placement.seq);
  to.integer(placement.timeMs);
  return to.finish();
}

/** The record and its signature, which is over `placementOctets`. */
export function joinPlacement(
  placement: Placement,
  { octets, signature }: { octets: Uint8Array; signature: Uint8Array },
): SignedPlacement {
  assert(signature.length === PLACEMENT_SIGNATURE_SIZE, "not a signature");
  const joined = new Uint8Array(octets.length + signature.length);
  joined.set(octets);
  joined.set(signature, octets.length);
  assert(joined.length <= PLACEMENT_SIZE_MAX, "a placement over its size");
  return { placement, octets: joined };
}

export function signedPart({ octets }: SignedPlacement): { octets: Uint8Array; signature: Uint8Array } {
  const size = octets.length - PLACEMENT_SIGNATURE_SIZE;
  return { octets: octets.subarray(0, size), signature: octets.subarray(size) };
}

/** Keeps a copy of `bytes`. Throws ProtocolError; the signature is not checked. */
export function decodePlacement(bytes: Uint8Array): SignedPlacement {
  if (bytes.length > PLACEMENT_SIZE_MAX) {
    throw new ProtocolError({
      code: "PROTOCOL_FRAME_TOO_LARGE",
      sizeBytes: bytes.length,
      limitBytes: PLACEMENT_SIZE_MAX,
    });
  }
  if (bytes.length <= PLACEMENT_SIGNATURE_SIZE) {
    throw new ProtocolError({
      code: "PROTOCOL_FRAME_TRUNCATED",
      sizeBytes: bytes.length,
      neededBytes: PLACEMENT_SIGNATURE_SIZE + 1,
    });
  }
  const octets = bytes.slice();
  return { placement: read(octets.subarray(0, octets.length - PLACEMENT_SIGNATURE_SIZE)), octets };
}

/** Why a record is wrong whoever says it; undefined for one that may be right. */
export function contradiction({
  host,
  generation,
  state,
  vbds,
  replicas,
  disputes,
}: Placement): string | undefined {
  if (generation < 1) return "a domain is nowhere under generation 0";
  if (state === "gone" && (vbds.length > 0 || replicas.length > 0))
    return "gone, and yet with vbds or replicas";
  if (replicas.some((replica) => replica.generation > generation)) return "a replica newer than the domain";
  if (new Set(vbds.map(({ name }) => name)).size < vbds.length) return "two vbds of one name";
  if (new Set(replicas.map((replica) => replica.host)).size < replicas.length)
    return "two replicas on one host";
  if (disputes?.host === host) return "disputes its own word";
  if (disputes !== undefined && disputes.generation <= generation)
    return "disputes a claim that its own outdoes";
  return undefined;
}

function read(octets: Uint8Array): Placement {
  const from = new FieldReader("placement", octets, NO_VBDS);
  if (from.name("label", LABEL.length) !== LABEL) throw badField("placement.label", "not a placement");
  const domain = from.name("domain", ID_LENGTH_MAX);
  const name = from.name("name", NAME_LENGTH_MAX);
  const host = from.name("host", ID_LENGTH_MAX);
  const hostName = from.name("host_name", NAME_LENGTH_MAX);
  const generation = from.integer("generation");
  const state = from.member("state", STATE);
  const memoryBytes = from.integer("memory_bytes", { min: 0, max: MEMORY_BYTES_MAX });
  const vbds: { name: string; sizeBytes: number }[] = [];
  for (let left = from.integer("vbds", { min: 0, max: VBDS_MAX }); left > 0; left--) {
    const vbd = from.name("vbd", NAME_LENGTH_MAX);
    vbds.push({ name: vbd, sizeBytes: from.integer("vbd_size", { min: 0, max: VBD_SIZE_MAX }) });
  }
  const replicas: PlacedReplica[] = [];
  for (let left = from.integer("replicas", { min: 0, max: REPLICAS_MAX }); left > 0; left--) {
    replicas.push(readReplica(from));
  }
  const isDisputing = from.integer("disputes", { min: 0, max: 1 }) === 1;
  const disputes = isDisputing
    ? { host: from.name("disputed_host", ID_LENGTH_MAX), generation: from.integer("disputed_generation") }
    : undefined;
  const seq = from.integer("seq");
  const timeMs = from.integer("time_ms");
  from.end();
  const said = { domain, name, host, hostName, generation, state, memoryBytes, vbds, replicas, seq, timeMs };
  return disputes === undefined ? said : { ...said, disputes };
}

const VBD_SIZE_MAX = BLOCK_COUNT_MAX * BLOCK_SIZE_BYTES;

function readReplica(from: FieldReader): PlacedReplica {
  const host = from.name("replica_host", ID_LENGTH_MAX);
  const generation = from.integer("replica_generation");
  const atMs = from.integer("replica_at_ms");
  const dirty = from.integer("replica_dirty_blocks", { min: 0, max: VBDS_MAX * BLOCK_COUNT_MAX });
  return { host, generation, atMs, ...(dirty === 0 ? {} : { dirtyBlocks: dirty - 1 }) };
}
