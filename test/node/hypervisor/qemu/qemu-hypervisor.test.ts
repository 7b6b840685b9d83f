import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DomainFolder } from "../../../../node/hypervisor/domain-folder.ts";
import type { DomainSpec } from "../../../../node/hypervisor/hypervisor.ts";
import { qemuArguments } from "../../../../node/hypervisor/qemu/command-line.ts";
import { parseQemuConfig, type QemuHostOptions } from "../../../../node/hypervisor/qemu/config.ts";
import { QemuHypervisor } from "../../../../node/hypervisor/qemu/qemu-hypervisor.ts";
import { QmpConnections } from "../../../../node/qmp/qmp-connections.ts";
import { describeHypervisor } from "../../../contract/hypervisor.contract.ts";
import { type NbdVbds, serveVbds } from "../wasm/nbd-vbds.ts";
import {
  bootSector,
  HAS_ASSEMBLER,
  QEMU_EXECUTABLE,
  SECTOR_GUEST_MEMORY_BYTES,
  saidBy,
} from "./sector-guest.ts";

const MIB = 1 << 20;
const ID = "6f9619ff-8b86-4d01-b42d-00c04fc964ff";
const canRun = QEMU_EXECUTABLE !== undefined && HAS_ASSEMBLER;

function hostOptions(vbds: NbdVbds, executable = QEMU_EXECUTABLE ?? ""): QemuHostOptions {
  return { executable, acceleration: "tcg", kernelFolder: vbds.dir, extraArguments: false };
}

function theirFolder({ dir }: NbdVbds): DomainFolder {
  return new DomainFolder({ runDir: dir, id: "theirs" });
}

async function serveBootable(): Promise<NbdVbds> {
  const vbds = await serveVbds([MIB, MIB + 512]);
  await vbds.stores[0]!.write(0, await bootSector());
  return vbds;
}

describe.skipIf(!canRun)("with QEMU 9 or newer and an assembler", () => {
  describeHypervisor("qemu", async () => {
    const vbds = await serveBootable();
    const spec = {
      id: ID,
      name: "guest",
      memoryBytes: SECTOR_GUEST_MEMORY_BYTES,
      config: "",
      vbds: vbds.vbds,
    };
    const qmp = new QmpConnections();
    const host = hostOptions(vbds);
    return {
      spec,
      open: (side) => new QemuHypervisor({ runDir: join(vbds.dir, side), host, qmp }),
      works: () => vbds.stores[0]!.further(20),
      requests: () => vbds.stores.reduce((sum, store) => sum + store.requests, 0),
      faults: async (hypervisor) => {
        const { consolePath } = await hypervisor.inspect(ID);
        const log = join(String(consolePath), "..", "console.log");
        const before = await saidBy(log);
        // The round that is under way, and a whole one after it.
        while ((await saidBy(log)).rounds < before.rounds + 2) await vbds.stores[0]!.further(20);
        const { faults } = await saidBy(log);
        return faults === 0 ? [] : [`${faults} sectors or pages were not as written`];
      },
      kill: async (hypervisor) => {
        const { pid } = await hypervisor.inspect(ID);
        process.kill(Number(pid), "SIGKILL");
        while ((await hypervisor.status(ID)).state !== "crashed") await new Promise(setImmediate);
      },
      close: () => vbds.close(),
    };
  });

  describe("a qemu domain", () => {
    let vbds: NbdVbds;
    let hypervisor: QemuHypervisor;

    beforeEach(async () => {
      vbds = await serveBootable();
      hypervisor = new QemuHypervisor({
        runDir: join(vbds.dir, "a"),
        host: hostOptions(vbds),
        qmp: new QmpConnections(),
      });
    });

    afterEach(async () => {
      await hypervisor.destroy(ID);
      await vbds.close();
    });

    function specOf(config: Record<string, unknown>): DomainSpec {
      const memoryBytes = SECTOR_GUEST_MEMORY_BYTES;
      return { id: ID, name: "guest", memoryBytes, config: JSON.stringify(config), vbds: vbds.vbds };
    }

    function start(config: Record<string, unknown>): Promise<void> {
      return hypervisor.start(specOf(config));
    }

    it("goes on where it was when the exports it lives on come back", async () => {
      await start({});
      await vbds.stores[0]!.further(20);
      await vbds.restart();
      await vbds.stores[0]!.further(20);
      expect(await hypervisor.status(ID)).toEqual({ state: "running" });
    });

    it("that somebody else started is taken over, and moved to a QEMU of ours", async () => {
      const theirs = theirFolder(vbds);
      await mkdir(theirs.path);
      const args = qemuArguments(specOf({}), parseQemuConfig("{}"), {
        folder: theirs,
        host: hostOptions(vbds),
        mode: "boot",
      });
      const child = spawn(QEMU_EXECUTABLE ?? "", args, { stdio: "ignore" });
      const exited = once(child, "exit");
      await vbds.stores[0]!.further(20);
      const spec = specOf({ qmp: theirs.controlPath });
      expect(hypervisor.adopts(spec.config)).toBe(true);
      await hypervisor.start(spec);
      expect(await hypervisor.status(ID)).toEqual({ state: "running" });
      const target = new QemuHypervisor({
        runDir: join(vbds.dir, "b"),
        host: hostOptions(vbds),
        qmp: new QmpConnections(),
      });
      const incoming = await target.migrateIn(spec);
      const outgoing = await hypervisor.migrateOut(ID);
      const pumped = (async () => {
        for await (const chunk of outgoing.stream) await incoming.write(chunk);
      })();
      await outgoing.freeze();
      await incoming.loaded(await outgoing.ended());
      await target.resume(ID);
      await outgoing.cancel();
      await pumped;
      await hypervisor.destroy(ID);
      await exited;
      await vbds.stores[0]!.further(20);
      expect(await target.status(ID)).toEqual({ state: "running" });
      await target.destroy(ID);
    });

    it("runs on when migrations are cancelled as soon as they have begun, one after the other", async () => {
      await start({});
      await vbds.stores[0]!.further(20);
      for (let attempt = 0; attempt < 20; attempt++) await (await hypervisor.migrateOut(ID)).cancel();
      await vbds.stores[0]!.further(20);
      expect(await hypervisor.status(ID)).toEqual({ state: "running" });
    });

    it("is not taken over from a socket where no QEMU answers", async () => {
      const config = { qmp: join(vbds.dir, "nobody") };
      await expect(start(config)).rejects.toMatchObject({ code: "QMP_UNREACHABLE" });
      expect(await hypervisor.status(ID)).toEqual({ state: "shutoff" });
    });

    it("is refused where it brings arguments and the host does not allow them", async () => {
      await expect(start({ arguments: ["-S"] })).rejects.toMatchObject({
        code: "HYPERVISOR_BAD_SPEC",
        message: expect.stringContaining("qemu.extraArguments"),
      });
      expect(await hypervisor.status(ID)).toEqual({ state: "shutoff" });
    });

    it("is refused where its kernel is not in the host's folder, with the folder's path", async () => {
      await expect(start({ kernel: "vmlinuz" })).rejects.toMatchObject({
        code: "HYPERVISOR_BAD_SPEC",
        message: expect.stringContaining(join(vbds.dir, "vmlinuz")),
      });
    });

    it("is refused where a name in its settings could be another option of QEMU", async () => {
      for (const config of [
        { machine: "q35,kernel=/etc/shadow" },
        { kernel: "../vmlinuz" },
        { nics: [{ mac: "52:54:00:12:34:56", backend: { type: "tap", interface: "t,script=/bin/sh" } }] },
      ]) {
        await expect(start(config)).rejects.toMatchObject({ code: "HYPERVISOR_BAD_SPEC" });
      }
    });

    it("that QEMU does not understand is refused with QEMU's own words", async () => {
      await expect(start({ machine: "pc-q35-77.0" })).rejects.toMatchObject({
        code: "HYPERVISOR_PROCESS_FAILED",
        message: expect.stringContaining("unsupported machine type"),
      });
    });
  });
});

describe("a host without QEMU", () => {
  it("says which executable it looked for, and what to set", async () => {
    const vbds = await serveVbds([MIB]);
    const host = hostOptions(vbds, "qemu-that-is-not-there");
    const hypervisor = new QemuHypervisor({ runDir: join(vbds.dir, "a"), host, qmp: new QmpConnections() });
    const memoryBytes = SECTOR_GUEST_MEMORY_BYTES;
    const started = hypervisor.start({ id: ID, name: "guest", memoryBytes, config: "", vbds: vbds.vbds });
    await expect(started).rejects.toMatchObject({
      code: "HYPERVISOR_PROCESS_FAILED",
      message: expect.stringContaining("set qemu.executable"),
    });
    await vbds.close();
  });
});
