/** How a domain of QEMU reaches its vbds under whole daemons, and what is known of its writes when something dies. */

import { readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import type { HopReport } from "../../node/control/api.ts";
import type { ClusterHost } from "../../testnet/cluster.ts";
import { until } from "../../testnet/waiting.ts";
import { CAN_RUN_QEMU, SectorStage } from "./sector-stage.ts";

describe.skipIf(!CAN_RUN_QEMU)("a domain of QEMU", () => {
  const stage = SectorStage.use();
  let alpha: ClusterHost;
  let beta: ClusterHost;
  let name: string;

  beforeEach(async () => {
    ({ alpha, beta, name } = stage);
    await worksNatively(alpha);
  });

  /** QEMU has the vbd's file open, and the guest goes through rounds over its disk and finds no fault. */
  async function worksNatively(host: ClusterHost): Promise<void> {
    await until(`the vbd is native on ${host.name}`, async () => {
      const { vbdFiles } = await host.call("show", { domain: name });
      return vbdFiles?.[0]?.attachment === "qmp, native" ? true : undefined;
    });
    expect(await filesOf(stage.guestOn(host)!)).toContain(stage.vbdFile(host));
    await stage.works(host);
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
    process.kill(stage.guestOn(beta)!, "SIGKILL");
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
