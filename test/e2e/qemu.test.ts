/** Domains of QEMU under whole daemons, and what becomes of them when something dies on the way. */

import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { HopReport } from "../../node/control/api.ts";
import type { ClusterHost } from "../../testnet/cluster.ts";
import { FaultLog } from "../../testnet/faults/stage.ts";
import { until } from "../../testnet/waiting.ts";
import { tellToReset } from "../node/hypervisor/qemu/sector-guest.ts";
import { CAN_RUN_QEMU, SectorStage } from "./sector-stage.ts";

const HOOKS = ["pre-migrate", "pre-freeze", "post-resume", "post-migrate", "failed"];

describe.skipIf(!CAN_RUN_QEMU)("a domain of QEMU", () => {
  const stage = SectorStage.use();
  const works = (host: ClusterHost): Promise<void> => stage.works(host);
  const stateOn = (host: ClusterHost): Promise<string> => stage.stateOn(host);
  const guestOf = (host: ClusterHost): number | undefined => stage.guestOn(host);
  let alpha: ClusterHost;
  let beta: ClusterHost;
  let name: string;
  let id: string;

  beforeEach(() => {
    ({ alpha, beta, name, id } = stage);
  });

  test("goes to another host with its disk, and comes back with what it wrote there", async () => {
    const there: HopReport = await alpha.call("migrate", { domain: name, to: "beta" });
    expect(there).toMatchObject({ rung: "allocated", generation: 2 });
    await works(beta);
    expect(guestOf(alpha)).toBeUndefined();
    const back: HopReport = await beta.call("migrate", { domain: name, to: "alpha" });
    expect(back).toMatchObject({ rung: "bitmaps", generation: 3 });
    await works(alpha);
    expect(await stateOn(alpha)).toBe("running");
  });

  test("is shut down in order and started again", async () => {
    expect(await alpha.call("stop", { domain: name })).toMatchObject({ state: "shutoff" });
    expect(guestOf(alpha)).toBeUndefined();
    await alpha.call("start", { domain: name });
    await works(alpha);
  });

  test("runs on while its daemon is gone", async () => {
    const pid = guestOf(alpha);
    await alpha.kill9();
    expect(guestOf(alpha)).toBe(pid);
    await alpha.start();
    await works(alpha);
    expect(await stateOn(alpha)).toBe("running");
  });

  test("is seen to have crashed when its QEMU was killed, and boots again", async () => {
    process.kill(guestOf(alpha)!, "SIGKILL");
    await until("the crash is seen", async () => ((await stateOn(alpha)) === "crashed" ? true : undefined));
    await alpha.call("start", { domain: name });
    await works(alpha);
  });

  test("that resets its machine on the way boots, and arrives", async () => {
    const faults = new FaultLog(alpha);
    await alpha.call("arm-fault", { point: "source-memory-copy", action: "stall:1500" });
    const attempt = alpha.call("migrate", { domain: name, to: "beta" });
    await faults.fired("source-memory-copy");
    await tellToReset(join(alpha.runDir, id, "serial"));
    expect(await attempt).toMatchObject({ to: "beta" });
    await works(beta);
    const log = await readFile(alpha.logPath, "utf8");
    expect(log).toMatch(/"event":"RESET"[^\n]*"guest":true/);
  });

  test("runs on at the source when the QEMU that receives it is killed", async () => {
    const faults = new FaultLog(alpha);
    await alpha.call("arm-fault", { point: "source-freezing", action: "stall:1500" });
    const attempt = alpha.call("migrate", { domain: name, to: "beta" });
    attempt.catch(() => undefined);
    await faults.fired("source-freezing");
    process.kill(guestOf(beta)!, "SIGKILL");
    await expect(attempt).rejects.toMatchObject({ code: "MIGRATION_FAILED" });
    await works(alpha);
    await alpha.call("migrate", { domain: name, to: "beta" });
    await works(beta);
  });

  test("is not resumed anywhere when its own QEMU is killed on the way, and boots again at the source", async () => {
    const faults = new FaultLog(alpha);
    await alpha.call("arm-fault", { point: "source-freezing", action: "stall:1500" });
    const attempt = alpha.call("migrate", { domain: name, to: "beta" });
    attempt.catch(() => undefined);
    await faults.fired("source-freezing");
    process.kill(guestOf(alpha)!, "SIGKILL");
    await expect(attempt).rejects.toMatchObject({ code: "MIGRATION_FAILED" });
    expect(await stateOn(alpha)).toBe("crashed");
    await until("the destination tidied up", async () => (guestOf(beta) ? undefined : true));
    await alpha.call("start", { domain: name });
    await works(alpha);
  });

  test("runs on at the source when the daemon dies there after the freeze", async () => {
    await alpha.call("arm-fault", { point: "source-frozen", action: "kill" });
    const attempt = alpha.call("migrate", { domain: name, to: "beta" });
    attempt.catch(() => undefined);
    await alpha.exited();
    await alpha.start();
    await until("the domain runs again", async () =>
      (await stateOn(alpha)) === "running" ? true : undefined,
    );
    await works(alpha);
    await expect(attempt).rejects.toThrow();
  });

  test("runs at the destination when the daemon dies there before it was resumed", async () => {
    await beta.call("arm-fault", { point: "destination-owner-persisted", action: "kill" });
    const attempt = alpha.call("migrate", { domain: name, to: "beta" });
    attempt.catch(() => undefined);
    await beta.exited();
    await beta.start();
    await works(beta);
    expect(await attempt).toMatchObject({ to: "beta", generation: 2 });
    expect(guestOf(alpha)).toBeUndefined();
  });

  describe("with hooks", () => {
    async function install(host: ClusterHost, script: (hook: string) => string): Promise<void> {
      await mkdir(join(host.dataDir, "hooks"), { recursive: true });
      for (const hook of HOOKS) {
        const path = join(host.dataDir, "hooks", hook);
        await writeFile(path, `#!/bin/sh\n${script(hook)}\n`);
        await chmod(path, 0o755);
      }
    }

    afterEach(async () => {
      for (const host of stage.hosts) await rm(join(host.dataDir, "hooks"), { recursive: true, force: true });
    });

    test("has each told its step, at the host whose step it is", async () => {
      for (const host of stage.hosts)
        await install(host, () => `cat >> ${stage.folder}/${name}-${host.name}`);
      await alpha.call("migrate", { domain: name, to: "beta" });
      const told = async (host: ClusterHost): Promise<Record<string, unknown>[]> => {
        const text = await readFile(join(stage.folder, `${name}-${host.name}`), "utf8").catch(() => "");
        return text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line)]));
      };
      await until("all were told", async () => ((await told(alpha)).length === 3 ? true : undefined));
      const facts = { domain: id, name, from: "alpha", to: "beta", generation: 2 };
      expect(await told(alpha)).toEqual([
        expect.objectContaining({ hook: "pre-migrate", ...facts }),
        expect.objectContaining({ hook: "pre-freeze", ...facts }),
        expect.objectContaining({ hook: "post-migrate", ...facts }),
      ]);
      expect(await told(beta)).toEqual([
        expect.objectContaining({ hook: "post-resume", domain: id, to: "beta" }),
      ]);
    });

    test("does not leave where pre-migrate does not allow it", async () => {
      await install(alpha, (hook) => (hook === "pre-migrate" ? "echo not today; exit 1" : "exit 0"));
      const attempt = alpha.call("migrate", { domain: name, to: "beta" });
      await expect(attempt).rejects.toThrow("pre-migrate");
      await works(alpha);
    });
  });
});
