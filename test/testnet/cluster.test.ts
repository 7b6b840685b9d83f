import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Cluster } from "../../testnet/cluster.ts";
import { guestIsFilled } from "../../testnet/guest.ts";
import { isRunning, processesOf } from "../../testnet/processes.ts";

const MIGRATABLE = {
  name: "web",
  hypervisor: "wasm",
  memoryBytes: 16 * 2 ** 20,
  vbds: [{ name: "root", sizeBytes: 64 * 2 ** 20 }],
  config: JSON.stringify({ workload: "web", fillBytes: 4 * 2 ** 20 }),
};

describe("a cluster", () => {
  let cluster: Cluster;
  beforeAll(async () => {
    cluster = await Cluster.start({ names: ["A", "B"], links: "all" });
  }, 120_000);
  afterAll(() => cluster?.stop());

  it("has daemons of two processes that know each other by name", async () => {
    for (const host of cluster.hosts) {
      expect(host.pids()).toHaveLength(2);
      const names = (await host.call("hosts", {})).map(({ hostName }) => hostName);
      expect(names.toSorted()).toEqual(["A", "B"]);
    }
  });

  it("kills both processes of a daemon, not its guest, and starts it again", async () => {
    const host = cluster.host("A");
    await host.call("create", MIGRATABLE);
    await guestIsFilled(host, { domain: "web", onFigures: () => undefined });
    const guests = processesOf(host.runDir);
    expect(guests).toHaveLength(1);
    const pids = host.pids();
    await host.kill9();
    expect(pids.filter(isRunning)).toEqual([]);
    expect(host.isUp).toBe(false);
    expect(processesOf(host.runDir)).toEqual(guests);
    await host.start();
    expect((await host.call("show", { domain: "web" })).state).toBe("running");
  });

  it("carries a migration through its links, and counts it there", async () => {
    const report = await cluster.host("A").call("migrate", { domain: "web", to: "B" });
    expect(report.to).toBe("B");
    const [forth] = cluster.links.filter(({ host }) => host === "B");
    expect(forth!.data.bytes().sent).toBeGreaterThanOrEqual(report.diskBytesSent + report.memoryBytesSent);
    await expect(cluster.host("B").call("verify", { domain: "web" })).resolves.toMatchObject({ ok: true });
  });

  it("leaves no process and no folder when it stops", async () => {
    const { folder } = cluster;
    expect(processesOf(folder).length).toBeGreaterThan(2);
    await cluster.stop();
    expect(processesOf(folder)).toEqual([]);
    expect(existsSync(folder)).toBe(false);
  });
});

it("a cluster whose program is interrupted leaves no process and no folder", async () => {
  const program = `
    const { Cluster } = await import(${JSON.stringify(join(import.meta.dirname, "../../testnet/cluster.ts"))});
    const cluster = await Cluster.start({ names: ["A"] });
    await cluster.host("A").call("create", ${JSON.stringify(MIGRATABLE)});
    console.log(cluster.folder);
    setInterval(() => {}, 1000);`;
  const child: ChildProcess = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "exit") as Promise<[number | null]>;
  const complaints = text(child.stderr!);
  const [line] = (await Promise.race([once(child.stdout!, "data"), exited])) as [Buffer | number | null];
  expect(line, await Promise.race([complaints, ""])).toBeInstanceOf(Buffer);
  const folder = String(line).trim();
  expect(processesOf(folder)).toHaveLength(2);
  child.kill("SIGINT");
  const [code] = await exited;
  expect(code).toBe(130);
  expect(processesOf(folder)).toEqual([]);
  expect(existsSync(folder)).toBe(false);
}, 120_000);
