import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { LevelMetadata } from "../../storage/metadata.ts";

/**
 * `kill -9` shows that an acknowledged write has left our process and that LevelDB's recovery finds it again;
 * that `sync` reaches the disk is shown by the count of syncs below.
 */
let folder: string;
let child: ChildProcess | undefined;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "sojourn-crash-"));
});
afterEach(async () => {
  child?.kill("SIGKILL");
  await rm(folder, { recursive: true, force: true });
});

const CHILD = join(import.meta.dirname, "metadata-crash.child.ts");

/** Kills the writer once it has acknowledged `count` rounds; returns the last one that it acknowledged. */
async function killWriterAfter(count: number, mode: "puts" | "commits"): Promise<number> {
  const writer = spawn(process.execPath, [CHILD, folder, mode], { stdio: ["ignore", "pipe", "inherit"] });
  child = writer;
  const exited = once(writer, "exit");
  let last = 0;
  for await (const line of createInterface({ input: writer.stdout })) {
    last = Number(line);
    if (last === count) writer.kill("SIGKILL");
  }
  const [, signal] = await exited;
  expect(signal).toBe("SIGKILL");
  expect(last).toBeGreaterThanOrEqual(count);
  return last;
}

test("every acknowledged put is there after kill -9, round after round", async () => {
  for (const count of [1, 30, 111]) {
    await rm(folder, { recursive: true, force: true });
    const last = await killWriterAfter(count, "puts");
    const metadata = await LevelMetadata.open({ folder });
    const kept = new Set((await metadata.journal.list()).map(({ record }) => record.migration));
    for (let n = 1; n <= last; n++) {
      for (const lane of [0, 1, 2]) expect(kept).toContain(`${lane}-${n}`);
    }
    expect(kept.size).toBeLessThanOrEqual((last + 1) * 3);
    expect(await metadata.verify()).toEqual([]);
    await metadata.close();
  }
});

test("kill -9 never separates journal, domain, log and replicas of one commit", async () => {
  let reached = 0;
  for (let round = 0; round < 4; round++) {
    await rm(folder, { recursive: true, force: true });
    const last = await killWriterAfter(5 + round * 4, "commits");
    const metadata = await LevelMetadata.open({ folder });
    const [domain, journal] = [await metadata.domains.get("d"), await metadata.journal.get("m")];
    const [log, replica] = [
      await metadata.generations.readLog("d"),
      await metadata.replicas.get("d", "host-a"),
    ];
    const n = domain!.generation;
    expect(n).toBeGreaterThanOrEqual(last);
    expect(journal!.record.phase).toBe(n % 2 === 0 ? "begun" : "handed-over");
    expect(replica!.generation).toBe(n);
    expect(log.map(({ last: end }) => end)).toEqual([n]);
    expect(log[0]!.written[0]!.every((byte) => byte === n % 256)).toBe(true);
    await metadata.close();
    reached += n;
  }
  expect(reached).toBeGreaterThanOrEqual(5 + 9 + 13 + 17);
});

/** Calls of the system that push bytes to the disk, made by a child that writes 25 records. */
async function syncsOf(mode: "synced" | "unsynced"): Promise<number> {
  const trace = join(folder, `${mode}.trace`);
  const strace = ["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", trace, process.execPath, CHILD];
  await promisify(execFile)("strace", [...strace, join(folder, mode), mode]);
  return (await readFile(trace, "utf8")).matchAll(/\b(fsync|fdatasync)\(/g).toArray().length;
}

const straceWorks = spawnSync("strace", ["-qq", "-o", "/dev/null", "true"]).status === 0;

test.skipIf(!straceWorks)(
  "a put with sync reaches the disk before it completes, one without does not wait",
  async () => {
    const [synced, unsynced] = [await syncsOf("synced"), await syncsOf("unsynced")];
    expect(synced - unsynced).toBe(25);
    expect(unsynced).toBeLessThan(15);
  },
);
