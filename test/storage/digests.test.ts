import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { DIGEST_SIZE_BYTES } from "../../protocol/limits.ts";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { Extent } from "../../storage/block-store.ts";
import { allocatedNonZeroBlocks, digestCountOf, digestsOf, isZero } from "../../storage/digests.ts";
import { MemoryBlockStore } from "../../storage/memory-block-store.ts";
import { pattern } from "../contract/block-store.contract.ts";

const REGION_BYTES = 4 << 20;

/** Counts the bytes that were read. */
class CountingStore extends MemoryBlockStore {
  bytesRead = 0;
  override read(offset: number, target: Uint8Array): void | Promise<void> {
    this.bytesRead += target.length;
    return super.read(offset, target);
  }
}

/** Does not know what is a hole. */
class OpaqueStore extends CountingStore {
  override extents(): readonly Extent[] {
    return undefined as unknown as readonly Extent[];
  }
}

function sha(bytes: Uint8Array): string {
  return createHash("sha256")
    .update(bytes)
    .digest("hex")
    .slice(0, 2 * DIGEST_SIZE_BYTES);
}

function split(digests: Uint8Array): string[] {
  const hex = Buffer.from(digests).toString("hex");
  return hex.match(/.{32}/g) ?? [];
}

/** Two and a bit regions; data at the beginning of the first and at the very end. */
function sample(store: MemoryBlockStore): Uint8Array {
  const bytes = new Uint8Array(store.sizeBytes);
  const write = (offset: number, data: Uint8Array): void => {
    store.write(offset, data);
    bytes.set(data, offset);
  };
  write(10, pattern(5000, 1));
  write(100 * BLOCK_SIZE_BYTES, new Uint8Array(BLOCK_SIZE_BYTES));
  write(store.sizeBytes - 1, Uint8Array.of(5));
  return bytes;
}

const SIZE_BYTES = 2 * REGION_BYTES + 5 * BLOCK_SIZE_BYTES + 100;

describe.each([
  ["with extents", CountingStore],
  ["without extents", OpaqueStore],
])("digests %s", (_name, Store) => {
  it("are SHA-256 of each region, cut to 16 octets", async () => {
    const store = new Store({ sizeBytes: SIZE_BYTES });
    const bytes = sample(store);
    expect(digestCountOf(SIZE_BYTES, "region")).toBe(3);
    const regions = [0, 1, 2].map((region) =>
      bytes.subarray(region * REGION_BYTES, (region + 1) * REGION_BYTES),
    );
    expect(split(await digestsOf(store, { level: "region", start: 0, count: 3 }))).toEqual(regions.map(sha));
    expect(split(await digestsOf(store, { level: "region", start: 2, count: 1 }))).toEqual([
      sha(regions[2]!),
    ]);
  });

  it("are of each block, over any range", async () => {
    const store = new Store({ sizeBytes: SIZE_BYTES });
    const bytes = sample(store);
    const blockCount = digestCountOf(SIZE_BYTES, "block");
    expect(blockCount).toBe(2 * 1024 + 6);
    const expected = (start: number, count: number) =>
      Array.from({ length: count }, (_, index) => {
        const at = (start + index) * BLOCK_SIZE_BYTES;
        return sha(bytes.subarray(at, at + BLOCK_SIZE_BYTES));
      });
    for (const [start, count] of [
      [0, blockCount],
      [1, 300],
      [blockCount - 1, 1],
      [5, 0],
    ] as const) {
      expect(split(await digestsOf(store, { level: "block", start, count }))).toEqual(expected(start, count));
    }
  });
});

describe("digests", () => {
  it("read nothing of what is known to be zero", async () => {
    const store = new CountingStore({ sizeBytes: 100 * REGION_BYTES });
    store.write(50 * REGION_BYTES, pattern(1, 1));
    await digestsOf(store, { level: "region", start: 0, count: 100 });
    expect(store.bytesRead).toBe(REGION_BYTES);
  });

  it("let others have their turn", async () => {
    const store = new MemoryBlockStore({ sizeBytes: 10 * REGION_BYTES });
    let turns = 0;
    let running = true;
    const other = (async () => {
      while (running) {
        await new Promise((resolve) => setImmediate(resolve));
        turns++;
      }
    })();
    await digestsOf(store, { level: "region", start: 0, count: 10 });
    running = false;
    await other;
    expect(turns).toBeGreaterThanOrEqual(10);
  });
});

describe("allocated non-zero blocks", () => {
  it("are exactly the blocks that hold a byte other than zero", async () => {
    const store = new CountingStore({ sizeBytes: 200 * REGION_BYTES + 100 });
    sample(store);
    store.write(70 * REGION_BYTES - 1, pattern(2, 1));
    const blocks = await allocatedNonZeroBlocks(store);
    expect([...(blocks ?? [])]).toEqual([0, 1, 70 * 1024 - 1, 70 * 1024, 200 * 1024]);
    expect(store.bytesRead).toBeLessThan(10 * BLOCK_SIZE_BYTES);
  });

  it("are unknown where the store cannot tell", async () => {
    expect(await allocatedNonZeroBlocks(new OpaqueStore({ sizeBytes: 8192 }))).toBeUndefined();
  });
});

describe("isZero", () => {
  it("finds a single set byte anywhere in ranges of any length", () => {
    for (const length of [0, 1, 4096, (1 << 20) + 1, 3 << 20]) {
      const bytes = new Uint8Array(length);
      expect(isZero(bytes)).toBe(true);
      for (const at of [0, length >> 1, length - 1]) {
        if (at < 0 || at >= length) continue;
        bytes[at] = 1;
        expect(isZero(bytes)).toBe(false);
        bytes[at] = 0;
      }
    }
  });
});
