/** A domain's life through the executable alone, and its daemon's ends and beginnings under it. */

import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type {
  DomainDetail,
  DomainRow,
  HistoryRow,
  HopReport,
  PlanRow,
  ReplicaRow,
  VerifyReport,
} from "../../node/control/api.ts";
import type { FaultPoint } from "../../node/fault-points.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { FaultLog } from "../../testnet/faults/stage.ts";
import { guestFigures, guestIsFilled } from "../../testnet/guest.ts";
import { processesOf } from "../../testnet/processes.ts";
import { until } from "../../testnet/waiting.ts";
import { spawnSojourn } from "../node/cli/run-sojourn.ts";
import { createDomain, expectUnharmed, FILL_BYTES, sha256, sojourn, sojournJson } from "./hosts.ts";

let cluster: Cluster;
let alpha: ClusterHost;
let beta: ClusterHost;

beforeAll(async () => {
  cluster = await Cluster.start({ names: ["alpha", "beta"] });
  alpha = cluster.host("alpha");
  beta = cluster.host("beta");
}, 120_000);
afterAll(() => cluster?.stop());

test("create, list, show, plan, migrate, replicas, history, verify, stop, start, destroy", async () => {
  const create = ["create", "web", "--memory", "8MiB", "--vbd", "root=32MiB", "--workload", "web"];
  const created = await sojournJson<{ domain: string }>(alpha, ...create, "--fill", "4MiB", "--seed", "7");
  await guestIsFilled(alpha, { domain: "web", onFigures: () => undefined });

  const [listed] = await sojournJson<DomainRow[]>(alpha, "list");
  expect(listed).toMatchObject({ id: created.domain, name: "web", state: "running", generation: 1 });
  expect(await sojournJson<DomainDetail>(alpha, "show", "web")).toMatchObject({
    hostName: "alpha",
    guest: { errors: 0, filled: true },
    advice: expect.stringContaining("here"),
  });
  const [plan] = await sojournJson<PlanRow[]>(alpha, "plan", "web");
  expect(plan).toMatchObject({
    hostName: "beta",
    reachable: true,
    vbds: [{ name: "root", rung: "allocated" }],
  });
  expect(plan!.bytes).toBeGreaterThanOrEqual(4 * 2 ** 20);

  const report = await sojournJson<HopReport>(alpha, "migrate", "web", "beta");
  expect(report).toMatchObject({ from: "alpha", to: "beta", generation: 2, rung: "allocated" });
  const [replica] = await sojournJson<ReplicaRow[]>(beta, "replicas", "web");
  expect(replica).toMatchObject({ hostName: "alpha", generation: 1, ownerGeneration: 2 });
  const [back] = await sojournJson<PlanRow[]>(beta, "plan", "web");
  expect(back!.vbds[0]!.rung).toBe("bitmaps");
  expect(back!.bytes).toBeLessThan(plan!.bytes);
  const history = await sojournJson<HistoryRow[]>(alpha, "history", "web");
  expect(history).toContainEqual(expect.objectContaining({ generation: 2, hostName: "beta" }));
  expect(await sojournJson<VerifyReport>(beta, "verify", "web")).toMatchObject({ ok: true, errors: 0 });

  const before = await guestFigures(beta, "web");
  expect(await sojournJson(beta, "stop", "web")).toMatchObject({ state: "shutoff" });
  expect((await sojournJson<DomainRow[]>(beta, "list"))[0]).toMatchObject({ state: "shutoff" });
  expect(processesOf(beta.runDir).filter((pid) => !beta.pids().includes(pid))).toEqual([]);
  expect(await sojournJson(beta, "start", "web")).toMatchObject({ state: "running" });
  expect((await guestFigures(beta, "web")).uptimeMs).toBeLessThan(before.uptimeMs);
  expect(await sojournJson(beta, "destroy", "web")).toMatchObject({ state: "shutoff" });
  expect((await sojourn(beta, "verify", "web")).code).toBe(1);
});

describe("cancel", () => {
  const cases: [FaultPoint, string][] = [
    ["source-precopy", "pre-copy"],
    ["source-memory-copy", "memory-copy"],
  ];
  test.each(cases)(
    "at %s leaves the domain running, and the next migration uses what was sent",
    async (point, phase) => {
      const name = `c-${phase}`;
      // One that writes little: what is sent again is then what was not sent, or not kept.
      await createDomain(alpha, name, { workload: "idle" });
      const log = new FaultLog(alpha);
      await alpha.call("arm-fault", {
        point,
        action: point === "source-precopy" ? "stall:4000:4" : "stall:4000",
      });
      const attempt = sojourn(alpha, "migrate", name, "beta", "--json");
      await log.fired(point);
      await sojournJson(alpha, "cancel", name);
      const { code, stderr } = await attempt;
      expect({ code, error: JSON.parse(stderr).error.code }).toEqual({
        code: 1,
        error: "MIGRATION_CANCELLED",
      });
      await expectUnharmed(alpha, name);
      const row = await until("the destination has heard of it", async () => {
        const [plan] = await alpha.call("plan", { domain: name });
        return plan?.vbds[0]?.rung === "hashes" ? plan : undefined;
      });
      expect(row.vbds[0]!.reason).toContain("cut short");
      const report = await sojournJson<HopReport>(alpha, "migrate", name, "beta");
      expect(report.rung).toBe("hashes");
      expect(report.diskBytesSent).toBeLessThan(phase === "pre-copy" ? (FILL_BYTES * 3) / 4 : 2 ** 20);
      await expectUnharmed(beta, name);
      await beta.call("destroy", { domain: name });
    },
  );
});

describe("a daemon ends and begins again under a running domain", () => {
  beforeAll(async () => {
    await createDomain(alpha, "web2");
  });
  afterAll(() => alpha.call("destroy", { domain: "web2" }));

  test.each(["SIGTERM", "SIGKILL"] as const)(
    "after %s: the guest goes on and saw no error",
    async (signal) => {
      const guests = (): number[] => processesOf(alpha.runDir).filter((pid) => !alpha.pids().includes(pid));
      const pids = guests();
      expect(pids).toHaveLength(1);
      const before = await guestFigures(alpha, "web2");
      if (signal === "SIGTERM") await alpha.stop();
      else await alpha.kill9();
      expect(alpha.isUp).toBe(false);
      expect(guests()).toEqual(pids);
      await alpha.start();
      await until("the guest writes again", async () => {
        const { writes } = await guestFigures(alpha, "web2");
        return writes > before.writes + 10 ? true : undefined;
      });
      await expectUnharmed(alpha, "web2");
      expect(await guestFigures(alpha, "web2")).toMatchObject({ errors: 0 });
    },
  );
});

describe("nbd-serve", () => {
  test("a file is served until the signal, and nbdcopy reads what it holds", async ({ skip }) => {
    const hasNbdcopy = await promisify(execFile)("nbdcopy", ["--version"]).catch(() => undefined);
    if (hasNbdcopy === undefined) return skip("there is no nbdcopy here");
    const folder = await mkdtemp(join(tmpdir(), "sj-serve-"));
    const [file, socket, copy] = ["disk.img", "disk.sock", "copy.img"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const bytes = Buffer.alloc(3 * 2 ** 20);
    for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE((at * 2654435761) >>> 0, at);
    await writeFile(file, bytes);
    const child = spawnSojourn(["nbd-serve", file, "--unix", socket, "--read-only"]);
    try {
      const [line] = (await once(child.stdout, "data")) as [Buffer];
      const uri = /nbd\+unix:\S+/.exec(String(line))![0];
      await promisify(execFile)("nbdcopy", [uri, copy]);
      expect(sha256(copy)).toBe(sha256(file));
      const { stdout } = await promisify(execFile)("nbdinfo", ["--size", uri]);
      expect(Number(stdout)).toBe((await stat(file)).size);
      const exited = once(child, "exit");
      child.kill("SIGTERM");
      expect(await exited).toEqual([0, null]);
    } finally {
      child.kill("SIGKILL");
      await rm(folder, { recursive: true, force: true });
    }
  });
});
