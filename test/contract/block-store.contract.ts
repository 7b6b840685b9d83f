/**
 * What every `BlockStore` does. An implementation is tested by calling `blockStoreContract` from its own tests.
 */

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";

/** Not a multiple of the block, nor of a sector: the last block is short. */
const SIZE_BYTES = 37 * BLOCK_SIZE_BYTES + 1234;

/** Makes an empty store that reads as zero. */
export type BlockStoreFactory = (options: { sizeBytes: number }) => Promise<BlockStore>;

export function blockStoreContract(name: string, factory: BlockStoreFactory): void {
  describe(`${name}: the contract of a block store`, () => {
    let store: BlockStore;
    beforeEach(async () => {
      store = await factory({ sizeBytes: SIZE_BYTES });
    });
    afterEach(() => store.close());

    it("has the size it was made with and reads as zero", async () => {
      expect(store.sizeBytes).toBe(SIZE_BYTES);
      expectSameBytes(await bytesOf(store), new Uint8Array(SIZE_BYTES));
    });

    it("reads what was written, at any alignment, and leaves the rest", async () => {
      const expected = new Uint8Array(SIZE_BYTES);
      for (const [offset, length] of RANGES) {
        const data = pattern(length, offset);
        expected.set(data, offset);
        await store.write(offset, data);
        const target = new Uint8Array(length);
        await store.read(offset, target);
        expectSameBytes(target, data);
      }
      expectSameBytes(await bytesOf(store), expected);
    });

    it("gives the data back to the caller once a write has completed", async () => {
      const data = pattern(BLOCK_SIZE_BYTES, 1);
      await store.write(0, data);
      const written = data.slice();
      data.fill(0xee);
      const target = new Uint8Array(BLOCK_SIZE_BYTES);
      await store.read(0, target);
      expectSameBytes(target, written);
    });

    it.each([true, false])("reads as zero after writeZeroes with mayUnmap %s", async (mayUnmap) => {
      for (const [offset, length] of RANGES) {
        const expected = await fill(store);
        await store.writeZeroes(offset, length, { mayUnmap });
        expected.fill(0, offset, offset + length);
        expectSameBytes(await bytesOf(store), expected);
      }
    });

    it("reads as zero or as before after trim, always the same, and leaves the rest", async () => {
      for (const [offset, length] of RANGES) {
        const before = await fill(store);
        await store.trim(offset, length);
        const after = await bytesOf(store);
        expectTrimmed({ before, after, offset, length });
        expectSameBytes(await bytesOf(store), after);
      }
    });

    it("covers any range with merged extents in order, and what is not zero is data", async () => {
      await store.write(5 * BLOCK_SIZE_BYTES, pattern(3 * BLOCK_SIZE_BYTES, 5));
      await store.write(20 * BLOCK_SIZE_BYTES + 7, pattern(100, 6));
      await store.write(SIZE_BYTES - 1, Uint8Array.of(9));
      const bytes = await bytesOf(store);
      for (const [offset, length] of RANGES) {
        const extents = await store.extents(offset, length);
        if (extents === undefined) continue;
        let at = offset;
        for (const [index, extent] of extents.entries()) {
          expect(extent.offset).toBe(at);
          expect(extent.length).toBeGreaterThan(0);
          const previous = extents[index - 1];
          if (previous) expect([extent.hole, extent.zero]).not.toEqual([previous.hole, previous.zero]);
          if (extent.zero) expect(isZero(bytes.subarray(at, at + extent.length))).toBe(true);
          at += extent.length;
        }
        expect(at).toBe(offset + length);
      }
    });

    it("accepts empty ranges, also at the end", async () => {
      for (const offset of [0, 100, SIZE_BYTES]) {
        await store.read(offset, new Uint8Array(0));
        await store.write(offset, new Uint8Array(0));
        await store.writeZeroes(offset, 0, { mayUnmap: true });
        await store.trim(offset, 0);
        expect((await store.extents(offset, 0)) ?? []).toEqual([]);
      }
      expectSameBytes(await bytesOf(store), new Uint8Array(SIZE_BYTES));
    });

    it("refuses a range outside with STORAGE_OUT_OF_RANGE and changes nothing", async () => {
      const before = await fill(store);
      const outside = [
        [-1, 1],
        [SIZE_BYTES, 1],
        [SIZE_BYTES - 1, 2],
        [0.5, 1],
        [Number.NaN, 1],
        [2 ** 53, 4096],
      ] as const;
      for (const [offset, length] of outside) {
        for (const operation of operationsAt(store, offset, length)) {
          await expect(operation()).rejects.toMatchObject({ code: "STORAGE_OUT_OF_RANGE" });
        }
      }
      expectSameBytes(await bytesOf(store), before);
    });

    it("refuses every operation after close with STORAGE_CLOSED, and closes again", async () => {
      await store.close();
      for (const operation of [...operationsAt(store, 0, 10), async () => store.flush()]) {
        await expect(operation()).rejects.toMatchObject({ code: "STORAGE_CLOSED" });
      }
      await store.close();
    });

    it("flushes, also many at once and while writing", async () => {
      await fill(store);
      const flushes = Array.from({ length: 20 }, async (_, index) => {
        await store.write(index * BLOCK_SIZE_BYTES, pattern(10, index));
        await store.flush();
      });
      await Promise.all(flushes);
      const target = new Uint8Array(10);
      await store.read(19 * BLOCK_SIZE_BYTES, target);
      expect(target).toEqual(pattern(10, 19));
    });

    it("runs operations on different blocks at once", async () => {
      const expected = new Uint8Array(SIZE_BYTES);
      const operations = Array.from({ length: 37 }, async (_, block) => {
        const offset = block * BLOCK_SIZE_BYTES + block;
        const data = pattern(BLOCK_SIZE_BYTES - 40, block);
        expected.set(data, offset);
        await store.write(offset, data);
        if (block % 3 === 0) {
          await store.writeZeroes(offset, 50, { mayUnmap: false });
          expected.fill(0, offset, offset + 50);
        }
        const target = new Uint8Array(data.length);
        await store.read(offset, target);
        expectSameBytes(target, expected.subarray(offset, offset + data.length));
      });
      await Promise.all(operations);
      expectSameBytes(await bytesOf(store), expected);
    });

    it("behaves like an array of bytes under any sequence of operations", async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(anyOperation, { maxLength: 30 }), async (operations) => {
          const fresh = await factory({ sizeBytes: SIZE_BYTES });
          const model = new Uint8Array(SIZE_BYTES);
          for (const operation of operations) await apply(fresh, model, operation);
          expectSameBytes(await bytesOf(fresh), model);
          await fresh.close();
        }),
        { numRuns: 25 },
      );
    });
  });
}

const RANGES: readonly (readonly [offset: number, length: number])[] = [
  [0, SIZE_BYTES],
  [0, 1],
  [BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES],
  [BLOCK_SIZE_BYTES - 1, 2],
  [100, 3 * BLOCK_SIZE_BYTES],
  [2 * BLOCK_SIZE_BYTES, 2 * BLOCK_SIZE_BYTES + 512],
  [7 * BLOCK_SIZE_BYTES + 512, 512],
  [37 * BLOCK_SIZE_BYTES, 1234],
  [36 * BLOCK_SIZE_BYTES + 9, SIZE_BYTES - 36 * BLOCK_SIZE_BYTES - 9],
  [SIZE_BYTES - 1, 1],
];

type Operation = {
  kind: "write" | "zeroes" | "unmap" | "trim" | "flush";
  from: number;
  to: number;
  salt: number;
};

const anyOperation: fc.Arbitrary<Operation> = fc.record({
  kind: fc.constantFrom("write", "zeroes", "unmap", "trim", "flush"),
  from: anyOffset(),
  to: anyOffset(),
  salt: fc.nat(255),
});

function anyOffset(): fc.Arbitrary<number> {
  return fc.oneof(
    fc.nat(SIZE_BYTES),
    fc.nat(37).map((block) => block * BLOCK_SIZE_BYTES),
    fc.constant(SIZE_BYTES),
  );
}

async function apply(store: BlockStore, model: Uint8Array, operation: Operation): Promise<void> {
  const offset = Math.min(operation.from, operation.to);
  const length = Math.abs(operation.to - operation.from);
  switch (operation.kind) {
    case "write": {
      const data = pattern(length, operation.salt);
      model.set(data, offset);
      return store.write(offset, data);
    }
    case "zeroes":
    case "unmap":
      model.fill(0, offset, offset + length);
      return store.writeZeroes(offset, length, { mayUnmap: operation.kind === "unmap" });
    case "trim": {
      await store.trim(offset, length);
      const after = await bytesOf(store);
      expectTrimmed({ before: model, after, offset, length });
      model.set(after);
      return;
    }
    case "flush":
      return store.flush();
  }
}

function expectTrimmed(trim: {
  before: Uint8Array;
  after: Uint8Array;
  offset: number;
  length: number;
}): void {
  const { before, after, offset, length } = trim;
  expect(after.length).toBe(before.length);
  const wrong = after.findIndex((byte, index) => {
    const inside = index >= offset && index < offset + length;
    return byte !== before[index] && !(inside && byte === 0);
  });
  expect(wrong, "first wrong byte").toBe(-1);
}

/** Bytes that are never zero and differ from place to place. */
export function pattern(length: number, salt: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++)
    bytes[index] = 1 + ((index * 7 + salt * 31 + (index >>> 8)) % 255);
  return bytes;
}

async function fill(store: BlockStore): Promise<Uint8Array> {
  const bytes = pattern(store.sizeBytes, 77);
  await store.write(0, bytes);
  return bytes;
}

export async function bytesOf(store: BlockStore): Promise<Uint8Array> {
  const bytes = new Uint8Array(store.sizeBytes).fill(0x55);
  await store.read(0, bytes);
  return bytes;
}

/** As `toEqual`, at the speed of memory: a mismatch names its first byte. */
export function expectSameBytes(actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) === 0) return;
  expect(actual.length, "length").toBe(expected.length);
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  expect({ at, byte: actual[at] }, "first byte that differs").toEqual({ at, byte: expected[at] });
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** One of each kind, for refusals; whether thrown or rejected, the caller sees a rejection. */
function operationsAt(store: BlockStore, offset: number, length: number): (() => Promise<unknown>)[] {
  return [
    async () => store.read(offset, new Uint8Array(length)),
    async () => store.write(offset, new Uint8Array(length)),
    async () => store.writeZeroes(offset, length, { mayUnmap: true }),
    async () => store.trim(offset, length),
    async () => store.extents(offset, length),
  ];
}
