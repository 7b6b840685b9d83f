import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Level } from "level";
import { afterEach, beforeEach, expect, test } from "vitest";
import { keyOf } from "../../storage/keyspaces.ts";
import { LevelStore } from "../../storage/level-store.ts";
import { LevelMetadata } from "../../storage/metadata.ts";
import { RecordSpace } from "../../storage/record-space.ts";
import { SchemaRecord } from "../../storage/records.ts";
import { metadataContract, summaryOf } from "../contract/metadata.contract.ts";
import { domainRecord, placementRecord, sourceEntry } from "../contract/metadata-records.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "sojourn-metadata-"));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

metadataContract("LevelMetadata", () => LevelMetadata.open({ folder }));

test("what was put is there after reopening", async () => {
  const first = await LevelMetadata.open({ folder });
  await first.domains.put(domainRecord(), { sync: true });
  await first.placements.put(placementRecord(), { sync: false });
  await first.journal.put(sourceEntry("m"));
  await first.close();
  const second = await LevelMetadata.open({ folder });
  expect(await second.domains.list()).toEqual([domainRecord()]);
  expect(await second.placements.list()).toEqual([placementRecord()]);
  expect(await second.journal.list()).toEqual([sourceEntry("m")]);
  expect(second.repaired).toBeUndefined();
  await second.close();
});

test("a second daemon on the same folder is told whose it is, and the first works on", async () => {
  const first = await LevelMetadata.open({ folder });
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject({
    code: "METADATA_LOCKED",
    message: expect.stringMatching(new RegExp(`${folder} is in use by another sojourn daemon.*fuser -v`)),
  });
  await first.domains.put(domainRecord(), { sync: true });
  expect(await first.domains.list()).toHaveLength(1);
  await first.close();
});

test("a folder of a newer schema is refused by name and stays as it is", async () => {
  const newer = { version: 7, steps: [] };
  await (await LevelMetadata.open({ folder, schema: newer })).close();
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject({
    code: "METADATA_SCHEMA_NEWER",
    detail: { found: 7, known: 1 },
  });
  await (await LevelMetadata.open({ folder, schema: newer })).close();
});

test("a LevelDB of someone else is refused and stays as it is", async () => {
  const foreign = new Level(folder);
  await foreign.put("theirs", "value");
  await foreign.close();
  await expect(LevelMetadata.open({ folder })).rejects.toMatchObject({ code: "METADATA_FOREIGN" });
  const again = new Level(folder);
  expect(await again.keys().all()).toEqual(["theirs"]);
  await again.close();
});

test("an older folder is brought up step by step, each step with its version", async () => {
  const old = await LevelMetadata.open({ folder });
  await old.placements.put(placementRecord({ domain: "d", state: "running" }), { sync: true });
  await old.close();

  const put = (key: string) => ({ type: "put" as const, key, value: new Uint8Array() });
  const steps = [
    { from: 1, describe: "first", operations: async () => [put("90/one")] },
    { from: 2, describe: "second fails", operations: () => Promise.reject(new Error("power cut")) },
  ];
  const seen: string[] = [];
  const opening = {
    folder,
    schema: { version: 3, steps },
    onSchemaStep: (s: { describe: string }) => seen.push(s.describe),
  };
  await expect(LevelMetadata.open(opening)).rejects.toThrow("power cut");
  expect(seen).toEqual(["first", "second fails"]);

  const between = await LevelStore.open(folder);
  expect(await new RecordSpace(between, "meta", SchemaRecord).get("schema")).toEqual({ version: 2 });
  expect(await between.get("90/one")).toBeDefined();
  await between.close();

  steps[1] = {
    from: 2,
    describe: "second",
    operations: async () => [{ type: "del", key: "90/one" } as never],
  };
  const done = await LevelMetadata.open({ ...opening, schema: { version: 3, steps } });
  expect(seen).toEqual(["first", "second fails", "second"]);
  expect(await done.placements.list()).toHaveLength(1);
  await done.close();
});

test("a stored record that cannot be read is an error with its key, and the others are well", async () => {
  const metadata = await LevelMetadata.open({ folder });
  await metadata.domains.put(domainRecord({ id: "good" }), { sync: true });
  await metadata.domains.put(domainRecord({ id: "flipped" }), { sync: true });
  await metadata.placements.put(placementRecord({ domain: "moved" }), { sync: true });
  await metadata.close();

  const store = await LevelStore.open(folder);
  const flipped = keyOf("domain", "flipped");
  const value = (await store.get(flipped))!;
  value[20]! ^= 1;
  const moved = (await store.get(keyOf("placement", "moved", "host-a")))!;
  await store.write(
    [
      { type: "put", key: flipped, value },
      { type: "put", key: keyOf("placement", "elsewhere", "host-a"), value: moved },
    ],
    { sync: true },
  );
  await store.close();

  const again = await LevelMetadata.open({ folder });
  const invalid = { code: "METADATA_RECORD_INVALID", message: expect.stringContaining("domain/flipped") };
  await expect(again.domains.get("flipped")).rejects.toMatchObject(invalid);
  await expect(again.domains.list()).rejects.toMatchObject(invalid);
  expect(await again.domains.get("good")).toEqual(domainRecord({ id: "good" }));
  expect((await again.verify()).map(({ key }) => key)).toEqual([
    "domain/flipped",
    // A record under another's key is not that other's record.
    "placement/elsewhere/host-a",
  ]);
  await again.close();
});

test("a damaged bitmap is an error with its key", async () => {
  const metadata = await LevelMetadata.open({ folder });
  const entries = [{ first: 3, last: 3, written: [new Uint8Array(300 << 10).fill(1)] }];
  await metadata.generations.replaceLog("d", entries, { sync: true });
  await metadata.close();
  const store = await LevelStore.open(folder);
  await store.write([{ type: "del", key: keyOf("bitmap", "d", 0, 3, 1) }], { sync: true });
  await store.close();
  const again = await LevelMetadata.open({ folder });
  await expect(again.generations.readLog("d")).rejects.toMatchObject({
    code: "METADATA_RECORD_INVALID",
    detail: { key: "bitmap/d/0/3/1" },
  });
  expect(await again.verify()).toEqual([{ key: "bitmap/d/0/3/1", reason: "it is not there" }]);
  // The owner of the log can still write it anew.
  await again.generations.replaceLog("d", entries, { sync: true });
  expect(summaryOf(await again.generations.readLog("d"))).toEqual(summaryOf(entries));
  await again.close();
});
