import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { countDiffering, countNonZero, readBlockSums, sha256OfFile } from "../../testnet/vbd-blocks.ts";

const BLOCK = 4096;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sojourn-blocks-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** A sparse file of `sizeBytes` with `bytes` at each of the offsets. */
async function sparseFile(
  name: string,
  sizeBytes: number,
  parts: Record<number, Uint8Array>,
): Promise<string> {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  const file = await open(path, "r+");
  for (const [offset, bytes] of Object.entries(parts))
    await file.write(bytes, 0, bytes.length, Number(offset));
  await file.close();
  return path;
}

it("a block of a hole and a block of written zeroes count as empty, one byte makes a block count", async () => {
  const path = await sparseFile("a", 5 * 2 ** 30, {
    0: new Uint8Array(3 * BLOCK).fill(1),
    [2 ** 30]: new Uint8Array(BLOCK),
    [4 * 2 ** 30 + 4095]: Uint8Array.of(1),
  });
  const sums = await readBlockSums(path);
  expect(sums.length).toBe((5 * 2 ** 30) / BLOCK);
  expect(countNonZero(sums)).toBe(4);
});

it("counts blocks that differ between two files, blocks of holes among them", async () => {
  const one = await sparseFile("one", 1 << 20, { 8192: Uint8Array.of(1, 2), 81920: Uint8Array.of(9) });
  const other = await sparseFile("other", 1 << 20, { 8192: Uint8Array.of(1, 3), 40960: Uint8Array.of(5) });
  const [a, b] = await Promise.all([readBlockSums(one), readBlockSums(other)]);
  expect(countDiffering(a, a)).toBe(0);
  expect(countDiffering(a, b)).toBe(3);
});

it("a last block that the file ends in counts as if zeroes followed", async () => {
  const short = await sparseFile("short", BLOCK + 512, { [BLOCK]: Uint8Array.of(7) });
  const long = await sparseFile("long", 2 * BLOCK, { [BLOCK]: Uint8Array.of(7) });
  const [a, b] = await Promise.all([readBlockSums(short), readBlockSums(long)]);
  expect(countNonZero(a)).toBe(1);
  expect(countDiffering(a, b)).toBe(0);
});

it("hashes a file as a whole", async () => {
  const path = await sparseFile("hash", 3 << 20, { 1: Uint8Array.of(1) });
  const bytes = Buffer.alloc(3 << 20);
  bytes[1] = 1;
  expect(await sha256OfFile(path)).toBe(createHash("sha256").update(bytes).digest("hex"));
});
