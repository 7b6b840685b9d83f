/** What every `Metadata` does. `make` opens an empty one; the suite closes it. */
import { createHash } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BITMAP_CHUNK_SIZE } from "../../storage/generation-repository.ts";
import type { JournalEntry } from "../../storage/journal-records.ts";
import type { Metadata } from "../../storage/metadata.ts";
import { HISTORY_PER_DOMAIN_MAX } from "../../storage/migration-history.ts";
import type { DomainRecord, StoredLogEntry } from "../../storage/records.ts";
import {
  domainRecord,
  historyRecord,
  placementRecord,
  replicaRecord,
  sourceEntry,
  vbdRecord,
} from "./metadata-records.ts";

const SYNC = { sync: true };
const NO_SYNC = { sync: false };

export function metadataContract(title: string, make: () => Promise<Metadata>): void {
  describe(`${title} keeps the metadata contract`, () => {
    let metadata: Metadata;
    beforeEach(async () => {
      metadata = await make();
    });
    afterEach(async () => {
      await metadata.close();
    });

    domainTests(() => metadata);
    placeTests(() => metadata);
    logTests(() => metadata);
    journalTests(() => metadata);

    test("everything it takes and returns can be cloned to another process", async () => {
      await metadata.journal.commit(structuredClone(wholeCommit()));
      const read = [
        await metadata.domains.list(),
        await metadata.vbds.list("d"),
        await metadata.generations.readLog("d"),
        await metadata.replicas.list("d"),
        await metadata.placements.list(),
        await metadata.history.list("d"),
        await metadata.journal.list(),
      ];
      expect(structuredClone(read)).toEqual(read);
      expect(read.map((records) => records.length)).toEqual([1, 1, 1, 2, 1, 1, 1]);
      expect(await metadata.verify()).toEqual([]);
    });

    test("after close every call says that it is closed", async () => {
      await metadata.close();
      await metadata.close();
      const closed = { code: "METADATA_CLOSED" };
      await expect(metadata.domains.get("d")).rejects.toMatchObject(closed);
      await expect(metadata.placements.list()).rejects.toMatchObject(closed);
      await expect(metadata.journal.put(sourceEntry("m"))).rejects.toMatchObject(closed);
    });
  });
}

function wholeCommit() {
  return {
    journal: sourceEntry("m"),
    domain: domainRecord({ id: "d", generation: 2 }),
    vbds: [vbdRecord({ identity: { inode: 7, mtime: "12.5" } })],
    replicas: [
      replicaRecord({ state: "whole" }),
      replicaRecord({ host: "host-b", dirtySince: 3, state: "receiving", reason: "migration m" }),
    ],
    log: { domain: "d", entries: [{ first: 1, last: 1, written: [Uint8Array.of(1, 2, 3)] }] },
    placement: placementRecord(),
    history: historyRecord(),
  };
}

function domainTests(metadata: () => Metadata): void {
  test("a record that was never put is undefined, and lists are empty", async () => {
    expect(await metadata().domains.get("d")).toBeUndefined();
    expect(await metadata().domains.find("d")).toBeUndefined();
    expect(await metadata().vbds.get("d", "root")).toBeUndefined();
    expect(await metadata().replicas.get("d", "host-a")).toBeUndefined();
    expect(await metadata().placements.get("d")).toBeUndefined();
    expect(await metadata().journal.get("m")).toBeUndefined();
    expect(await metadata().generations.readLog("d")).toEqual([]);
    expect(await metadata().history.list("d")).toEqual([]);
    expect(await metadata().domains.list()).toEqual([]);
  });

  test("a domain comes back as it was put", async () => {
    await metadata().domains.put(domainRecord(), SYNC);
    expect(await metadata().domains.get("3f2a-alpha")).toEqual(domainRecord());
  });

  test("a domain is found by id, by name, and by the beginning of its id", async () => {
    const [a, b] = [domainRecord({ id: "3f2a", name: "web" }), domainRecord({ id: "3f77", name: "db" })];
    await metadata().domains.put(a, NO_SYNC);
    await metadata().domains.put(b, NO_SYNC);
    expect(await metadata().domains.find("3f2a")).toEqual(a);
    expect(await metadata().domains.find("db")).toEqual(b);
    expect(await metadata().domains.find("3f7")).toEqual(b);
    expect(await metadata().domains.find("4")).toBeUndefined();
    expect(await metadata().domains.find("")).toBeUndefined();
  });

  test("an id beats a name that is spelled like it, and a name beats the beginning of an id", async () => {
    const byId = domainRecord({ id: "web", name: "one" });
    const byName = domainRecord({ id: "other", name: "web" });
    const named = domainRecord({ id: "x1", name: "o" });
    for (const record of [byId, byName, named]) await metadata().domains.put(record, NO_SYNC);
    expect(await metadata().domains.find("web")).toEqual(byId);
    expect(await metadata().domains.find("o")).toEqual(named);
  });

  test("what fits several domains is refused and names them", async () => {
    await metadata().domains.put(domainRecord({ id: "3f2a" }), NO_SYNC);
    await metadata().domains.put(domainRecord({ id: "3f77" }), NO_SYNC);
    const ambiguous = { code: "METADATA_DOMAIN_AMBIGUOUS", message: expect.stringContaining("3f77 (web)") };
    await expect(metadata().domains.find("3f")).rejects.toMatchObject(ambiguous);
    await expect(metadata().domains.find("web")).rejects.toMatchObject(ambiguous);
  });

  test("a domain's generation rises and never falls", async () => {
    await metadata().domains.put(domainRecord({ generation: 5 }), SYNC);
    await metadata().domains.put(domainRecord({ generation: 5, state: "away" }), SYNC);
    await expect(metadata().domains.put(domainRecord({ generation: 4 }), SYNC)).rejects.toMatchObject({
      code: "METADATA_GENERATION_LOWERED",
      detail: { stored: 5, offered: 4 },
    });
    expect(await metadata().domains.get("3f2a-alpha")).toMatchObject({ generation: 5, state: "away" });
  });

  test("a generation never changes its owner", async () => {
    await metadata().domains.put(domainRecord({ generation: 5, owner: "host-a" }), SYNC);
    await expect(
      metadata().domains.put(domainRecord({ generation: 5, owner: "host-b" }), SYNC),
    ).rejects.toMatchObject({
      code: "METADATA_OWNER_CHANGED",
      detail: { stored: "host-a", offered: "host-b" },
    });
    await metadata().domains.put(domainRecord({ generation: 6, owner: "host-b" }), SYNC);
    expect(await metadata().domains.get("3f2a-alpha")).toMatchObject({ generation: 6, owner: "host-b" });
  });

  test("of two concurrent writers the lower generation never ends up stored", async () => {
    const writes = [7, 3, 9, 4].map((generation) =>
      metadata()
        .domains.put(domainRecord({ generation }), NO_SYNC)
        .catch((error: unknown) => error),
    );
    await Promise.all(writes);
    expect(await metadata().domains.get("3f2a-alpha")).toMatchObject({ generation: 9 });
  });

  test("a record that breaks its own rules is not written", async () => {
    const bad = domainRecord({ generation: -1 });
    await expect(metadata().domains.put(bad, SYNC)).rejects.toMatchObject({
      code: "METADATA_RECORD_INVALID",
      message: expect.stringMatching(/domain\/3f2a-alpha[\s\S]*generation/),
    });
    const more = { ...domainRecord(), colour: "red" };
    await expect(metadata().domains.put(more, SYNC)).rejects.toMatchObject({
      code: "METADATA_RECORD_INVALID",
    });
    expect(await metadata().domains.list()).toEqual([]);
  });

  test("a removed domain takes its vbds, log and replicas along, and nothing of a neighbour", async () => {
    const commitOf = (id: string) => ({
      domain: domainRecord({ id }),
      vbds: [vbdRecord({ domain: id })],
      replicas: [replicaRecord({ domain: id })],
      log: { domain: id, entries: [{ first: 1, last: 1, written: [Uint8Array.of(1)] }] },
    });
    for (const id of ["d", "d2", "d/3"]) await metadata().journal.commit(commitOf(id));
    await metadata().domains.remove("d", SYNC);
    expect(await metadata().domains.get("d")).toBeUndefined();
    expect(await metadata().vbds.list("d")).toEqual([]);
    expect(await metadata().replicas.list("d")).toEqual([]);
    expect(await metadata().generations.readLog("d")).toEqual([]);
    for (const id of ["d2", "d/3"]) {
      expect(await metadata().domains.get(id)).toEqual(commitOf(id).domain);
      expect(await metadata().vbds.list(id)).toEqual(commitOf(id).vbds);
      expect(await metadata().replicas.list(id)).toEqual(commitOf(id).replicas);
      expect(await metadata().generations.readLog(id)).toEqual(commitOf(id).log.entries);
    }
  });
}

function placeTests(metadata: () => Metadata): void {
  test("vbds, replicas and placements are replaced by a later put and go when removed", async () => {
    const { vbds, replicas, placements } = metadata();
    await vbds.put(vbdRecord({ name: "a/b" }), SYNC);
    await vbds.put(vbdRecord({ name: "a/b", path: "/elsewhere" }), SYNC);
    await vbds.put(vbdRecord({ name: "a" }), SYNC);
    expect(await vbds.get("d", "a/b")).toEqual(vbdRecord({ name: "a/b", path: "/elsewhere" }));
    expect((await vbds.list("d")).map(({ name }) => name)).toEqual(["a", "a/b"]);
    await vbds.remove("d", "a/b", SYNC);
    expect((await vbds.list("d")).map(({ name }) => name)).toEqual(["a"]);

    await replicas.put(replicaRecord({ state: "receiving", dirtySince: 4 }), SYNC);
    await replicas.put(replicaRecord({ state: "whole", generation: 2 }), SYNC);
    expect(await replicas.list("d")).toEqual([replicaRecord({ state: "whole", generation: 2 })]);
    await replicas.remove("d", "host-a", SYNC);
    expect(await replicas.list("d")).toEqual([]);

    await placements.put(placementRecord(), NO_SYNC);
    await placements.put(placementRecord({ seq: 2, state: "stopped" }), NO_SYNC);
    expect(await placements.list()).toEqual([placementRecord({ seq: 2, state: "stopped" })]);
    await placements.remove("d", NO_SYNC);
    expect(await placements.get("d")).toBeUndefined();
  });

  test("history lists the newest first and keeps a bounded number per domain", async () => {
    const { history } = metadata();
    await history.add(historyRecord({ domain: "other" }), NO_SYNC);
    const count = HISTORY_PER_DOMAIN_MAX + 3;
    for (let n = 1; n <= count; n++) await history.add(historyRecord({ migration: `m${n}` }), NO_SYNC);
    const listed = (await history.list("d")).map(({ migration }) => migration);
    expect(listed).toHaveLength(HISTORY_PER_DOMAIN_MAX);
    expect([listed[0], listed.at(-1)]).toEqual([`m${count}`, "m4"]);
    expect(await history.list("other")).toHaveLength(1);
  });
}

/** Digests instead of bytes: comparing megabytes element by element takes seconds. */
export function summaryOf(entries: readonly StoredLogEntry[]) {
  const digestOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
  return entries.map(({ first, last, written }) => ({ first, last, written: written.map(digestOf) }));
}

function logTests(metadata: () => Metadata): void {
  const bitmapOf = (sizeBytes: number, fill: number) => new Uint8Array(sizeBytes).fill(fill);

  test("a log comes back entry by entry, its bitmaps decodable", async () => {
    const blocks = BlockBitmap.of(100_000, [0, 1, 2, 70_000, 99_999]);
    const entries = [
      { first: 1, last: 3, written: [blocks.encode(), new Uint8Array(0)] },
      { first: 4, last: 4, written: [bitmapOf(10, 1), bitmapOf(2 * BITMAP_CHUNK_SIZE + 17, 2)] },
      { first: 11, last: 11, written: [bitmapOf(BITMAP_CHUNK_SIZE, 3), bitmapOf(1, 4)] },
    ];
    await metadata().generations.replaceLog("d", entries, SYNC);
    const log = await metadata().generations.readLog("d");
    expect(summaryOf(log)).toEqual(summaryOf(entries));
    expect(BlockBitmap.decode(log[0]!.written[0]!, 100_000).equals(blocks)).toBe(true);
  });

  test("a replaced log leaves nothing of the old one: grown, shrunk, merged and emptied", async () => {
    const steps: StoredLogEntry[][] = [
      [{ first: 1, last: 1, written: [bitmapOf(3 * BITMAP_CHUNK_SIZE, 1)] }],
      [
        { first: 1, last: 1, written: [bitmapOf(3 * BITMAP_CHUNK_SIZE, 1)] },
        { first: 2, last: 2, written: [bitmapOf(5, 2)] },
      ],
      [{ first: 1, last: 2, written: [bitmapOf(BITMAP_CHUNK_SIZE + 1, 1)] }],
      [{ first: 1, last: 2, written: [bitmapOf(BITMAP_CHUNK_SIZE + 1, 9)] }],
      [{ first: 2, last: 2, written: [bitmapOf(4, 1), bitmapOf(4, 2)] }],
      [],
    ];
    for (const entries of steps) {
      await metadata().generations.replaceLog("d", entries, SYNC);
      expect(summaryOf(await metadata().generations.readLog("d"))).toEqual(summaryOf(entries));
    }
  });

  test("one entry is added or replaced, and the others stay as they are", async () => {
    const { generations, journal } = metadata();
    const [one, three] = [1, 3].map((first) => ({ first, last: first, written: [bitmapOf(9, first)] }));
    const long = { first: 2, last: 2, written: [bitmapOf(2 * BITMAP_CHUNK_SIZE + 1, 2), bitmapOf(7, 2)] };
    const short = { first: 2, last: 2, written: [bitmapOf(5, 8)] };
    await generations.replaceLog("d", [one!, three!], SYNC);
    await generations.putEntry("d", long, SYNC);
    expect(summaryOf(await generations.readLog("d"))).toEqual(summaryOf([one!, long, three!]));
    await journal.commit({ logEntry: { domain: "d", entry: short } });
    expect(summaryOf(await generations.readLog("d"))).toEqual(summaryOf([one!, short, three!]));
    // The long one's chunks are gone: as an entry again it is whole only if all of them are written.
    await generations.putEntry("d", long, SYNC);
    expect(summaryOf(await generations.readLog("d"))).toEqual(summaryOf([one!, long, three!]));
    for (const [first, last] of [
      [4, 3],
      [0, 1],
      [2, 3],
    ] as const) {
      await expect(generations.putEntry("d", { first, last, written: [] }, SYNC)).rejects.toMatchObject({
        code: "METADATA_RECORD_INVALID",
      });
    }
    expect(await metadata().verify()).toEqual([]);
  });

  test("a log is read whole while another takes its place", async () => {
    const logOf = (fill: number) => [
      { first: 1, last: 1, written: [bitmapOf(BITMAP_CHUNK_SIZE + 5, fill), bitmapOf(9, fill)] },
    ];
    await metadata().generations.replaceLog("d", logOf(0), NO_SYNC);
    const reads: Promise<StoredLogEntry[]>[] = [];
    for (let fill = 1; fill <= 20; fill++) {
      void metadata().generations.replaceLog("d", logOf(fill), NO_SYNC);
      reads.push(metadata().generations.readLog("d"));
    }
    const seen = (await Promise.all(reads)).map(summaryOf);
    expect(seen).toEqual(Array.from({ length: 20 }, (_, n) => summaryOf(logOf(n + 1))));
  });

  test("a log whose generations overlap is refused and the stored one stays", async () => {
    const good = [{ first: 1, last: 2, written: [bitmapOf(3, 1)] }];
    await metadata().generations.replaceLog("d", good, SYNC);
    for (const [first, last] of [
      [2, 3],
      [4, 3],
    ] as const) {
      const overlapping = [...good, { first, last, written: [bitmapOf(3, 1)] }];
      await expect(metadata().generations.replaceLog("d", overlapping, SYNC)).rejects.toMatchObject({
        code: "METADATA_RECORD_INVALID",
      });
    }
    expect(await metadata().generations.readLog("d")).toEqual(good);
  });
}

function journalTests(metadata: () => Metadata): void {
  const description = { ...pick(domainRecord({ id: "d" })), vbds: [{ name: "root", sizeBytes: 4096 }] };
  const incoming = { migration: "m2", source: "host-a", domain: description, generation: 1 };
  const outgoing = { migration: "m1", destination: "host-b", generation: 1 };
  const counts = { pushed: 1, pulled: 2, superseded: 3, late: 4 };

  test.each<JournalEntry>([
    sourceEntry("m1"),
    sourceEntry("m1", "handed-over"),
    { role: "source", domain: "d", record: { phase: "completed", ...outgoing, counts } },
    { role: "source", domain: "d", record: { phase: "aborted", ...outgoing, reason: "cancelled" } },
    { role: "destination", domain: "d", record: { phase: "receiving", ...incoming } },
    { role: "destination", domain: "d", record: { phase: "prepared", ...incoming } },
    { role: "destination", domain: "d", record: { phase: "owner", ...incoming } },
    { role: "destination", domain: "d", record: { phase: "synchronised", ...incoming, counts } },
    { role: "destination", domain: "d", record: { phase: "aborted", migration: "m2", reason: "disk full" } },
  ])("the journal keeps the $role's record $record.phase", async (entry) => {
    await metadata().journal.put(entry);
    expect(await metadata().journal.get(entry.record.migration)).toEqual(entry);
    expect(await metadata().journal.list()).toEqual([entry]);
    await metadata().journal.remove(entry.record.migration);
    expect(await metadata().journal.list()).toEqual([]);
  });

  test("a commit writes everything it names", async () => {
    const commit = wholeCommit();
    await metadata().journal.put(sourceEntry("over"));
    await metadata().journal.commit({ ...commit, journalRemoved: "over" });
    expect(await metadata().journal.list()).toEqual([commit.journal]);
    expect(await metadata().domains.get("d")).toEqual(commit.domain);
    expect(await metadata().vbds.list("d")).toEqual(commit.vbds);
    expect(await metadata().replicas.list("d")).toEqual(commit.replicas);
    expect(await metadata().generations.readLog("d")).toEqual(commit.log.entries);
    expect(await metadata().placements.get("d")).toEqual(commit.placement);
    expect(await metadata().history.list("d")).toEqual([commit.history]);
  });

  test("a commit with one refused record writes none of them", async () => {
    await metadata().domains.put(domainRecord({ id: "d", generation: 9 }), SYNC);
    await expect(metadata().journal.commit(wholeCommit())).rejects.toMatchObject({
      code: "METADATA_GENERATION_LOWERED",
    });
    const badHistory = { ...wholeCommit(), domain: domainRecord({ id: "d", generation: 9 }) };
    badHistory.history.generation = -1;
    await expect(metadata().journal.commit(badHistory)).rejects.toMatchObject({
      code: "METADATA_RECORD_INVALID",
    });
    expect(await metadata().journal.list()).toEqual([]);
    expect(await metadata().vbds.list("d")).toEqual([]);
    expect(await metadata().replicas.list("d")).toEqual([]);
    expect(await metadata().generations.readLog("d")).toEqual([]);
    expect(await metadata().history.list("d")).toEqual([]);
  });
}

function pick({ id, name, hypervisor, memoryBytes, config }: DomainRecord) {
  return { id, name, hypervisor, memoryBytes, config };
}
