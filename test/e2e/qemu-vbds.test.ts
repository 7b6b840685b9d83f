/** How a domain of QEMU reaches its vbds under whole daemons, and what is known of its writes when something dies. */

import { readdir, readlink, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { HopReport } from "../../node/control/api.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { processesOf } from "../../testnet/processes.ts";
import { until } from "../../testnet/waiting.ts";
import {
  bootSector,
  HAS_ASSEMBLER,
  QEMU_EXECUTABLE,
  SECTOR_GUEST_MEMORY_BYTES,
  saidBy,
} from "../node/hypervisor/qemu/sector-guest.ts";

const canRun = QEMU_EXECUTABLE !== undefined && HAS_ASSEMBLER;
const VBD_BYTES = 4 << 20;

describe.skipIf(!canRun)("a domain of QEMU", () => {
  const image = join(tmpdir(), `sojourn-vbds-${process.pid}.img`);
  let cluster: Cluster;
  let alpha: ClusterHost;
  let beta: ClusterHost;
  let name: string;
  let id: string;
  let count = 0;

  beforeAll(async () => {
    const bytes = Buffer.alloc(VBD_BYTES);
    (await bootSector()).copy(bytes);
    await writeFile(image, bytes);
    cluster = await Cluster.start({
      names: ["alpha", "beta"],
      config: { qemu: { executable: QEMU_EXECUTABLE, acceleration: "tcg" } },
    });
    alpha = cluster.host("alpha");
    beta = cluster.host("beta");
  }, 180_000);

  afterAll(async () => {
    await cluster?.stop();
    await rm(image, { force: true });
  });

  beforeEach(async () => {
    name = `guest-${++count}`;
    const { domain } = await alpha.call("create", {
      name,
      hypervisor: "qemu",
      memoryBytes: SECTOR_GUEST_MEMORY_BYTES,
      vbds: [{ name: "root", image }],
      config: "{}",
    });
    id = domain;
    await worksNatively(alpha);
  });

  afterEach(async () => {
    await Promise.all(cluster.hosts.map((host) => host.start()));
    for (const host of cluster.hosts) await host.call("destroy", { domain: name }).catch(() => undefined);
  });

  /** QEMU has the vbd's file open, and the guest goes through rounds over its disk and finds no fault. */
  async function worksNatively(host: ClusterHost): Promise<void> {
    await until(`the vbd is native on ${host.name}`, async () => {
      const { vbdFiles } = await host.call("show", { domain: name });
      return vbdFiles?.[0]?.attachment === "qmp, native" ? true : undefined;
    });
    expect(await filesOf(await guestOf(host))).toContain(join(host.dataDir, "vbds", id, "root.raw"));
    const log = join(host.runDir, id, "console.log");
    const before = await saidBy(log);
    await until(`the guest works on ${host.name}`, async () => {
      return (await saidBy(log)).rounds >= before.rounds + 2 ? true : undefined;
    });
    expect((await saidBy(log)).faults).toBe(0);
  }

  async function guestOf(host: ClusterHost): Promise<number> {
    return processesOf(join(host.runDir, id))[0]!;
  }

  async function filesOf(pid: number): Promise<string[]> {
    const folder = `/proc/${pid}/fd`;
    return Promise.all((await readdir(folder)).map((fd) => readlink(join(folder, fd)).catch(() => "")));
  }

  async function migrate(from: ClusterHost, to: string): Promise<HopReport> {
    return from.call("migrate", { domain: name, to });
  }

  test("has its vbd itself before and after every migration, and comes back by its bitmaps", async () => {
    await migrate(alpha, "beta");
    await worksNatively(beta);
    expect(await migrate(beta, "alpha")).toMatchObject({ rung: "bitmaps" });
    await worksNatively(alpha);
  }, 120_000);

  test("is known by its bitmaps over a kill of the daemon, which its guest does not notice", async () => {
    await migrate(alpha, "beta");
    await worksNatively(beta);
    await beta.kill9();
    await beta.start();
    await worksNatively(beta);
    expect(await migrate(beta, "alpha")).toMatchObject({ rung: "bitmaps" });
    await worksNatively(alpha);
  }, 120_000);

  test("is compared by digests after its QEMU was killed outside of a window, and the reason says so", async () => {
    await migrate(alpha, "beta");
    await worksNatively(beta);
    process.kill(await guestOf(beta), "SIGKILL");
    await until("the crash is seen", async () => {
      return (await beta.call("show", { domain: name })).state === "crashed" ? true : undefined;
    });
    await beta.call("start", { domain: name });
    await worksNatively(beta);
    expect(await migrate(beta, "alpha")).toMatchObject({
      rung: "hashes",
      reason: expect.stringContaining("knew of the last writes"),
    });
    await worksNatively(alpha);
  }, 120_000);

  test("keeps what is known of its writes when it is ended in order, or at once", async () => {
    await migrate(alpha, "beta");
    await worksNatively(beta);
    await beta.call("stop", { domain: name });
    await beta.call("start", { domain: name });
    await worksNatively(beta);
    await beta.call("destroy", { domain: name });
    await beta.call("start", { domain: name });
    await worksNatively(beta);
    expect(await migrate(beta, "alpha")).toMatchObject({ rung: "bitmaps" });
    await worksNatively(alpha);
  }, 120_000);
});
