import { expect, test } from "vitest";
import { MemoryMetadata } from "../../storage/memory-metadata.ts";
import { metadataContract } from "../contract/metadata.contract.ts";
import { domainRecord, placementRecord, sourceEntry } from "../contract/metadata-records.ts";

metadataContract("MemoryMetadata", async () => new MemoryMetadata());

test("a crash keeps what was synced and what was written before it, and loses the rest", async () => {
  const before = new MemoryMetadata();
  await before.placements.put(placementRecord({ domain: "early" }), { sync: false });
  await before.journal.put(sourceEntry("m"));
  await before.placements.put(placementRecord({ domain: "late" }), { sync: false });
  const after = before.afterCrash();
  expect((await after.placements.list()).map(({ domain }) => domain)).toEqual(["early"]);
  expect(await after.journal.get("m")).toEqual(sourceEntry("m"));
});

test("a synced write survives a crash and an unsynced one does not", async () => {
  const metadata = new MemoryMetadata();
  await metadata.domains.put(domainRecord({ generation: 1 }), { sync: true });
  await metadata.domains.put(domainRecord({ generation: 2 }), { sync: false });
  expect(await metadata.domains.get(domainRecord().id)).toMatchObject({ generation: 2 });
  expect(await metadata.afterCrash().domains.get(domainRecord().id)).toMatchObject({ generation: 1 });
});

test("an orderly end loses nothing", async () => {
  const metadata = new MemoryMetadata();
  await metadata.placements.put(placementRecord(), { sync: false });
  await metadata.close();
  expect(await metadata.afterCrash().placements.list()).toEqual([placementRecord()]);
});
