import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import { linuxCalls } from "../../storage/linux.ts";
import { blockStoreContract, bytesOf, pattern } from "../contract/block-store.contract.ts";

const MIB = 1 << 20;
const directory = mkdtempSync(join(tmpdir(), "sojourn-file-store-"));
afterAll(() => rmSync(directory, { recursive: true }));
let count = 0;
const newPath = () => join(directory, `vbd-${count++}`);

blockStoreContract("file", async (options) => FileBlockStore.create(newPath(), options));

describe("file block store", () => {
  it("creates with the exact size, takes no space, and never replaces a file", async () => {
    const path = newPath();
    const store = FileBlockStore.create(path, { sizeBytes: 10 * MIB + 3 });
    expect(statSync(path)).toMatchObject({ size: 10 * MIB + 3, blocks: 0 });
    expect(() => FileBlockStore.create(path, { sizeBytes: MIB })).toThrow("STORAGE_EXISTS");
    expect(statSync(path).size).toBe(10 * MIB + 3);
    await store.close();
  });

  it("opens only a file of the expected size, and leaves another as it is", () => {
    const path = newPath();
    writeFileSync(path, pattern(5000, 1));
    expect(() => FileBlockStore.open(path, { sizeBytes: 4096 })).toThrow("STORAGE_SIZE_MISMATCH");
    expect(() => FileBlockStore.open(path, { sizeBytes: 8192 })).toThrow("STORAGE_SIZE_MISMATCH");
    expect(() => FileBlockStore.open(newPath())).toThrow("STORAGE_NOT_FOUND");
    expect(() => FileBlockStore.open(directory, { readOnly: true })).toThrow("STORAGE_IO");
    expect(statSync(path).size).toBe(5000);
  });

  it("keeps its bytes over close and open", async () => {
    const path = newPath();
    const store = FileBlockStore.create(path, { sizeBytes: 9000 });
    await store.write(100, pattern(8000, 3));
    const bytes = await bytesOf(store);
    await store.close();
    const again = FileBlockStore.open(path, { sizeBytes: 9000 });
    expect(await bytesOf(again)).toEqual(bytes);
    await again.close();
  });

  it("refuses writes of any kind when opened for reading", async () => {
    const path = newPath();
    writeFileSync(path, pattern(4096, 1));
    const store = FileBlockStore.open(path, { readOnly: true });
    expect(() => store.write(0, new Uint8Array(1))).toThrow("STORAGE_READ_ONLY");
    expect(() => store.writeZeroes(0, 1, { mayUnmap: true })).toThrow("STORAGE_READ_ONLY");
    expect(() => store.trim(0, 4096)).toThrow("STORAGE_READ_ONLY");
    expect(await bytesOf(store)).toEqual(pattern(4096, 1));
    await store.close();
  });

  it("reads, writes and answers in the call, and flushes later", async () => {
    const store = FileBlockStore.create(newPath(), { sizeBytes: MIB });
    expect(store.write(0, pattern(4096, 1))).toBeUndefined();
    expect(store.read(0, new Uint8Array(4096))).toBeUndefined();
    await store.flush();
    await store.close();
  });

  it("says so when someone else has truncated the file", async () => {
    const path = newPath();
    const store = FileBlockStore.create(path, { sizeBytes: MIB });
    truncateSync(path, 100);
    expect(() => store.read(0, new Uint8Array(4096))).toThrow("STORAGE_IO");
    await store.close();
  });

  it("waits with close for long operations in flight", async () => {
    const path = newPath();
    const store = FileBlockStore.create(path, { sizeBytes: 16 * MIB });
    await store.write(0, pattern(16 * MIB, 1));
    const zeroed = store.writeZeroes(1, 15 * MIB, { mayUnmap: false });
    const flushed = store.flush();
    await store.close();
    await Promise.all([zeroed, flushed]);
    const again = FileBlockStore.open(path);
    const target = new Uint8Array(15 * MIB).fill(1);
    await again.read(1, target);
    expect(target.every((byte) => byte === 0)).toBe(true);
    await again.close();
  });

  it.skipIf(linuxCalls() === undefined)(
    "gives space back for trimmed and unmapped ranges, long and short",
    async () => {
      const path = newPath();
      const store = FileBlockStore.create(path, { sizeBytes: 8 * MIB });
      await store.write(0, pattern(8 * MIB, 1));
      await store.flush();
      const full = statSync(path).blocks;
      await store.trim(0, 4 * MIB);
      await store.writeZeroes(4 * MIB, 2 * MIB, { mayUnmap: true });
      await store.writeZeroes(6 * MIB, 4096, { mayUnmap: true });
      expect(statSync(path).blocks).toBeLessThan(full / 3);
      expect(store.extents(0, 8 * MIB)).toEqual([
        { offset: 0, length: 6 * MIB + 4096, hole: true, zero: true },
        { offset: 6 * MIB + 4096, length: 2 * MIB - 4096, hole: false, zero: false },
      ]);
      await store.close();
    },
  );

  it.skipIf(linuxCalls() === undefined)("keeps the space of zeroes that may not be unmapped", async () => {
    const path = newPath();
    const store = FileBlockStore.create(path, { sizeBytes: 4 * MIB });
    await store.writeZeroes(0, 2 * MIB, { mayUnmap: false });
    await store.flush();
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(2 * MIB);
    await store.close();
  });
});
