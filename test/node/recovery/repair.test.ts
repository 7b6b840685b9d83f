/** A repaired folder may be older than the truth: its host owns nothing until its operator says so. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { keyFile } from "../../../node/data-folder.ts";
import { hostPaths } from "../../../node/domains/host-paths.ts";
import { loadOrCreateIdentity } from "../../../node/identity.ts";
import { repairHost } from "../../../node/recovery/repair.ts";
import { decide, NOBODY, type Testimony } from "../../../protocol/recovery.ts";
import { LevelMetadata } from "../../../storage/metadata.ts";
import type { DomainRecord } from "../../../storage/records.ts";

let dataDir: string;
let self: string;

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "sj-repair-"));
  ({ hostId: self } = await loadOrCreateIdentity(keyFile(dataDir)));
});
afterEach(() => rm(dataDir, { recursive: true, force: true }));

function record(id: string, changes: Partial<DomainRecord>): DomainRecord {
  return {
    id,
    name: `name of ${id}`,
    hypervisor: "wasm",
    memoryBytes: 1,
    config: "{}",
    vbds: [{ name: "root", sizeBytes: 4096 }],
    generation: 3,
    owner: self,
    state: "running",
    createdAt: 0,
    ...changes,
  };
}

async function metadata<T>(work: (opened: LevelMetadata) => Promise<T>): Promise<T> {
  const opened = await LevelMetadata.open({ folder: hostPaths(dataDir).metadata });
  try {
    return await work(opened);
  } finally {
    await opened.close();
  }
}

test("what it owned is nobody's, what others own stays theirs, and no attempt of its own goes on", async () => {
  await metadata(async ({ journal }) => {
    const attempt = { phase: "begun", migration: "m1", destination: "B", generation: 3 } as const;
    await journal.commit({
      domain: record("mine", {}),
      journal: { role: "source", domain: "mine", record: attempt },
    });
    await journal.commit({ domain: record("theirs", { owner: "B", state: "away" }) });
  });
  const { domains, unreadable, copy } = await repairHost(dataDir);
  expect({ domains, unreadable }).toEqual({ domains: ["name of mine"], unreadable: [] });
  expect(copy).toContain("before-repair");
  await metadata(async (opened) => {
    expect(await opened.domains.get("mine")).toMatchObject({
      owner: NOBODY,
      generation: 4,
      guestGeneration: 3,
    });
    expect(await opened.domains.get("theirs")).toMatchObject({ owner: "B", generation: 3 });
    expect(await opened.journal.list()).toEqual([]);
    expect(await opened.replicas.get("mine", self)).toMatchObject({ generation: 3, state: "whole" });
  });
});

test("a folder without a host, and one whose daemon runs, are left alone", async () => {
  await expect(repairHost(join(dataDir, "nothing"))).rejects.toMatchObject({ code: "USAGE" });
  await metadata(async () => {
    await expect(repairHost(dataDir)).rejects.toMatchObject({ code: "DATA_FOLDER_LOCKED" });
  });
});

const orphan: Testimony = {
  host: "A",
  claim: { owner: NOBODY, generation: 4 },
  guest: "running",
  isStopped: false,
  outgoing: undefined,
  incoming: undefined,
  replica: 3,
};
const other: Testimony = { ...orphan, host: "B", guest: "none", replica: undefined };

test("recover waits for the operator's word, and its guest is not taken for a stray", () => {
  const waits = { do: "wait", adoption: { from: "running guest", generation: 6 } };
  expect(decide({ mine: orphan, theirs: "unreachable", heard: 5 })).toMatchObject(waits);
  const ignorant = { ...other, claim: undefined };
  expect(decide({ mine: orphan, theirs: ignorant, heard: 5 })).toMatchObject(waits);
});

test("recover fences it where another host has the domain by its own journal", () => {
  const owner = { ...other, claim: { owner: "B", generation: 4 }, guest: "running" as const };
  for (const [mine, theirs] of [
    [orphan, owner],
    [owner, orphan],
  ] as const) {
    expect(decide({ mine, theirs })).toEqual({ do: "fence", at: "A", owner: "B", generation: 4 });
  }
  const idle = { ...orphan, guest: "none" as const };
  expect(decide({ mine: idle, theirs: owner })).toMatchObject({ do: "nothing" });
});

test("nothing is adopted whose blocks are elsewhere", () => {
  const incoming = { migration: "m", peer: "B", generation: 3, phase: "owner", missingBlocks: 7 } as const;
  expect(decide({ mine: { ...orphan, incoming }, theirs: "unreachable" })).toMatchObject({
    adoption: { refused: expect.stringContaining("7 blocks") },
  });
});
