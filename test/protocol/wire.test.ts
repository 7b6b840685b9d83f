import { crc32 } from "node:zlib";
import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { CHUNK_BLOCKS } from "../../protocol/block-bitmap-wire.ts";
import { AssertionFailure, ProtocolError } from "../../protocol/errors.ts";
import { FRAME_BODY_SIZE_MAX, MEMORY_CHUNK_SIZE_MAX } from "../../protocol/limits.ts";
import type { Message } from "../../protocol/messages.ts";
import { DESTINATION_BODIES } from "../../protocol/wire/destination-bodies.ts";
import { TEXT_SIZE_MAX } from "../../protocol/wire/fields.ts";
import { SOURCE_BODIES } from "../../protocol/wire/source-bodies.ts";
import { CONTINUED, createCodec, FRAME_HEADER_SIZE, type Frame, OPTIONAL } from "../../protocol/wire.ts";
import { EXAMPLES, SIZES_BYTES } from "./wire-examples.ts";

const codec = createCodec({ crc32 });

function joined(frame: Frame): Uint8Array {
  return new Uint8Array(Buffer.concat(frame));
}

/** What a channel would carry. */
function framesOf(message: Message): Uint8Array[] {
  return codec.encode(message).map(joined);
}

function decoderOf(type: Message["type"], sizesBytes: readonly number[] = SIZES_BYTES) {
  const decoder = type in SOURCE_BODIES ? codec.decodeSource() : codec.decodeDestination();
  decoder.setVbds(sizesBytes);
  return decoder;
}

/** A frame with a right checksum around any octets. */
function frame(type: number, flags: number, body: ArrayLike<number>): Uint8Array {
  const octets = Uint8Array.from([
    type >>> 8,
    type & 255,
    flags >>> 8,
    flags & 255,
    0,
    0,
    0,
    0,
    ...Array.from(body),
  ]);
  return sealed(octets);
}

function sealed(octets: Uint8Array): Uint8Array {
  const checksum = crc32(octets.subarray(FRAME_HEADER_SIZE), crc32(octets.subarray(0, 4)));
  new DataView(octets.buffer).setUint32(4, checksum);
  return octets;
}

function codeOf(act: () => unknown): ProtocolError["code"] {
  try {
    act();
  } catch (error) {
    if (error instanceof ProtocolError) return error.code;
    throw error;
  }
  throw new Error("nothing was thrown");
}

const examples = Object.entries(EXAMPLES).flatMap(([type, messages]) =>
  messages.map((message: Message, index: number) => [`${type} ${index + 1}`, message] as const),
);

describe("every message", () => {
  it.each(examples)("arrives as it was sent: %s", (_name, message) => {
    const decoder = decoderOf(message.type);
    const arrived = framesOf(message).map((octets) => decoder.decode(octets));
    expect(arrived).toHaveLength(1);
    expectSame(arrived[0], message);
  });

  it("has a number of its own", () => {
    const numbers = [...Object.values(SOURCE_BODIES), ...Object.values(DESTINATION_BODIES)].map(
      (body) => body.number,
    );
    expect(new Set(numbers).size).toBe(numbers.length);
    expect(numbers.every((number) => number > 0 && number < OPTIONAL)).toBe(true);
    expect(numbers).toHaveLength(Object.keys(EXAMPLES).length);
  });

  it.each(examples)("is refused with an octet more or less: %s", (_name, message) => {
    const [octets] = framesOf(message);
    const body = octets!.subarray(FRAME_HEADER_SIZE);
    const type = new DataView(octets!.buffer).getUint16(0);
    // The data of `memory` is whatever there is.
    if (message.type === "memory") return;
    expect(() => decoderOf(message.type).decode(frame(type, 0, [...body, 0]))).toThrow(ProtocolError);
    if (body.length === 0) return;
    expect(() => decoderOf(message.type).decode(frame(type, 0, body.subarray(0, -1)))).toThrow(ProtocolError);
  });
});

/** Bitmaps are compared as sets: their fields are private. */
function expectSame(actual: unknown, expected: unknown): void {
  const plain = (_key: string, value: unknown) => {
    if (value instanceof BlockBitmap) return { blockCount: value.blockCount, runs: [...value.runs()] };
    return value instanceof Uint8Array ? [...value] : value;
  };
  expect(JSON.parse(JSON.stringify(actual, plain))).toEqual(JSON.parse(JSON.stringify(expected, plain)));
}

describe("these octets are fixed", () => {
  const header = (type: number[], checksum: number[]) => [...type, ...[0, 0], ...checksum];
  const checksum = (type: number[], body: number[]) => {
    const sum = crc32(Uint8Array.from([...type, 0, 0, ...body]));
    return [sum >>> 24, (sum >>> 16) & 255, (sum >>> 8) & 255, sum & 255];
  };

  it.each<[Message, number[], number[]]>([
    [{ type: "prepared" }, [0x01, 0x07], []],
    [{ type: "stored", ticket: 300 }, [0x01, 0x04], [0xac, 0x02]],
    [
      { type: "handover", migration: "m1", generation: 7 },
      [0x00, 0x0a],
      [/* migration */ 2, 0x6d, 0x31, /* generation */ 7],
    ],
    [
      {
        type: "blocks",
        ticket: 1,
        purpose: "pull",
        vbd: 1,
        runs: [{ start: 2, count: 1 }],
        zeroes: [
          { start: 0, count: 2 },
          { start: 3, count: 1 },
        ],
        data: Uint8Array.of(9, 8, 7),
      },
      [0x00, 0x04],
      [
        /* ticket */ 1, /* pull */ 3, /* vbd */ 1, /* runs */ 1, 2, 0, /* zeroes */ 2, 0, 1, 1, 0,
        /* data */ 9, 8, 7,
      ],
    ],
    [
      {
        type: "prepare",
        attempt: 2,
        written: [BlockBitmap.of(3, [0]), new BlockBitmap(4)],
        missing: [BlockBitmap.full(3), new BlockBitmap(4)],
      },
      [0x00, 0x09],
      [
        /* attempt */ 2,
        ...[/* written: 2 octets */ 2, /* bits */ 2, 0b001, /* none */ 0],
        ...[/* missing: 2 octets */ 2, /* full */ 0, 0, /* none */ 0],
      ],
    ],
    [
      {
        type: "accept",
        version: 1,
        session: "s",
        copies: [{ kind: "replica", generation: 3 }, { kind: "none" }],
        memoryTaken: 0,
      },
      [0x01, 0x01],
      [
        /* version */ 1, /* session */ 1, 0x73, /* copies */ 2, /* replica */ 2, 3, /* none */ 1,
        /* memoryTaken */ 0,
      ],
    ],
  ])("%#: $type", (message, type, body) => {
    expect(framesOf(message)).toEqual([Uint8Array.from([...header(type, checksum(type, body)), ...body])]);
  });

  it("checksum with the CRC-32 of zlib, whatever computes it", () => {
    expect([...framesOf({ type: "prepared" })[0]!]).toEqual([0x01, 0x07, 0, 0, 0x9c, 0xb7, 0xae, 0xfc]);
  });
});

describe("a frame", () => {
  it("shares the memory of the blocks it carries, both ways", () => {
    const [blocks] = EXAMPLES.blocks;
    const parts = codec.encode(blocks)[0]!;
    expect(parts.at(-1)!.buffer).toBe(blocks.data.buffer);
    const octets = joined(parts);
    const arrived = decoderOf("blocks").decode(octets);
    expect(arrived?.type === "blocks" && arrived.data.buffer === octets.buffer).toBe(true);
  });

  it.each([0, 2, 4, FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + 2])(
    "is refused when octet %i was damaged",
    (octet) => {
      const [octets] = framesOf({ type: "handover", migration: "m1", generation: 7 });
      octets![octet]! ^= 0x10;
      expect(codeOf(() => decoderOf("handover").decode(octets!))).toBe("PROTOCOL_BAD_CHECKSUM");
    },
  );

  it("is skipped when it is optional and unknown, and refused when it is not", () => {
    const decoder = decoderOf("handover");
    expect(decoder.decode(frame(OPTIONAL | 0x77, 0xff, [1, 2]))).toBeUndefined();
    expect(codeOf(() => decoder.decode(frame(0x77, 0, [])))).toBe("PROTOCOL_UNKNOWN_MESSAGE");
    expect(decoder.decode(framesOf(EXAMPLES.handover[0])[0]!)).toEqual(EXAMPLES.handover[0]);
  });

  it("is refused in the wrong direction", () => {
    const stored = framesOf({ type: "stored", ticket: 1 })[0]!;
    expect(codeOf(() => codec.decodeSource().decode(stored))).toBe("PROTOCOL_UNKNOWN_MESSAGE");
  });

  it("is refused when it is shorter than its header or longer than its limit", () => {
    const decoder = decoderOf("handover");
    expect(codeOf(() => decoder.decode(new Uint8Array(7)))).toBe("PROTOCOL_FRAME_TRUNCATED");
    const long = new Uint8Array(FRAME_HEADER_SIZE + FRAME_BODY_SIZE_MAX + 1);
    expect(codeOf(() => decoder.decode(long))).toBe("PROTOCOL_FRAME_TOO_LARGE");
  });

  it("is refused with flags that nobody knows", () => {
    expect(codeOf(() => decoderOf("prepared").decode(frame(0x0107, 2, [])))).toBe("PROTOCOL_BAD_FIELD");
  });
});

describe("a message larger than a frame", () => {
  /** 64 GiB, written all over: its bitmap takes 2 MiB on the wire. */
  const sizesBytes = [2 ** 36];
  const missing = new BlockBitmap(2 ** 24);
  for (let block = 0; block < 2 ** 24; block += 3) missing.add(block);
  const frames = framesOf({ type: "resumed", missing: [missing] });

  it("is split into full frames and put together again", () => {
    expect(frames.slice(0, -1).map(({ length }) => length)).toEqual([
      FRAME_HEADER_SIZE + FRAME_BODY_SIZE_MAX,
    ]);
    const decoder = decoderOf("resumed", sizesBytes);
    const arrived = frames.map((octets) => decoder.decode(octets));
    expect(arrived[0]).toBeUndefined();
    const last = arrived.at(-1);
    expect(last?.type === "resumed" && last.missing[0]!.equals(missing)).toBe(true);
    expect(decoder.decode(framesOf({ type: "prepared" })[0]!)).toEqual({ type: "prepared" });
  });

  it("is refused when another message comes between", () => {
    const decoder = decoderOf("resumed", sizesBytes);
    decoder.decode(frames[0]!);
    expect(codeOf(() => decoder.decode(framesOf({ type: "prepared" })[0]!))).toBe("PROTOCOL_BAD_FIELD");
  });

  it("is refused when a frame before the last is not full", () => {
    const decoder = decoderOf("resumed", sizesBytes);
    expect(codeOf(() => decoder.decode(frame(0x0108, CONTINUED, [0])))).toBe("PROTOCOL_BAD_FIELD");
  });

  it("is refused when it carries no bitmaps, or before the vbds are known", () => {
    const full = frame(0x010c, CONTINUED, new Uint8Array(FRAME_BODY_SIZE_MAX));
    expect(codeOf(() => decoderOf("aborted").decode(full))).toBe("PROTOCOL_BAD_FIELD");
    expect(codeOf(() => codec.decodeDestination().decode(frames[0]!))).toBe("PROTOCOL_BAD_FIELD");
  });

  it("is refused once it is larger than any message may be", () => {
    const decoder = decoderOf("resumed", [4096]);
    const full = frame(0x0108, CONTINUED, new Uint8Array(FRAME_BODY_SIZE_MAX));
    const code = codeOf(() => {
      for (let count = 0; count < 100; count++) decoder.decode(full);
    });
    expect(code).toBe("PROTOCOL_FRAME_TOO_LARGE");
  });

  it("is refused when its bitmaps would take more memory than its vbds deserve", () => {
    // One block in each chunk is 5 octets on the wire and 4 KiB here; eight whole bitmaps are allowed, and 64 MiB.
    const blockCount = 512 * CHUNK_BLOCKS;
    const sparse = new BlockBitmap(blockCount);
    for (let block = 1; block < blockCount; block += CHUNK_BLOCKS) sparse.add(block);
    const log = (count: number) => {
      const entries = Array.from({ length: count }, (_, i) => ({
        first: i + 1,
        last: i + 1,
        written: [sparse],
      }));
      return framesOf({ type: "log", entries, replicas: [] })[0]!;
    };
    expect(decoderOf("log", [blockCount * 4096]).decode(log(39))?.type).toBe("log");
    expect(codeOf(() => decoderOf("log", [blockCount * 4096]).decode(log(50)))).toBe("PROTOCOL_BAD_FIELD");
  });
});

describe("the vbds of a session", () => {
  it.each(["ladder", "ask-hashes", "blocks", "log", "prepare"] as const)("must be known for %s", (type) => {
    const [octets] = framesOf(EXAMPLES[type].at(-1)!);
    expect(codeOf(() => codec.decodeSource().decode(octets!))).toBe("PROTOCOL_UNEXPECTED_MESSAGE");
  });

  it("need not be known for a begin, and cannot change with another one", () => {
    const [begin] = EXAMPLES.begin;
    const decoder = codec.decodeSource();
    expect(decoder.decode(framesOf(begin)[0]!)).toEqual(begin);
    decoder.setVbds(begin.domain.vbds.map(({ sizeBytes }) => sizeBytes));
    expect(decoder.decode(framesOf(begin)[0]!)).toEqual(begin);
    for (const vbds of [
      begin.domain.vbds.slice(1),
      [],
      [...begin.domain.vbds, { name: "c", sizeBytes: 4096 }],
    ]) {
      const other = { ...begin, domain: { ...begin.domain, vbds } };
      expect(codeOf(() => decoder.decode(framesOf(other)[0]!))).toBe("PROTOCOL_BAD_FIELD");
    }
    expect(() => decoder.setVbds([1])).toThrow(AssertionFailure);
  });
});

/** Octets of bodies that are nearly right, for vbds of 3 and 4 blocks, the last of the second 3 octets long. */
describe("a receiver refuses", () => {
  const rejects: [string, number, number[], ProtocolError["code"]][] = [
    ["another version", 0x0001, [2], "PROTOCOL_VERSION_MISMATCH"],
    ["another version in accept", 0x0101, [2], "PROTOCOL_VERSION_MISMATCH"],
    ["an empty id", 0x000c, [0], "PROTOCOL_BAD_FIELD"],
    ["an id over its limit", 0x000c, [0x81, 2, ...Array(257).fill(0x61)], "PROTOCOL_BAD_FIELD"],
    ["an id announced over its limit", 0x000c, [0xff, 0xff, 0x7f], "PROTOCOL_BAD_FIELD"],
    ["an id that is not UTF-8", 0x000c, [1, 0xff], "PROTOCOL_BAD_FIELD"],
    ["an id with a control character", 0x000c, [2, 0x61, 0x0a], "PROTOCOL_BAD_FIELD"],
    ["generation 0", 0x000a, [1, 0x61, 0], "PROTOCOL_BAD_FIELD"],
    ["a generation after the last", 0x000a, [1, 0x61, ...Array(7).fill(0xff), 15], "PROTOCOL_BAD_FIELD"],
    ["a rung that does not exist", 0x0002, [2, 9, 0], "PROTOCOL_BAD_FIELD"],
    ["choices for one vbd of two", 0x0002, [1, 1, 0], "PROTOCOL_BAD_FIELD"],
    ["a vbd that does not exist", 0x0003, [2, 1, 0, 1], "PROTOCOL_BAD_FIELD"],
    ["digests of no blocks", 0x0003, [0, 2, 0, 0], "PROTOCOL_BAD_FIELD"],
    ["digests beyond the end", 0x0003, [0, 2, 1, 3], "PROTOCOL_BAD_FIELD"],
    ["digests of regions beyond the end", 0x0003, [0, 1, 0, 2], "PROTOCOL_BAD_FIELD"],
    ["a half digest", 0x0103, [0, 2, 0, ...Array(24).fill(0)], "PROTOCOL_BAD_FIELD"],
    ["a digest beyond the end", 0x0103, [0, 2, 3, ...Array(16).fill(0)], "PROTOCOL_BAD_FIELD"],
    ["no digests", 0x0103, [0, 2, 0], "PROTOCOL_BAD_FIELD"],
    ["blocks of no purpose", 0x0004, [1, 4, 1, 1, 3, 0, 0, 9, 9, 9], "PROTOCOL_BAD_FIELD"],
    ["no blocks", 0x0004, [1, 1, 1, 0, 0], "PROTOCOL_BAD_FIELD"],
    ["a block beyond the end", 0x0004, [1, 1, 1, 0, 1, 4, 0], "PROTOCOL_BAD_FIELD"],
    ["a run over the end", 0x0004, [1, 1, 1, 0, 1, 2, 2], "PROTOCOL_BAD_FIELD"],
    ["a block with data and zero", 0x0004, [1, 1, 1, 1, 3, 0, 1, 0, 3, 9, 9, 9], "PROTOCOL_BAD_FIELD"],
    ["too few octets of data", 0x0004, [1, 1, 1, 1, 3, 0, 0, 9, 9], "PROTOCOL_BAD_FIELD"],
    ["a pull beyond the end", 0x0109, [0, 1, 0, 3], "PROTOCOL_BAD_FIELD"],
    ["more runs than a pull may have", 0x0109, [0, 0x81, 0x80, 0x08], "PROTOCOL_BAD_FIELD"],
    ["a copy of an unknown kind", 0x0101, [1, 1, 0x61, 2, 4], "PROTOCOL_BAD_FIELD"],
    ["a log that goes back in time", 0x0008, [2, 2, 2, 0, 0, 1, 1, 0, 0, 0], "PROTOCOL_BAD_FIELD"],
    ["a log with a gap", 0x0008, [2, 1, 1, 0, 0, 3, 3, 0, 0, 0], "PROTOCOL_BAD_FIELD"],
    ["a bitmap of another size", 0x0108, [2, /* bits */ 2, 0b1001, 0], "PROTOCOL_BAD_FIELD"],
    ["a bitmap longer than the message", 0x0108, [9, 0, 0, 0], "PROTOCOL_BAD_FIELD"],
    ["fields that are not there", 0x0006, [1, 0x61, 1], "PROTOCOL_FRAME_TRUNCATED"],
    [
      "a chunk of memory over its limit",
      0x0007,
      [0, ...Array(MEMORY_CHUNK_SIZE_MAX + 1).fill(0)],
      "PROTOCOL_BAD_FIELD",
    ],
  ];

  it.each(rejects)("%s", (_name, type, body, code) => {
    const decoder = type < 0x100 ? codec.decodeSource() : codec.decodeDestination();
    decoder.setVbds([3 * 4096, 3 * 4096 + 3]);
    expect(codeOf(() => decoder.decode(frame(type, 0, body)))).toBe(code);
  });

  it("more blocks than a message may have, in runs that are within their limits", () => {
    const decoders = [codec.decodeSource(), codec.decodeDestination()] as const;
    for (const decoder of decoders) decoder.setVbds([2 ** 30]);
    const [source, destination] = decoders;
    const run200 = [0xc7, 0x01];
    const blocks = (octets: number[]) => frame(0x0004, 0, [1, 1, 0, /* no data */ 0, ...octets]);
    expect(source.decode(blocks([1, 0, ...run200]))).toMatchObject({ zeroes: [{ start: 0, count: 200 }] });
    expect(codeOf(() => source.decode(blocks([2, 0, ...run200, 0, ...run200])))).toBe("PROTOCOL_BAD_FIELD");
    const skip200 = [0xc8, 0x01];
    const data = new Uint8Array(200 * 4096);
    const both = frame(0x0004, 0, [1, 1, 0, 1, 0, ...run200, 1, ...skip200, ...run200, ...data]);
    expect(() => source.decode(both)).toThrow(/400 blocks/);
    expect(codeOf(() => destination.decode(frame(0x0109, 0, [0, 1, 0, 0x80, 0x80, 0x08])))).toBe(
      "PROTOCOL_BAD_FIELD",
    );
  });

  it("two vbds of one name, too many vbds, and one over the limit", () => {
    const [begin] = EXAMPLES.begin;
    const vbd = { name: "a", sizeBytes: 4096 };
    for (const vbds of [[vbd, vbd], [{ name: "a", sizeBytes: 2 ** 44 + 1 }]]) {
      const octets = framesOf({ ...begin, domain: { ...begin.domain, vbds } })[0]!;
      expect(codeOf(() => codec.decodeSource().decode(octets))).toBe("PROTOCOL_BAD_FIELD");
    }
    const many = Array.from({ length: 65 }, (_, index) => ({ ...vbd, name: `${index}` }));
    expect(() => framesOf({ ...begin, domain: { ...begin.domain, vbds: many } })).toThrow(AssertionFailure);
  });
});

describe("a sender", () => {
  it("cuts a text for people to its limit, between characters", () => {
    const [octets] = framesOf({ type: "refuse", code: "DISK_FULL", reason: `a${"é".repeat(TEXT_SIZE_MAX)}` });
    const arrived = codec.decodeDestination().decode(octets!);
    expect(arrived).toMatchObject({ reason: `a${"é".repeat(TEXT_SIZE_MAX / 2 - 1)}` });
  });

  it.each<[string, Message]>([
    ["an empty id", { type: "finished", migration: "" }],
    ["an id over its limit", { type: "finished", migration: "a".repeat(257) }],
    ["half a ticket", { type: "stored", ticket: 0.5 }],
    ["too many blocks", { type: "pull", vbd: 0, runs: [{ start: 0, count: 131_073 }] }],
    ["runs out of order", { type: "pull", vbd: 0, runs: [5, 3].map((start) => ({ start, count: 1 })) }],
    ["too much memory", { type: "memory", offset: 0, data: new Uint8Array(MEMORY_CHUNK_SIZE_MAX + 1) }],
  ])("asserts that it sends nothing that would be refused: %s", (_name, message) => {
    expect(() => codec.encode(message)).toThrow(AssertionFailure);
  });
});
