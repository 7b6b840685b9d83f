import { expect, it } from "vitest";
import { MemoryBlockStore } from "../../storage/memory-block-store.ts";
import { blockStoreContract, pattern } from "../contract/block-store.contract.ts";

blockStoreContract("memory", async (options) => new MemoryBlockStore(options));

it("a memory store completes in the call", () => {
  const store = new MemoryBlockStore({ sizeBytes: 8192 });
  expect(store.write(0, pattern(8192, 1))).toBeUndefined();
  expect(store.flush()).toBeUndefined();
});

it("a memory store of 1 TiB takes space only for what was written", () => {
  const store = new MemoryBlockStore({ sizeBytes: 2 ** 40 });
  store.write(2 ** 39, pattern(1, 1));
  expect(store.extents(0, 2 ** 20)).toEqual([{ offset: 0, length: 2 ** 20, hole: true, zero: true }]);
});
