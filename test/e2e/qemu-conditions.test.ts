/** What may befall a domain of QEMU in mid-migration: its QEMU is killed at every step, a disk is full or was resized. */

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm, statfs, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { FaultPoint } from "../../node/fault-points.ts";
import type { ClusterHost } from "../../testnet/cluster.ts";
import { FaultLog } from "../../testnet/faults/stage.ts";
import { isRunning } from "../../testnet/processes.ts";
import { until } from "../../testnet/waiting.ts";
import { mayMount } from "../privileges.ts";
import { CAN_RUN_QEMU, SectorStage, VBD_BYTES } from "./sector-stage.ts";

/** Where the domain is then, and whether it runs there or has crashed: its memory was in the QEMU that died. */
type End = { at: "alpha" | "beta"; state: "running" | "crashed" };

/** QEMU killed at the host whose step it is. One that is received again was whole at the source still. */
const KILLS: Partial<Record<FaultPoint, End>> = {
  "source-precopy": { at: "alpha", state: "crashed" },
  "source-memory-copy": { at: "alpha", state: "crashed" },
  "source-freezing": { at: "alpha", state: "crashed" },
  "source-frozen": { at: "beta", state: "running" },
  "source-before-handover-persist": { at: "beta", state: "running" },
  "source-after-handover-persist": { at: "beta", state: "running" },
  "source-handover-sent": { at: "beta", state: "running" },
  "destination-before-prepared-persist": { at: "beta", state: "running" },
  "destination-after-prepared-persist": { at: "beta", state: "running" },
  "destination-handover-received": { at: "beta", state: "crashed" },
  "destination-owner-persisted": { at: "beta", state: "crashed" },
  "destination-resumed": { at: "beta", state: "crashed" },
};

const STALL_MS = 60_000;
const CAN_MOUNT = mayMount();

function run(command: string, ...args: string[]): void {
  execFileSync(command, args, { stdio: "pipe" });
}

describe.skipIf(!CAN_RUN_QEMU)("a domain of QEMU", () => {
  const stage = SectorStage.use();

  /** A migration to beta that stands still at `point`. */
  async function standingAt(
    point: FaultPoint,
  ): Promise<{ asked: Promise<unknown>; goOn(): Promise<unknown> }> {
    const host = point.startsWith("source") ? stage.alpha : stage.beta;
    const faults = new FaultLog(host);
    await host.call("arm-fault", { point, action: `stall:${STALL_MS}` });
    const asked = stage.alpha.call("migrate", { domain: stage.name, to: "beta" }).catch((error) => error);
    await faults.fired(point);
    return { asked, goOn: () => host.call("arm-fault", { point, action: "release" }) };
  }

  async function killGuest(host: ClusterHost): Promise<void> {
    const pid = stage.guestOn(host)!;
    process.kill(pid, "SIGKILL");
    await until("its QEMU is gone", () => (isRunning(pid) ? undefined : true));
  }

  for (const [point, end] of Object.entries(KILLS) as [FaultPoint, End][]) {
    const side = point.startsWith("source") ? "source" : "destination";
    test(`whose QEMU is killed at ${point} is ${end.state} at ${end.at}, and nowhere else`, async () => {
      const { asked, goOn } = await standingAt(point);
      await killGuest(side === "source" ? stage.alpha : stage.beta);
      await goOn();
      await asked;
      const host = end.at === "alpha" ? stage.alpha : stage.beta;
      const other = end.at === "alpha" ? stage.beta : stage.alpha;
      await stage.comesTo(host, end.state);
      await until("the other host has let go of it", () =>
        stage.guestOn(other) === undefined ? true : undefined,
      );
      if (end.state === "crashed") await host.call("start", { domain: stage.name });
      await stage.works(host);
      await settled(host);
      await host.call("migrate", { domain: stage.name, to: other.name });
      await stage.works(other);
    });
  }

  /** No migration of the domain is under way. */
  async function settled(host: ClusterHost): Promise<void> {
    await until("the migration has ended", async () => {
      const rows = await host.call("list", {});
      return rows.find(({ id }) => id === stage.id)?.migration === undefined ? true : undefined;
    });
  }

  describe.skipIf(!CAN_MOUNT)("and a destination with little room", () => {
    const ROOM_BYTES = 16 << 20;
    let folder: string;

    beforeEach(async () => {
      folder = join(stage.beta.dataDir, "vbds");
      await mkdir(folder, { recursive: true });
      run("mount", "-t", "tmpfs", "-o", `size=${ROOM_BYTES}`, "tmpfs", folder);
    });

    // Before the stage clears up: it removes folders.
    afterEach(async () => {
      await stage.beta.call("destroy", { domain: stage.name }).catch(() => undefined);
      run("umount", "-l", folder);
    });

    /** Takes all but `leftBytes` of the room. */
    async function fill(leftBytes: number): Promise<string> {
      const ballast = join(folder, "ballast");
      const { bavail, bsize } = await statfs(folder);
      await writeFile(ballast, Buffer.alloc(bavail * bsize - leftBytes));
      return ballast;
    }

    test("is refused before anything is sent", async () => {
      await fill(64 << 10);
      const asked = stage.alpha.call("migrate", { domain: stage.name, to: "beta" });
      await expect(asked).rejects.toMatchObject({
        code: "MIGRATION_REFUSED",
        message: expect.stringMatching(/beta needs \d+ bytes and has \d+ free/),
      });
      await stage.works(stage.alpha);
    });

    test("runs on at the source when the room ends on the way, and moves once there is some", async () => {
      const { asked, goOn } = await standingAt("source-precopy");
      const ballast = await fill(0);
      await goOn();
      expect(await asked).toMatchObject({
        code: "MIGRATION_FAILED",
        message: expect.stringMatching(/DESTINATION_FULL.*no space is left/),
      });
      await stage.comesTo(stage.alpha, "running");
      await stage.works(stage.alpha);
      await rm(ballast);
      await stage.alpha.call("migrate", { domain: stage.name, to: "beta" });
      await stage.works(stage.beta);
    });
  });

  test("whose vbd was resized behind our back does not start, and is told which", async () => {
    await stage.alpha.call("destroy", { domain: stage.name });
    await truncate(stage.vbdFile(stage.alpha), 2 * VBD_BYTES);
    await expect(stage.alpha.call("start", { domain: stage.name })).rejects.toMatchObject({
      code: "VBD_RESIZED",
      message: expect.stringContaining("root"),
    });
    await truncate(stage.vbdFile(stage.alpha), VBD_BYTES);
    await stage.alpha.call("start", { domain: stage.name });
    await stage.works(stage.alpha);
  });

  test("whose vbd is open elsewhere does not start, and is told by whom", async () => {
    await stage.alpha.call("destroy", { domain: stage.name });
    const path = stage.vbdFile(stage.alpha);
    const holder = spawn("qemu-io", ["-f", "raw", path], { stdio: ["pipe", "pipe", "ignore"] });
    await once(holder.stdout, "data");
    try {
      const attempt = stage.alpha.call("start", { domain: stage.name });
      await expect(attempt).rejects.toThrow(/root\.raw is in use by process \d+ \(qemu-io/);
      expect(stage.guestOn(stage.alpha)).toBeUndefined();
    } finally {
      holder.kill("SIGKILL");
      await once(holder, "exit");
    }
    await stage.alpha.call("start", { domain: stage.name });
    await stage.works(stage.alpha);
  });
});
