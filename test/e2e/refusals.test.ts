/** What a host refuses: with a code, a sentence and an exit code, and with nothing changed. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, statfsSync, statSync, truncateSync, utimesSync, writeSync } from "node:fs";
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { ApiErrorBody } from "../../node/control/api.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { FaultLog } from "../../testnet/faults/stage.ts";
import { until } from "../../testnet/waiting.ts";
import { mayMount } from "../privileges.ts";
import {
  createDomain,
  expectUnharmed,
  FILL_BYTES,
  refusal,
  sha256,
  sojourn,
  VBD_BYTES,
  vbdPath,
} from "./hosts.ts";

let cluster: Cluster;
let alpha: ClusterHost;
let beta: ClusterHost;

beforeAll(async () => {
  cluster = await Cluster.start({ names: ["alpha", "beta"], links: "data" });
  alpha = cluster.host("alpha");
  beta = cluster.host("beta");
}, 120_000);
afterAll(() => cluster?.stop());

/** A destination says no to what the CLI asks for; the source says which code it gave. */
async function refusedBy(cause: string, args: readonly string[]): Promise<ApiErrorBody> {
  const error = await refusal(alpha, args, "MIGRATION_REFUSED");
  expect(error.detail?.cause, error.message).toBe(cause);
  expect(error.message).toContain(cause);
  return error;
}

describe("what was asked for is wrong", () => {
  beforeAll(async () => {
    await createDomain(alpha, "web");
  });
  afterAll(() => alpha.call("destroy", { domain: "web" }));

  test.each([
    ["a domain that nobody knows", ["migrate", "nobody", "beta"], "DOMAIN_UNKNOWN", "nobody"],
    ["a host that nobody knows", ["migrate", "web", "nowhere"], "HOST_UNKNOWN", "nowhere"],
    ["the host where the domain is", ["migrate", "web", "alpha"], "MIGRATION_TO_SELF", "alpha"],
    [
      "a name that is taken",
      ["create", "web", "--memory", "8MiB", "--vbd", "root=1MiB"],
      "DOMAIN_EXISTS",
      "web",
    ],
    ["a cancellation of nothing", ["cancel", "web"], "MIGRATION_UNKNOWN", "web"],
  ])("%s", async (_what, args, code, named) => {
    const error = await refusal(alpha, args, code);
    expect(error.message).toContain(named);
    await expectUnharmed(alpha, "web");
  });

  test("is told to people in a sentence, with its code and what to do", async () => {
    const { code, stdout, stderr } = await sojourn(alpha, "migrate", "web", "nowhere");
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^sojourn: no host is called "nowhere" \(HOST_UNKNOWN\)\n {2}remedy: .+\n$/);
  });

  test("a host that has only heard of the domain says where it is", async () => {
    const error = await refusal(beta, ["migrate", "web", "alpha"], "DOMAIN_ELSEWHERE");
    expect(error.message).toContain("alpha");
  });

  test("a second migration of the domain, while the first goes on", async () => {
    await cluster.breakLink("alpha", "beta", "cut");
    const first = alpha.call("migrate", { domain: "web", to: "beta" });
    const ended = first.then(() => "ended").catch(() => "failed");
    await until("a migration", async () => (await alpha.call("show", { domain: "web" })).migration);
    await refusal(alpha, ["migrate", "web", "beta"], "MIGRATION_BUSY");
    await refusal(alpha, ["stop", "web"], "MIGRATION_BUSY");
    await cluster.breakLink("alpha", "beta", "heal");
    expect(await ended).toBe("ended");
    await expectUnharmed(beta, "web");
    await beta.call("migrate", { domain: "web", to: "alpha" });
  });
});

describe("the destination's copy is not what it was", () => {
  let replica: string;
  beforeAll(async () => {
    await createDomain(alpha, "old");
    await alpha.call("migrate", { domain: "old", to: "beta" });
    await beta.call("migrate", { domain: "old", to: "alpha" });
    replica = await vbdPath(beta, "old");
  }, 120_000);
  afterAll(() => alpha.call("destroy", { domain: "old" }));

  test.each([
    ["larger", 4096],
    ["smaller", -4096],
  ])("a vbd that is %s is refused and left alone", async (_what, difference) => {
    truncateSync(replica, VBD_BYTES + difference);
    const before = sha256(replica);
    const error = await refusedBy("VBD_SIZE_MISMATCH", ["migrate", "old", "beta"]);
    expect(error.message).toContain(String(VBD_BYTES + difference));
    expect(sha256(replica)).toBe(before);
    expect(statSync(replica).size).toBe(VBD_BYTES + difference);
    await expectUnharmed(alpha, "old");
  });

  test("a vbd that another process writes to is refused, and its holder named", async () => {
    truncateSync(replica, VBD_BYTES);
    const holder = spawn("sh", ["-c", `exec 3<>'${replica}'; echo held; read -r _`], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    await once(holder.stdout, "data");
    try {
      const before = sha256(replica);
      const error = await refusedBy("VBD_BUSY", ["migrate", "old", "beta"]);
      expect(error.message).toContain(String(holder.pid));
      expect(sha256(replica)).toBe(before);
      await expectUnharmed(alpha, "old");
    } finally {
      await ended(holder);
    }
  });

  test("one that someone else wrote to, the times set back, is compared by hashes and put right", async () => {
    // In order again, so that this is the only thing wrong with it.
    await alpha.call("migrate", { domain: "old", to: "beta" });
    await beta.call("migrate", { domain: "old", to: "alpha" });
    const { atime, mtime } = statSync(replica);
    const file = await open(replica, "r+");
    await file.write(Buffer.alloc(4096, 0xaa), 0, 4096, FILL_BYTES / 2);
    await file.close();
    utimesSync(replica, atime, mtime);
    expect(statSync(replica).size).toBe(VBD_BYTES);
    const report = await alpha.call("migrate", { domain: "old", to: "beta" });
    expect(report).toMatchObject({
      rung: "hashes",
      reason: expect.stringContaining("modified by someone else"),
    });
    await expectUnharmed(beta, "old");
    const back = await beta.call("migrate", { domain: "old", to: "alpha" });
    expect(back.rung).toBe("bitmaps");
    await expectUnharmed(alpha, "old");
  });
});

const canMount = mayMount();

describe.skipIf(!canMount)("the destination is full", () => {
  const SIZE_BYTES = 24 * 2 ** 20;
  const ballast = (): string => join(beta.dataDir, "ballast");
  let mounted = false;

  beforeAll(async () => {
    await createDomain(alpha, "big", { workload: "idle" });
    await beta.stop();
    const aside = `${beta.dataDir}.aside`;
    execFileSync("cp", ["-a", beta.dataDir, aside]);
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${SIZE_BYTES},mode=0700`, "tmpfs", beta.dataDir]);
    mounted = true;
    // What other tests left there would not fit.
    execFileSync("sh", ["-c", `cp -a '${aside}'/*.json '${aside}'/*.key '${beta.dataDir}'`]);
    await beta.start();
  }, 120_000);
  afterEach(() => rm(ballast(), { force: true }));
  afterAll(async () => {
    if (!mounted) return;
    await alpha.call("destroy", { domain: "big" }).catch(() => undefined);
    await beta.stop();
    execFileSync("umount", ["-l", beta.dataDir]);
    await beta.start();
  });

  /** Leaves so much room on the destination, whoever else takes some meanwhile. */
  function leave(bytes: number): void {
    const fd = openSync(ballast(), "w");
    const chunk = Buffer.alloc(64 * 1024);
    try {
      for (;;) {
        writeSync(fd, chunk);
        const { bavail, bsize } = statfsSync(beta.dataDir);
        if (bavail * bsize <= bytes) return;
      }
    } catch (error) {
      expect(error).toMatchObject({ code: "ENOSPC" });
    } finally {
      closeSync(fd);
    }
  }

  test("when it is asked: refused, with what it needs and what it has", async () => {
    leave(FILL_BYTES / 2);
    const error = await refusedBy("DESTINATION_FULL", ["migrate", "big", "beta"]);
    expect(error.message).toMatch(/needs \d+ bytes and has \d+ free/);
    const [row] = await alpha.call("plan", { domain: "big" });
    expect(row).toMatchObject({ hostName: "beta", reachable: true, vbds: [] });
    expect(row!.refusal).toMatch(/needs \d+ bytes and has \d+ free/);
    await expectUnharmed(alpha, "big");
  });

  test("in the middle of pre-copy: ended, the domain runs on at the source, and what was sent is used later", async () => {
    const log = new FaultLog(alpha);
    // Once the first blocks are there.
    await alpha.call("arm-fault", { point: "source-precopy", action: "stall:2000:4" });
    const attempt = alpha.call("migrate", { domain: "big", to: "beta" }).then(
      () => undefined,
      (error: ApiErrorBody) => error,
    );
    await log.fired("source-precopy");
    leave(512 * 1024);
    const error = await attempt;
    expect(error).toMatchObject({ code: "MIGRATION_FAILED", exitCode: 1 });
    expect(error!.message).toMatch(/ENOSPC|space/i);
    await expectUnharmed(alpha, "big");
    await rm(ballast());
    const report = await alpha.call("migrate", { domain: "big", to: "beta" });
    expect(report.rung).toBe("hashes");
    expect(report.diskBytesSent).toBeLessThan(FILL_BYTES);
    await expectUnharmed(beta, "big");
    await beta.call("migrate", { domain: "big", to: "alpha" });
  });
});

async function ended(child: ChildProcess): Promise<void> {
  const exit = once(child, "exit");
  child.kill("SIGKILL");
  await exit;
}
