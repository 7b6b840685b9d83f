/**
 * Membership messages on the wire. A channel carries whole frames, so none says how long it is; the transport
 * authenticates its octets, so none has a checksum. Fixed fields are big-endian, the others as in `wire/fields.ts`.
 *
 *    0       2 octets
 *   +-------+------
 *   | type  | body (0 to MEMBERSHIP_MESSAGE_SIZE_MAX - 2 octets) ...
 *   +-------+------
 *
 *   update       varint record_size, record, signature[64], u8 status, accusations as the status says:
 *                suspect varint count, dead one, else none
 *   record       name host, varint incarnation, u8 state, name name, varint count, name address …,
 *                varint free_bytes, varint domain_count
 *   accusation   u8 kind, name from, signature[64]
 *
 * A receiver refuses a type that it does not know, unless OPTIONAL is set in it: then it skips the message.
 * What decodes here is within its limits. Whether it is true is proven by `context.verify`, and only for news.
 */

import { assert, ProtocolError } from "../errors.ts";
import { badField, OctetReader, OctetWriter } from "../octets.ts";
import { FieldReader, FieldWriter } from "../wire/fields.ts";
import {
  ACCUSATIONS_MAX,
  ADDRESS_LENGTH_MAX,
  ADDRESSES_MAX,
  DOMAIN_COUNT_MAX,
  HOST_LENGTH_MAX,
  HOST_NAME_LENGTH_MAX,
  INCARNATION_MAX,
  MEMBERSHIP_MESSAGE_SIZE_MAX,
  SEQUENCE_MAX,
  SIGNATURE_SIZE,
} from "./limits.ts";
import type { Accusation, AccusationKind, MemberRecord, MembershipMessage, Update } from "./messages.ts";

/** Set in types that an older peer may safely skip. */
export const OPTIONAL = 0x8000;

/** Numbers are never reused; that of a retired message stays here as a comment. */
export const MESSAGE_TYPE = {
  ping: 1,
  ack: 2,
  "ping-request": 3,
  nack: 4,
  gossip: 5,
  compare: 6,
  state: 7,
} as const satisfies Record<MembershipMessage["type"], number>;

const STATUS = { alive: 0, suspect: 1, dead: 2, left: 3 } as const;
const STATE = { alive: 0, left: 1 } as const;
const KIND = { suspect: 1, dead: 2 } as const satisfies Record<AccusationKind, number>;
const WANTS_ANSWER = 1;

const NO_VBDS = { vbds: undefined, bitmapBytesMax: 0 } as const;
const U32: { min: number; max: number } = { min: 0, max: 2 ** 32 - 1 };

export function encodeMessage(message: MembershipMessage): Uint8Array {
  const to = new OctetWriter(256);
  const type = MESSAGE_TYPE[message.type];
  to.u8(type >>> 8);
  to.u8(type & 0xff);
  switch (message.type) {
    case "ping":
    case "ack":
      to.varint(message.sequence);
      break;
    case "ping-request":
      to.varint(message.sequence);
      to.octets(nameOctets(message.target, HOST_LENGTH_MAX));
      break;
    case "nack":
      to.varint(message.sequence);
      break;
    case "compare":
      for (const half of message.digest) to.varint(half);
      break;
    case "state":
      to.u8(message.wantsAnswer ? WANTS_ANSWER : 0);
      break;
    case "gossip":
      break;
  }
  if ("updates" in message) for (const update of message.updates) to.octets(encodeUpdate(update));
  assert(to.size <= MEMBERSHIP_MESSAGE_SIZE_MAX, `${message.type} is larger than a message may be`);
  return to.finish();
}

/** Undefined for a message of a later version that may be skipped. Throws ProtocolError. */
export function decodeMessage(octets: Uint8Array): MembershipMessage | undefined {
  if (octets.length > MEMBERSHIP_MESSAGE_SIZE_MAX) {
    throw new ProtocolError({
      code: "PROTOCOL_FRAME_TOO_LARGE",
      sizeBytes: octets.length,
      limitBytes: MEMBERSHIP_MESSAGE_SIZE_MAX,
    });
  }
  const from = new OctetReader(octets);
  const number = (from.u8() << 8) | from.u8();
  switch (number) {
    case MESSAGE_TYPE.ping:
      return { type: "ping", sequence: sequenceOf(from), updates: updatesOf(from) };
    case MESSAGE_TYPE.ack:
      return { type: "ack", sequence: sequenceOf(from), updates: updatesOf(from) };
    case MESSAGE_TYPE["ping-request"]: {
      const sequence = sequenceOf(from);
      const target = nameOf(from, "ping-request.target");
      return { type: "ping-request", sequence, target, updates: updatesOf(from) };
    }
    case MESSAGE_TYPE.nack:
      return ended(from, { type: "nack", sequence: sequenceOf(from) });
    case MESSAGE_TYPE.gossip:
      return { type: "gossip", updates: updatesOf(from) };
    case MESSAGE_TYPE.compare: {
      const digest = [
        from.varint("compare.digest", U32.max),
        from.varint("compare.digest", U32.max),
      ] as const;
      return ended(from, { type: "compare", digest });
    }
    case MESSAGE_TYPE.state: {
      const flags = from.u8();
      if (flags > WANTS_ANSWER) throw badField("state.flags", `unknown flags ${flags}`);
      return { type: "state", wantsAnswer: flags === WANTS_ANSWER, updates: updatesOf(from) };
    }
    default:
      if ((number & OPTIONAL) !== 0) return undefined;
      throw new ProtocolError({ code: "PROTOCOL_UNKNOWN_MESSAGE", type: number });
  }
}

/** Records are immutable, and each is verified once and told many times. */
const OCTETS = new WeakMap<object, Uint8Array>();

/** What a host signs about itself, and what a record is on the wire without its signature. */
export function recordOctets(record: Omit<MemberRecord, "signature">): Uint8Array {
  const known = OCTETS.get(record);
  if (known !== undefined) return known;
  const to = new FieldWriter();
  assert(record.addresses.length <= ADDRESSES_MAX, "more addresses than may be announced");
  assert(record.incarnation <= INCARNATION_MAX, "no incarnation is left");
  to.name(record.host, HOST_LENGTH_MAX);
  to.integer(record.incarnation);
  to.member(record.state, STATE);
  to.name(record.name, HOST_NAME_LENGTH_MAX);
  to.integer(record.addresses.length);
  for (const address of record.addresses) to.name(address, ADDRESS_LENGTH_MAX);
  to.integer(record.freeBytes);
  to.integer(record.domainCount);
  const octets = to.finish();
  OCTETS.set(record, octets);
  return octets;
}

/** What an accuser signs. Begins unlike any record, so that neither can be taken for the other. */
export function accusationOctets(accused: MemberRecord, by: Omit<Accusation, "signature">): Uint8Array {
  const to = new FieldWriter();
  to.integer(0);
  to.member(by.kind, KIND);
  to.name(by.from, HOST_LENGTH_MAX);
  to.name(accused.host, HOST_LENGTH_MAX);
  to.integer(accused.incarnation);
  return to.finish();
}

/** Updates are immutable and sent many times. */
const ENCODED = new WeakMap<Update, Uint8Array>();

export function encodeUpdate(update: Update): Uint8Array {
  const known = ENCODED.get(update);
  if (known !== undefined) return known;
  const { record, status, accusations } = update;
  const octets = recordOctets(record);
  const to = new OctetWriter(octets.length + SIGNATURE_SIZE + 4 + accusations.length * 128);
  to.varint(octets.length);
  to.octets(octets);
  writeSignature(to, record.signature);
  to.u8(STATUS[status]);
  assert(accusations.length === 0 || status === "suspect" || status === "dead", "accused of nothing");
  if (status === "suspect") to.varint(accusations.length);
  for (const { kind, from, signature } of accusations) {
    to.u8(KIND[kind]);
    to.octets(nameOctets(from, HOST_LENGTH_MAX));
    writeSignature(to, signature);
  }
  const encoded = to.finish();
  ENCODED.set(update, encoded);
  return encoded;
}

function writeSignature(to: OctetWriter, signature: Uint8Array): void {
  assert(signature.length === SIGNATURE_SIZE, "not a signature");
  to.octets(signature);
}

function nameOctets(name: string, lengthMax: number): Uint8Array {
  const to = new FieldWriter();
  to.name(name, lengthMax);
  return to.finish();
}

function sequenceOf(from: OctetReader): number {
  return from.varint("sequence", SEQUENCE_MAX);
}

function ended(from: OctetReader, message: MembershipMessage): MembershipMessage {
  from.end(message.type);
  return message;
}

/** Bounded by the size of the message: an update takes over 130 octets. */
function updatesOf(from: OctetReader): Update[] {
  const updates: Update[] = [];
  while (from.remaining > 0) updates.push(updateOf(from));
  return updates;
}

function updateOf(from: OctetReader): Update {
  const record = recordOf(from.octets(from.varint("record", from.remaining)), from);
  const number = from.u8();
  const status = (["alive", "suspect", "dead", "left"] as const)[number];
  if (status === undefined) throw badField("update.status", `unknown value ${number}`);
  // An accused host that left is gone, whatever it is accused of.
  const fits = status === "left" ? record.state === "left" : record.state === "alive";
  if (!fits) throw badField("update.status", `${status} with a record that says ${record.state}`);
  return { record, status, accusations: accusationsOf(from, status, record) };
}

function recordOf(octets: Uint8Array, after: OctetReader): MemberRecord {
  const from = new FieldReader("record", octets, NO_VBDS);
  const host = from.name("host", HOST_LENGTH_MAX);
  const incarnation = from.integer("incarnation", { min: 0, max: INCARNATION_MAX });
  const state = from.member("state", STATE);
  const name = from.name("name", HOST_NAME_LENGTH_MAX);
  const addresses: string[] = [];
  for (let left = from.integer("addresses", { min: 0, max: ADDRESSES_MAX }); left > 0; left--) {
    addresses.push(from.name("addresses", ADDRESS_LENGTH_MAX));
  }
  const freeBytes = from.integer("free_bytes");
  const domainCount = from.integer("domain_count", { min: 0, max: DOMAIN_COUNT_MAX });
  from.end();
  return { host, incarnation, state, name, addresses, freeBytes, domainCount, signature: signatureOf(after) };
}

function accusationsOf(from: OctetReader, status: Update["status"], { host }: MemberRecord): Accusation[] {
  if (status === "alive" || status === "left") return [];
  const count = status === "dead" ? 1 : from.varint("accusations", ACCUSATIONS_MAX);
  if (count === 0) throw badField("accusations", "suspect without an accuser");
  const accusations: Accusation[] = [];
  for (let left = count; left > 0; left--) {
    const kind = kindOf(from.u8());
    if (status === "dead" && kind !== "dead") throw badField("accusation.kind", "dead by a mere suspicion");
    const accuser = nameOf(from, "accusation.from");
    if (accuser === host) throw badField("accusation.from", "accuses itself");
    if (accusations.some((other) => other.from === accuser)) throw badField("accusation.from", "twice");
    accusations.push({ kind, from: accuser, signature: signatureOf(from) });
  }
  return accusations;
}

function kindOf(number: number): AccusationKind {
  if (number === KIND.suspect) return "suspect";
  if (number === KIND.dead) return "dead";
  throw badField("accusation.kind", `unknown value ${number}`);
}

/** A copy: updates outlive the message that they came in. */
function signatureOf(from: OctetReader): Uint8Array {
  return from.octets(SIGNATURE_SIZE).slice();
}

function nameOf(from: OctetReader, field: string): string {
  const size = from.varint(field, HOST_LENGTH_MAX * 3);
  const prefix = new OctetWriter(size + 2);
  prefix.varint(size);
  prefix.octets(from.octets(size));
  return new FieldReader("update", prefix.finish(), NO_VBDS).name(field, HOST_LENGTH_MAX);
}
