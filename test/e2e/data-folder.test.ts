/** `up` on a data folder that cannot be used: it says which, why and what to do, and touches nothing. */

import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { configFile } from "../../node/data-folder.ts";
import { hostPaths } from "../../node/domains/host-paths.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { runSojourn, spawnSojourn } from "../node/cli/run-sojourn.ts";
import { createDomain, expectUnharmed } from "./hosts.ts";

let cluster: Cluster;
let alpha: ClusterHost;
/** A copy of alpha's folder, made while its daemon was down. */
let copy: string;
let folder: string;

beforeAll(async () => {
  cluster = await Cluster.start({ names: ["alpha"] });
  alpha = cluster.host("alpha");
  await createDomain(alpha, "web");
  await alpha.stop();
  folder = await mkdtemp(join(tmpdir(), "sj-folder-"));
  await cp(alpha.dataDir, join(folder, "original"), {
    recursive: true,
    filter: (path) => !path.includes("/run"),
  });
  await alpha.start();
}, 120_000);
beforeEach(async () => {
  copy = join(folder, "copy");
  await cp(join(folder, "original"), copy, { recursive: true });
});
afterEach(() => rm(copy, { recursive: true, force: true }));
afterAll(async () => {
  await cluster?.stop();
  await rm(folder, { recursive: true, force: true });
});

async function up(dataDir: string): Promise<string> {
  const { code, stderr } = await runSojourn(["up", "--data-dir", dataDir]);
  expect(code, stderr).toBe(1);
  // The last words are for people, whatever was logged before.
  return stderr.slice(stderr.lastIndexOf("sojourn: "));
}

/** Ports and socket of its own: only what the test is about may be in the way. */
async function configure(changes: Record<string, unknown>): Promise<void> {
  const file = configFile(copy);
  const config = JSON.parse(await readFile(file, "utf8")) as object;
  const own = { control: { listen: "127.0.0.1:0" }, data: { listen: "127.0.0.1:0" } };
  await writeFile(file, JSON.stringify({ ...config, ...own, ...changes }));
}

test("a second daemon on one data folder", async () => {
  const said = await up(alpha.dataDir);
  expect(said).toContain("(DATA_FOLDER_LOCKED)");
  expect(said).toContain(hostPaths(alpha.dataDir).metadata);
  expect(said).toContain("stop that one");
  await expectUnharmed(alpha, "web");
});

test("a second daemon on one socket", async () => {
  await configure({ api: { socketPath: alpha.socketPath } });
  const said = await up(copy);
  expect(said).toContain("(CONTROL_SOCKET_IN_USE)");
  expect(said).toContain(alpha.socketPath);
  await expectUnharmed(alpha, "web");
});

test.each([
  ["log", /\.log$/],
  ["table of contents", /^MANIFEST/],
])(
  "a LevelDB whose %s was overwritten",
  async (_what, pattern) => {
    await configure({});
    const { metadata } = hostPaths(copy);
    const names = (await readdir(metadata)).filter((name) => pattern.test(name));
    expect(names.length).toBeGreaterThan(0);
    for (const name of names) {
      const bytes = await readFile(join(metadata, name));
      for (let at = 8; at < bytes.length; at += 64) bytes[at]! ^= 0xff;
      await writeFile(join(metadata, name), bytes);
    }
    // LevelDB drops what it cannot read and would open the next time as if nothing had been there.
    for (const _time of ["first", "second"]) {
      const said = await up(copy);
      expect(said).toContain("(DATA_FOLDER_CORRUPT)");
      expect(said).toContain(metadata);
      expect(said).toContain("sojourn repair");
    }
    const repaired = await runSojourn(["repair", "--data-dir", copy]);
    expect(repaired.code, repaired.stderr).toBe(0);
    expect(repaired.stdout).toContain("before-repair");
    const child = spawnSojourn(["up", "--data-dir", copy]);
    let log = "";
    for await (const chunk of child.stderr) {
      log += String(chunk);
      if (log.includes("daemon is up")) child.kill("SIGTERM");
    }
    expect(log).toContain("daemon is up");
    expect(log).not.toContain("CORRUPT");
  },
  180_000,
);
