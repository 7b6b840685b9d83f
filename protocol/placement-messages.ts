/**
 * How placement records travel. News are gossiped: `records`, all of one host and published by that host, so that it
 * answers for each of them. What gossip lost is repaired by comparing, on one long-lived channel in each direction
 * between two hosts. A message is a type and what it carries.
 *
 *   records   varint size, signed record …     news, and answers to a digest
 *   summary   u32 u32                          equal for hosts that hold the same: then there is no answer
 *   digest    u8 wants_answer, (name host, varint seq, u32 u32) …
 *
 *   A ──summary──▶ B ──digest, wants an answer──▶ A ──records, digest──▶ B ──records──▶ A
 */

import { ProtocolError } from "./errors.ts";
import { badField, OctetReader, OctetWriter } from "./octets.ts";
import { PLACEMENT_SIZE_MAX, type SignedPlacement } from "./placement.ts";
import type { HostDigest } from "./placement-table.ts";

/** The libp2p protocol id. */
export const PLACEMENT_PROTOCOL = "/sojourn/placement/1.0.0";
/** Where news are gossiped. */
export const PLACEMENT_TOPIC = "/sojourn/placement/1.0.0";

/** Octets of one message; a receiver takes no more from a peer. Room for the digest of 4096 hosts. */
export const PLACEMENT_MESSAGE_SIZE_MAX = 640 << 10;
/** Answers to a digest are sent in messages of about this size. */
const RECORDS_SIZE = 128 << 10;
/** News are gossiped in messages of at most this size: each of them may pass every link more than once. */
export const NEWS_SIZE_MAX = 32 << 10;
const HOST_SIZE_MAX = 128;
const RECORD_HEAD_SIZE_MAX = 3;

export type PlacementMessage =
  | { readonly type: "records"; readonly records: readonly Uint8Array[] }
  | { readonly type: "summary"; readonly summary: readonly [number, number] }
  | { readonly type: "digest"; readonly wantsAnswer: boolean; readonly hosts: readonly HostDigest[] };

const TYPE = { records: 1, summary: 2, digest: 3 } as const satisfies Record<
  PlacementMessage["type"],
  number
>;

export function encodePlacementMessage(message: PlacementMessage): Uint8Array {
  const to = new OctetWriter(256);
  to.u8(TYPE[message.type]);
  switch (message.type) {
    case "records":
      for (const record of message.records) {
        to.varint(record.length);
        to.octets(record);
      }
      break;
    case "summary":
      for (const half of message.summary) to.varint(half);
      break;
    case "digest":
      to.u8(message.wantsAnswer ? 1 : 0);
      for (const { host, seq, hash } of message.hosts) {
        const octets = new TextEncoder().encode(host);
        to.varint(octets.length);
        to.octets(octets);
        to.varint(seq);
        for (const half of hash) to.varint(half);
      }
      break;
  }
  return to.finish();
}

/** Records are views of `bytes`. Throws ProtocolError. */
export function decodePlacementMessage(bytes: Uint8Array): PlacementMessage {
  if (bytes.length > PLACEMENT_MESSAGE_SIZE_MAX) {
    const limitBytes = PLACEMENT_MESSAGE_SIZE_MAX;
    throw new ProtocolError({ code: "PROTOCOL_FRAME_TOO_LARGE", sizeBytes: bytes.length, limitBytes });
  }
  const from = new OctetReader(bytes);
  const type = from.u8();
  switch (type) {
    case TYPE.records: {
      const records: Uint8Array[] = [];
      while (from.remaining > 0) records.push(from.octets(from.varint("record", PLACEMENT_SIZE_MAX)));
      return { type: "records", records };
    }
    case TYPE.summary: {
      const summary = [u32(from, "summary"), u32(from, "summary")] as const;
      from.end("summary");
      return { type: "summary", summary };
    }
    case TYPE.digest: {
      const flags = from.varint("digest.flags", 1);
      const hosts: HostDigest[] = [];
      while (from.remaining > 0) {
        const host = new TextDecoder().decode(from.octets(from.varint("digest.host", HOST_SIZE_MAX)));
        const seq = from.varint("digest.seq", Number.MAX_SAFE_INTEGER);
        hosts.push({ host, seq, hash: [u32(from, "digest.hash"), u32(from, "digest.hash")] });
      }
      return { type: "digest", wantsAnswer: flags === 1, hosts };
    }
    default:
      throw badField("placement.type", `unknown value ${type}`);
  }
}

/** Records in messages of bounded size. */
export function* recordMessages(
  signed: readonly SignedPlacement[],
  { sizeMax = RECORDS_SIZE }: { sizeMax?: number } = {},
): Generator<PlacementMessage> {
  let records: Uint8Array[] = [];
  let size = 1;
  for (const { octets } of signed) {
    const next = octets.length + RECORD_HEAD_SIZE_MAX;
    if (size + next > sizeMax && records.length > 0) {
      yield { type: "records", records };
      records = [];
      size = 1;
    }
    records.push(octets);
    size += next;
  }
  if (records.length > 0) yield { type: "records", records };
}

/** Equal for equal digests, in whatever order. */
export function summaryOf(hosts: readonly HostDigest[]): readonly [number, number] {
  let [high, low] = [hosts.length, 0];
  for (const { hash, seq } of hosts) {
    high ^= Math.imul(hash[0], 0x9e3779b1) ^ (seq >>> 0);
    low ^= Math.imul(hash[1], 0x85ebca6b) ^ Math.floor(seq / 2 ** 32);
  }
  return [high >>> 0, low >>> 0];
}

function u32(from: OctetReader, field: string): number {
  return from.varint(field, 2 ** 32 - 1);
}
