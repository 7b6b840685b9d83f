import { crc32 } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { MESSAGE_SIZE_MAX } from "../../protocol/limits.ts";
import type { Message } from "../../protocol/messages.ts";
import { createCodec, FRAME_HEADER_SIZE } from "../../protocol/wire.ts";
import { EXAMPLES, SIZES_BYTES } from "../protocol/wire-examples.ts";

const codec = createCodec({ crc32 });

const TYPES = Object.values(EXAMPLES).map(([message]) => typeOf(joined(message)));

/** Valid frames that are small enough to be mutated where it hurts. */
const FRAMES = Object.values(EXAMPLES)
  .flat()
  .map(joined)
  .filter((frame) => frame.length < 20_000);

const BITMAPS_BYTES_MAX =
  MESSAGE_SIZE_MAX + 8 * SIZES_BYTES.reduce((sum, size) => sum + size / 4096 / 8 + 8192, 0);

function joined(message: Message): Uint8Array {
  return new Uint8Array(Buffer.concat(codec.encode(message).flat()));
}

function typeOf(frame: Uint8Array): number {
  return new DataView(frame.buffer, frame.byteOffset).getUint16(0);
}

/** With a right checksum, so that the octets behind it are looked at. */
function sealed(frame: Uint8Array): Uint8Array {
  if (frame.length >= FRAME_HEADER_SIZE) {
    const checksum = crc32(frame.subarray(FRAME_HEADER_SIZE), crc32(frame.subarray(0, 4)));
    new DataView(frame.buffer, frame.byteOffset).setUint32(4, checksum);
  }
  return frame;
}

/** Fails unless the frame is refused with a ProtocolError or means exactly one message. Counts what decoded. */
function check(frame: Uint8Array, outcomes: { decoded: number; refused: number }): void {
  for (const decoder of [codec.decodeSource(), codec.decodeDestination()]) {
    decoder.setVbds(SIZES_BYTES);
    let message: Message | undefined;
    try {
      message = decoder.decode(frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      outcomes.refused += 1;
      continue;
    }
    if (message === undefined) continue;
    outcomes.decoded += 1;
    expect(Buffer.compare(joined(message), frame)).toBe(0);
    expect(bitmapBytesOf(message)).toBeLessThanOrEqual(BITMAPS_BYTES_MAX);
  }
}

function bitmapBytesOf(value: unknown): number {
  if (value instanceof BlockBitmap) return value.allocatedBytes;
  if (value instanceof Uint8Array || typeof value !== "object" || value === null) return 0;
  return Object.values(value).reduce((sum: number, part) => sum + bitmapBytesOf(part), 0);
}

type Mutation = { do: "set" | "insert" | "cut"; at: number; octets: readonly number[] };

const octet = fc.oneof(fc.constantFrom(0, 1, 2, 3, 0x7f, 0x80, 0x81, 0xff), fc.nat(255));

const mutation: fc.Arbitrary<Mutation> = fc.record({
  do: fc.constantFrom("set" as const, "set" as const, "insert" as const, "cut" as const),
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  octets: fc.array(octet, { minLength: 1, maxLength: 3 }),
});

/** The header is tested elsewhere. Half of the mutations go to the first fields also where data follows them. */
function mutate(frame: Uint8Array, mutations: readonly Mutation[]): Uint8Array {
  const octets = [...frame];
  for (const { do: what, at, octets: patch } of mutations) {
    const size = octets.length - FRAME_HEADER_SIZE;
    const span = at < 0.5 ? Math.min(size, 40) : size;
    const index = FRAME_HEADER_SIZE + Math.floor(((at * 2) % 1) * span);
    if (what === "cut") octets.splice(index, patch.length);
    else octets.splice(index, what === "set" ? patch.length : 0, ...patch);
  }
  return Uint8Array.from(octets);
}

describe("a decoder", () => {
  it("decodes or refuses any octets", () => {
    const outcomes = { decoded: 0, refused: 0 };
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (octets) => check(octets, outcomes)),
      { numRuns: 3000 },
    );
    expect(outcomes.refused).toBeGreaterThan(5000);
  });

  it("decodes or refuses any body of any type", () => {
    const outcomes = { decoded: 0, refused: 0 };
    const body = fc.array(octet, { maxLength: 60 });
    fc.assert(
      fc.property(fc.constantFrom(...TYPES), fc.constantFrom(0, 0, 0, 1), body, (type, flags, octets) => {
        const frame = Uint8Array.from([type >>> 8, type & 255, 0, flags, 0, 0, 0, 0, ...octets]);
        check(sealed(frame), outcomes);
      }),
      { numRuns: 20_000 },
    );
    expect(outcomes.decoded).toBeGreaterThan(300);
  });

  it("decodes or refuses damaged frames whose checksum is right", () => {
    const outcomes = { decoded: 0, refused: 0 };
    fc.assert(
      fc.property(
        fc.constantFrom(...FRAMES),
        fc.array(mutation, { minLength: 1, maxLength: 3 }),
        (frame, mutations) => check(sealed(mutate(frame, mutations)), outcomes),
      ),
      { numRuns: 10_000 },
    );
    expect(outcomes.decoded).toBeGreaterThan(500);
    expect(outcomes.refused).toBeGreaterThan(2000);
  });

  it("refuses every damaged frame whose checksum was not mended", () => {
    fc.assert(
      fc.property(fc.constantFrom(...FRAMES), mutation, (frame, change) => {
        const damaged = mutate(frame, [change]);
        fc.pre(Buffer.compare(damaged, frame) !== 0);
        const outcomes = { decoded: 0, refused: 0 };
        check(damaged, outcomes);
        expect(outcomes).toEqual({ decoded: 0, refused: 2 });
      }),
      { numRuns: 2000 },
    );
  });
});
