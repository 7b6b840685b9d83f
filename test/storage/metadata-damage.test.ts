import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { LevelMetadata } from "../../storage/metadata.ts";
import { repairMetadata } from "../../storage/metadata-repair.ts";
import { sourceEntry } from "../contract/metadata-records.ts";

const MIGRATIONS = Array.from({ length: 40 }, (_, n) => `m${String(n).padStart(2, "0")}`);

let parent: string;
let folder: string;
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), "sojourn-damage-"));
  folder = join(parent, "metadata");
  const metadata = await LevelMetadata.open({ folder });
  for (const migration of MIGRATIONS) await metadata.journal.put(sourceEntry(migration));
  await metadata.close();
});
afterEach(async () => {
  await rm(parent, { recursive: true, force: true });
});

async function damage(suffix: string, change: (bytes: Buffer) => Buffer): Promise<void> {
  const name = (await readdir(folder)).find((file) => file.endsWith(suffix))!;
  const path = join(folder, name);
  await writeFile(path, change(await readFile(path)));
}

function flipOneBit(bytes: Buffer): Buffer {
  bytes[Math.floor(bytes.length / 2)]! ^= 0x10;
  return bytes;
}

test("one flipped bit in the write-ahead log is loud, at every open until the folder was repaired", async () => {
  await damage(".log", flipOneBit);
  const dropped = {
    code: "METADATA_RECORDS_DROPPED",
    message: expect.stringMatching(new RegExp(`${folder} is damaged.*copy ${folder} aside.*sojourn repair`)),
  };
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject(dropped);
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject(dropped);
});

test("a repaired folder opens, says that it was repaired, and has a copy beside it", async () => {
  await damage(".log", flipOneBit);
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject({ code: "METADATA_RECORDS_DROPPED" });
  const { copy } = await repairMetadata(folder);
  expect((await readdir(copy)).length).toBeGreaterThan(2);
  const metadata = await LevelMetadata.open({ folder });
  expect(metadata.repaired).toBe(copy);
  const kept = (await metadata.journal.list()).map(({ record }) => record.migration);
  expect(kept.length).toBeLessThan(MIGRATIONS.length);
  expect(MIGRATIONS).toEqual(expect.arrayContaining(kept));
  await metadata.close();
  expect((await repairMetadata(folder)).copy).not.toBe(copy);
});

test("a folder whose oldest records are lost can still be repaired", async () => {
  await damage(".log", (bytes) => {
    bytes[10]! ^= 1;
    return bytes;
  });
  await repairMetadata(folder);
  const metadata = await LevelMetadata.open({ folder });
  expect(metadata.repaired).toBeDefined();
  expect(await metadata.verify()).toEqual([]);
  await metadata.close();
});

test("a write that the crash cut off at the log's end is no damage", async () => {
  await damage(".log", (bytes) => bytes.subarray(0, bytes.length - 5));
  const metadata = await LevelMetadata.open({ folder });
  const kept = (await metadata.journal.list()).map(({ record }) => record.migration);
  expect(kept).toEqual(MIGRATIONS.slice(0, -1));
  await metadata.close();
});

test("a damaged CURRENT or a lost table is an error with the folder and the remedy", async () => {
  await damage("CURRENT", () => Buffer.from("nonsense"));
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject({
    code: "METADATA_CORRUPT",
    message: expect.stringMatching(
      new RegExp(`${folder} is damaged.*Nothing was deleted.*copy ${folder} aside`),
    ),
  });
  await repairMetadata(folder);
  // The repair moved everything into tables.
  const repaired = await LevelMetadata.open({ folder });
  expect(await repaired.journal.list()).toHaveLength(MIGRATIONS.length);
  await repaired.close();
  for (const name of await readdir(folder)) {
    if (/\.(ldb|sst)$/.test(name)) await rm(join(folder, name));
  }
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject({ code: "METADATA_CORRUPT" });
});

test("a folder that cannot be used says why", async () => {
  const file = join(parent, "file");
  await writeFile(file, "");
  await expect(LevelMetadata.open({ folder: join(file, "metadata") })).rejects.toMatchObject({
    code: "METADATA_UNAVAILABLE",
    message: expect.stringContaining(join(file, "metadata")),
  });
});
