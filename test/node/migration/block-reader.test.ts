import { describe, expect, it } from "vitest";
import { readBlocks } from "../../../node/migration/block-reader.ts";
import { differingDigests } from "../../../node/migration/differing-digests.ts";
import { BLOCK_SIZE_BYTES } from "../../../protocol/units.ts";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";

describe("block reader", () => {
  it("tells zero blocks apart and keeps the order of the others", async () => {
    const store = new MemoryBlockStore({ sizeBytes: 6 * BLOCK_SIZE_BYTES });
    for (const block of [1, 2, 5]) {
      await store.write(block * BLOCK_SIZE_BYTES, new Uint8Array(BLOCK_SIZE_BYTES).fill(block));
    }
    const message = await readBlocks(store, {
      ticket: 7,
      purpose: "push",
      vbd: 0,
      runs: [
        { start: 0, count: 3 },
        { start: 4, count: 2 },
      ],
    });
    expect(message.runs).toEqual([
      { start: 1, count: 2 },
      { start: 5, count: 1 },
    ]);
    expect(message.zeroes).toEqual([
      { start: 0, count: 1 },
      { start: 4, count: 1 },
    ]);
    expect([0, 1, 2].map((index) => message.data[index * BLOCK_SIZE_BYTES])).toEqual([1, 2, 5]);
    expect(message.data).toHaveLength(3 * BLOCK_SIZE_BYTES);
  });

  it("reads a short last block, also when it is zero", async () => {
    const store = new MemoryBlockStore({ sizeBytes: BLOCK_SIZE_BYTES + 100 });
    const request = { ticket: 1, purpose: "precopy", vbd: 0, runs: [{ start: 0, count: 2 }] } as const;
    expect((await readBlocks(store, request)).zeroes).toEqual([{ start: 0, count: 2 }]);
    await store.write(BLOCK_SIZE_BYTES, new Uint8Array(100).fill(9));
    const message = await readBlocks(store, request);
    expect(message.runs).toEqual([{ start: 1, count: 1 }]);
    expect(message.data).toHaveLength(100);
  });
});

describe("differing digests", () => {
  it("names the indexes that differ, and every one that the other list lacks", () => {
    const ours = new Uint8Array(3 * 16).fill(1);
    const theirs = ours.slice();
    theirs[16] = 2;
    expect(differingDigests(ours, theirs, 100)).toEqual([101]);
    expect(differingDigests(ours, theirs.subarray(0, 16), 100)).toEqual([101, 102]);
  });
});
