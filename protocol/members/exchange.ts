/**
 * How two hosts bring a set of self-proving things to the same state. What the things are is the topic's: the
 * member list, the cluster's secrets, placements. A thing has an id of 16 octets that names its contents.
 *
 *   asker                                   answerer
 *     │ summary: hash of all ids               │
 *     │ ─────────────────────────────────────▶ │
 *     │ ◀───────────────────────── same, or ids│
 *     │ items that the other lacks             │
 *     │ want: ids that the asker lacks         │
 *     │ ─────────────────────────────────────▶ │
 *     │ ◀───────────────────────── items, end  │
 *
 * News are told besides: statements by gossip, an `items` frame as the message; secrets by push, `items` and the end
 * of the channel. An exchange costs one round trip while nothing
 * differs. Ids are sent whole: a cluster of a thousand hosts has a few thousand, 16 octets each.
 */

import { badField, OctetReader, OctetWriter } from "../octets.ts";
import { hexOf } from "./statement.ts";

export const ITEM_ID_SIZE = 16;
export const SUMMARY_SIZE = 32;
export const ITEM_SIZE_MAX = 64 << 10;
/** Above what any topic holds. */
export const IDS_MAX = 32_768;
/** Items are sent in frames of about this size. */
export const ITEMS_FRAME_SIZE = 256 << 10;

export type ExchangeFrame =
  | { readonly type: "summary"; readonly summary: Uint8Array }
  | { readonly type: "same" }
  | { readonly type: "ids"; readonly ids: readonly string[] }
  | { readonly type: "want"; readonly ids: readonly string[] }
  | { readonly type: "items"; readonly items: readonly Uint8Array[] }
  | { readonly type: "end" };

const TYPE = { summary: 1, same: 2, ids: 3, want: 4, items: 5, end: 6 } as const satisfies Record<
  ExchangeFrame["type"],
  number
>;

export function encodeExchange(frame: ExchangeFrame): Uint8Array {
  const to = new OctetWriter();
  to.u8(TYPE[frame.type]);
  switch (frame.type) {
    case "summary":
      to.octets(frame.summary);
      break;
    case "ids":
    case "want":
      for (const id of frame.ids) to.octets(octetsOf(id));
      break;
    case "items":
      for (const item of frame.items) {
        to.varint(item.length);
        to.octets(item);
      }
      break;
    case "same":
    case "end":
      break;
  }
  return to.finish();
}

/** Throws ProtocolError. Items are views of `bytes`. */
export function decodeExchange(bytes: Uint8Array): ExchangeFrame {
  const from = new OctetReader(bytes);
  const number = from.u8();
  const frame = decodeRest(from, number);
  from.end("exchange");
  return frame;
}

function decodeRest(from: OctetReader, number: number): ExchangeFrame {
  switch (number) {
    case TYPE.summary:
      return { type: "summary", summary: from.octets(SUMMARY_SIZE) };
    case TYPE.same:
      return { type: "same" };
    case TYPE.ids:
      return { type: "ids", ids: readIds(from) };
    case TYPE.want:
      return { type: "want", ids: readIds(from) };
    case TYPE.items: {
      const items: Uint8Array[] = [];
      while (from.remaining > 0) items.push(from.octets(from.varint("exchange.item", ITEM_SIZE_MAX)));
      return { type: "items", items };
    }
    case TYPE.end:
      return { type: "end" };
    default:
      throw badField("exchange.type", `unknown value ${number}`);
  }
}

/** What either side lacks. */
export function compareIds(
  ours: readonly string[],
  theirs: readonly string[],
): { weLack: string[]; theyLack: string[] } {
  const ourSet = new Set(ours);
  const theirSet = new Set(theirs);
  return {
    weLack: [...theirSet].filter((id) => !ourSet.has(id)),
    theyLack: ours.filter((id) => !theirSet.has(id)),
  };
}

/** The octets that a summary is the hash of: all ids, ascending. */
export function summaryOctets(ids: readonly string[]): Uint8Array {
  const to = new OctetWriter(ids.length * ITEM_ID_SIZE);
  for (const id of [...ids].sort()) to.octets(octetsOf(id));
  return to.finish();
}

/** `items` in frames of bounded size, in their order. */
export function* itemFrames(
  items: Iterable<Uint8Array>,
  { sizeMax = ITEMS_FRAME_SIZE }: { sizeMax?: number } = {},
): Generator<ExchangeFrame> {
  let batch: Uint8Array[] = [];
  let sizeBytes = 0;
  for (const item of items) {
    if (batch.length > 0 && sizeBytes + item.length > sizeMax) {
      yield { type: "items", items: batch };
      batch = [];
      sizeBytes = 0;
    }
    batch.push(item);
    sizeBytes += item.length;
  }
  if (batch.length > 0) yield { type: "items", items: batch };
}

function readIds(from: OctetReader): string[] {
  const count = from.remaining / ITEM_ID_SIZE;
  if (count > IDS_MAX) throw badField("exchange.ids", `over ${IDS_MAX}`);
  const ids: string[] = [];
  while (from.remaining > 0) ids.push(hexOf(from.octets(ITEM_ID_SIZE)));
  return ids;
}

function octetsOf(id: string): Uint8Array {
  const octets = new Uint8Array(id.length / 2);
  for (let index = 0; index < octets.length; index++) {
    octets[index] = Number.parseInt(id.slice(2 * index, 2 * index + 2), 16);
  }
  return octets;
}
