import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { CHUNK_BLOCKS } from "../../protocol/block-bitmap-wire.ts";
import { AssertionFailure, ProtocolError } from "../../protocol/errors.ts";
import { BLOCK_COUNT_MAX } from "../../protocol/limits.ts";

/** Three chunks, the last one short and no multiple of 8 or 32. */
const BLOCK_COUNT = 2 * CHUNK_BLOCKS + 77;

type Operation =
  | { do: "add" | "delete"; block: number }
  | { do: "addRange" | "deleteRange"; start: number; count: number }
  | { do: "union" | "subtract" | "intersect"; start: number; count: number; every: number };

/** Starts and ends near the borders of words and chunks, where mistakes live. */
const position = fc.oneof(
  fc.integer({ min: 0, max: BLOCK_COUNT }),
  fc
    .tuple(
      fc.constantFrom(0, 32, CHUNK_BLOCKS, 2 * CHUNK_BLOCKS, BLOCK_COUNT),
      fc.integer({ min: -33, max: 33 }),
    )
    .map(([border, delta]) => Math.min(BLOCK_COUNT, Math.max(0, border + delta))),
);

const range = fc
  .tuple(position, position)
  .map(([a, b]) => ({ start: Math.min(a, b), count: Math.abs(a - b) }));

const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.record({
    do: fc.constantFrom("add" as const, "delete" as const),
    block: position.map((block) => Math.min(block, BLOCK_COUNT - 1)),
  }),
  fc
    .tuple(fc.constantFrom("addRange" as const, "deleteRange" as const), range)
    .map(([name, blocks]) => ({ do: name, ...blocks })),
  fc
    .tuple(
      fc.constantFrom("union" as const, "subtract" as const, "intersect" as const),
      range,
      fc.constantFrom(1, 2, 1000),
    )
    .map(([name, blocks, every]) => ({ do: name, ...blocks, every })),
);

/** The naive model: one octet per block. */
function applyToModel(model: Uint8Array, op: Operation): void {
  if ("block" in op) {
    model[op.block] = op.do === "add" ? 1 : 0;
  } else if (!("every" in op)) {
    model.fill(op.do === "addRange" ? 1 : 0, op.start, op.start + op.count);
  } else {
    const other = new Uint8Array(BLOCK_COUNT);
    for (let block = op.start; block < op.start + op.count; block += op.every) other[block] = 1;
    for (let block = 0; block < BLOCK_COUNT; block++) {
      const [mine, theirs] = [model[block]!, other[block]!];
      model[block] = { union: mine | theirs, subtract: mine & ~theirs, intersect: mine & theirs }[op.do];
    }
  }
}

function apply(bitmap: BlockBitmap, op: Operation): void {
  if ("block" in op) {
    bitmap[op.do](op.block);
  } else if (!("every" in op)) {
    bitmap[op.do](op.start, op.count);
  } else {
    const other = new BlockBitmap(BLOCK_COUNT);
    if (op.every === 1) other.addRange(op.start, op.count);
    else for (let block = op.start; block < op.start + op.count; block += op.every) other.add(block);
    bitmap[op.do](other);
  }
}

function runsOf(model: Uint8Array): { start: number; count: number }[] {
  const runs: { start: number; count: number }[] = [];
  for (let start = model.indexOf(1); start >= 0; ) {
    const zero = model.indexOf(0, start);
    const end = zero < 0 ? model.length : zero;
    runs.push({ start, count: end - start });
    start = zero < 0 ? -1 : model.indexOf(1, end);
  }
  return runs;
}

describe("a block-bitmap", () => {
  it("holds what a naive set holds after any operations, and survives its wire form", () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 12 }), position, (operations, from) => {
        const bitmap = new BlockBitmap(BLOCK_COUNT);
        const model = new Uint8Array(BLOCK_COUNT);
        for (const op of operations) {
          // What it was before must not be what it is afterwards.
          bitmap.encode();
          apply(bitmap, op);
          applyToModel(model, op);
        }
        const runs = runsOf(model);
        expect([...bitmap.runs()]).toEqual(runs);
        expect(bitmap.population).toBe(runs.reduce((sum, run) => sum + run.count, 0));
        const next = model.indexOf(1, from);
        expect(bitmap.next(from)).toBe(next < 0 ? undefined : next);
        if (from < BLOCK_COUNT) expect(bitmap.has(from)).toBe(model[from] === 1);
        expect(bitmap.equals(bitmap.clone())).toBe(true);
        expect(BlockBitmap.decode(bitmap.encode(), BLOCK_COUNT).equals(bitmap)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it("is made full at once and without words, at any size", () => {
    const bitmap = BlockBitmap.full(BLOCK_COUNT_MAX);
    expect(bitmap.population).toBe(BLOCK_COUNT_MAX);
    expect(bitmap.allocatedBytes).toBeLessThan(2 << 20);
    expect(bitmap.nextRun(0, BLOCK_COUNT_MAX)).toEqual({ start: 0, count: BLOCK_COUNT_MAX });
    expect(bitmap.encode().length).toBeLessThan(8);
  });

  it("knows every block of the largest vbd", () => {
    const last = BLOCK_COUNT_MAX - 1;
    const bitmap = BlockBitmap.of(BLOCK_COUNT_MAX, [2 ** 31 - 1, 2 ** 31, last]);
    expect([...bitmap]).toEqual([2 ** 31 - 1, 2 ** 31, last]);
    expect(bitmap.next(last)).toBe(last);
    expect(bitmap.next(BLOCK_COUNT_MAX)).toBeUndefined();
    bitmap.deleteRange(2 ** 31, 2 ** 31);
    expect([...bitmap]).toEqual([2 ** 31 - 1]);
    expect([...BlockBitmap.decode(bitmap.encode(), BLOCK_COUNT_MAX)]).toEqual([2 ** 31 - 1]);
  });

  it("gives the words of a chunk back when it becomes empty or full", () => {
    const bitmap = new BlockBitmap(BLOCK_COUNT);
    const empty = bitmap.allocatedBytes;
    bitmap.addRange(1, CHUNK_BLOCKS - 1);
    expect(bitmap.allocatedBytes).toBe(empty + CHUNK_BLOCKS / 8);
    bitmap.add(0);
    expect(bitmap.allocatedBytes).toBe(empty);
    bitmap.delete(5);
    expect(bitmap.allocatedBytes).toBe(empty + CHUNK_BLOCKS / 8);
    bitmap.clear();
    expect([bitmap.allocatedBytes, bitmap.population]).toEqual([empty, 0]);
  });

  it("takes no more than 32 MiB for 1 TiB, however it was written", () => {
    const bitmap = new BlockBitmap(2 ** 28);
    for (let block = 0; block < 2 ** 28; block += CHUNK_BLOCKS / 2) bitmap.add(block);
    expect(bitmap.allocatedBytes).toBeLessThanOrEqual((32 << 20) + (128 << 10));
  });

  it("tells whether a deleted block was there", () => {
    const bitmap = BlockBitmap.of(100, [7]);
    expect([bitmap.delete(7), bitmap.delete(7)]).toEqual([true, false]);
  });

  it("cuts a run to the blocks asked for", () => {
    const bitmap = new BlockBitmap(BLOCK_COUNT);
    bitmap.addRange(CHUNK_BLOCKS - 10, 20);
    expect(bitmap.nextRun(0, 15)).toEqual({ start: CHUNK_BLOCKS - 10, count: 15 });
    expect(bitmap.nextRun(CHUNK_BLOCKS + 5, 15)).toEqual({ start: CHUNK_BLOCKS + 5, count: 5 });
    expect(bitmap.nextRun(CHUNK_BLOCKS + 10, 15)).toBeUndefined();
  });

  it("can lose blocks while it is iterated", () => {
    const bitmap = BlockBitmap.full(BLOCK_COUNT);
    let seen = 0;
    for (const block of bitmap) {
      bitmap.deleteRange(block, Math.min(1000, BLOCK_COUNT - block));
      seen += 1;
    }
    expect([seen, bitmap.population]).toEqual([Math.ceil(BLOCK_COUNT / 1000), 0]);
  });

  it("does not share its words with a clone", () => {
    const bitmap = BlockBitmap.of(100, [1]);
    const clone = bitmap.clone();
    clone.add(2);
    expect([[...bitmap], bitmap.equals(clone)]).toEqual([[1], false]);
  });

  it("combines with itself", () => {
    const bitmap = BlockBitmap.of(100, [1, 50]);
    bitmap.union(bitmap);
    bitmap.intersect(bitmap);
    expect([...bitmap]).toEqual([1, 50]);
    bitmap.subtract(bitmap);
    expect(bitmap.population).toBe(0);
  });

  it.each<[string, (bitmap: BlockBitmap) => unknown]>([
    ["a block at the end", (bitmap) => bitmap.add(100)],
    ["a negative block", (bitmap) => bitmap.has(-1)],
    ["half a block", (bitmap) => bitmap.delete(0.5)],
    ["a range over the end", (bitmap) => bitmap.addRange(90, 11)],
    ["a negative count", (bitmap) => bitmap.deleteRange(90, -1)],
    ["a start past the end", (bitmap) => bitmap.next(101)],
    ["another size", (bitmap) => bitmap.union(new BlockBitmap(101))],
    ["a size over the limit", () => new BlockBitmap(BLOCK_COUNT_MAX + 1)],
  ])("asserts that the caller does not ask for %s", (_name, act) => {
    expect(() => act(new BlockBitmap(100))).toThrow(AssertionFailure);
  });
});

describe("the wire form of a block-bitmap", () => {
  it("has these octets", () => {
    const bitmap = new BlockBitmap(4 * CHUNK_BLOCKS);
    expect([...bitmap.encode()]).toEqual([]);
    bitmap.addRange(CHUNK_BLOCKS, 2 * CHUNK_BLOCKS);
    bitmap.add(3 * CHUNK_BLOCKS);
    bitmap.addRange(3 * CHUNK_BLOCKS + 2, 200);
    const fullChunks = [/* skip 1 chunk, kind 0 */ 4, /* 2 chunks */ 1];
    const runs = [
      /* skip 0, kind 1 */ 1, /* 2 runs */ 1, /* at 0 */ 0, /* 1 block */ 0, /* gap 1 */ 0, 0xc7, 1,
    ];
    expect([...bitmap.encode()]).toEqual([...fullChunks, ...runs]);
  });

  it("takes the bits themselves where the runs would be longer", () => {
    const bitmap = new BlockBitmap(19);
    for (let block = 0; block < 19; block += 3) bitmap.add(block);
    expect([...bitmap.encode()]).toEqual([/* kind 2 */ 2, 0b0100_1001, 0b1001_0010, 0b100]);
  });

  it("is never more than a little longer than the bits, for scattered blocks", () => {
    const bitmap = new BlockBitmap(BLOCK_COUNT);
    for (let block = 0; block < BLOCK_COUNT; block += 2) bitmap.add(block);
    expect(bitmap.encode().length).toBeLessThan(BLOCK_COUNT / 8 + 16);
  });

  it.each<[string, number[], ProtocolError["code"]]>([
    ["a kind nobody knows", [3], "PROTOCOL_BAD_FIELD"],
    ["a chunk beyond the end", [16, 0], "PROTOCOL_BAD_FIELD"],
    ["full chunks beyond the end", [4, 3], "PROTOCOL_BAD_FIELD"],
    ["full chunks split in two", [0, 0, 0, 0], "PROTOCOL_BAD_FIELD"],
    ["a run over the end of its chunk", [1, 0, 0, 0x80, 0x80, 0x02], "PROTOCOL_BAD_FIELD"],
    ["a full chunk as a run", [1, 0, 0, 0xff, 0xff, 0x01], "PROTOCOL_BAD_FIELD"],
    ["a varint that could be shorter", [0x81, 0x00, 0, 0, 0], "PROTOCOL_BAD_FIELD"],
    ["a varint without an end", Array(9).fill(0x80), "PROTOCOL_BAD_FIELD"],
    ["runs that are not there", [1, 1, 0, 0], "PROTOCOL_FRAME_TRUNCATED"],
    ["bits that are not there", [2, 1, 1], "PROTOCOL_FRAME_TRUNCATED"],
    ["bits where a run is shorter", [2, 1, ...Array(4095).fill(0)], "PROTOCOL_BAD_FIELD"],
    ["no bits", [2, ...Array(4096).fill(0)], "PROTOCOL_BAD_FIELD"],
    ["all bits", [2, ...Array(4096).fill(255)], "PROTOCOL_BAD_FIELD"],
  ])("is refused with %s", (_name, octets, code) => {
    let caught: unknown;
    try {
      BlockBitmap.decode(Uint8Array.from(octets), 4 * CHUNK_BLOCKS);
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(ProtocolError);
    expect((caught as ProtocolError).code).toBe(code);
  });

  it("is refused with bits beyond the last block", () => {
    expect(() => BlockBitmap.decode(Uint8Array.of(2, 0b0100_1001, 0b1001_0010, 0b1100), 19)).toThrow(
      /beyond the last block/,
    );
  });

  it("is refused with runs where the bits are shorter", () => {
    expect(() => BlockBitmap.decode(Uint8Array.of(1, 1, 0, 0, 3, 0), 19)).toThrow(/longer than the bits/);
  });

  it("is refused as soon as the set takes more memory than the receiver allows", () => {
    const blockCount = 100 * CHUNK_BLOCKS;
    const sparse = new BlockBitmap(blockCount);
    for (let block = 0; block < blockCount; block += CHUNK_BLOCKS) sparse.add(block);
    const encoded = sparse.encode();
    expect(encoded.length).toBeLessThan(500);
    const { allocatedBytes } = sparse;
    expect(BlockBitmap.decode(encoded, blockCount, allocatedBytes).equals(sparse)).toBe(true);
    expect(() => BlockBitmap.decode(encoded, blockCount, allocatedBytes - 1)).toThrow(ProtocolError);
    expect(() => BlockBitmap.decode(Uint8Array.of(), BLOCK_COUNT_MAX, 1 << 20)).toThrow(ProtocolError);
  });

  it("is the only one: whatever decodes encodes to the same octets", () => {
    const segment = fc.oneof(
      fc.uint8Array({ maxLength: 12 }),
      fc
        .tuple(fc.constantFrom(1, 5), fc.uint8Array({ maxLength: 30 }))
        .map(([head, body]) => [head, ...body]),
      fc.constantFrom([0, 0], [4, 1], [1, 0, 0, 0], [1, 1, 7, 2, 0, 4], [2, 0x55, 0xaa, 0x55, 0xaa, 0x55, 1]),
    );
    let decoded = 0;
    fc.assert(
      fc.property(
        fc.array(segment, { maxLength: 4 }),
        fc.constantFrom(43, BLOCK_COUNT),
        (segments, blockCount) => {
          const bytes = Uint8Array.from(segments.flatMap((octets) => [...octets]));
          let bitmap: BlockBitmap;
          try {
            bitmap = BlockBitmap.decode(bytes, blockCount);
          } catch (error) {
            expect(error).toBeInstanceOf(ProtocolError);
            return;
          }
          decoded += 1;
          expect(bitmap.encode()).toEqual(bytes);
          // And made from the blocks, not remembered.
          expect(bitmap.clone().encode()).toEqual(bytes);
        },
      ),
      { numRuns: 5000 },
    );
    expect(decoded).toBeGreaterThan(100);
  });

  it("makes a receiver allocate no words for a few octets of full chunks", () => {
    const bitmap = BlockBitmap.decode(BlockBitmap.full(BLOCK_COUNT_MAX).encode(), BLOCK_COUNT_MAX);
    expect([bitmap.population, bitmap.allocatedBytes < 2 << 20]).toEqual([BLOCK_COUNT_MAX, true]);
  });
});
