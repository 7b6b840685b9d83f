import { spawn } from "node:child_process";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { DomainSpec, Hypervisor } from "../../../../node/hypervisor/hypervisor.ts";
import { WasmHypervisor } from "../../../../node/hypervisor/wasm/wasm-hypervisor.ts";
import { describeHypervisor } from "../../../contract/hypervisor.contract.ts";
import { type NbdVbds, serveVbds } from "./nbd-vbds.ts";

const MIB = 2 ** 20;
const ID = "6f9619ff-8b86-4d01-b42d-00c04fc964ff";

function specOf(vbds: NbdVbds, config: Record<string, unknown> = {}): DomainSpec {
  const settings = { workload: "web", seed: 7, fillBytes: MIB, touchedMemoryBytes: 2 * MIB, ...config };
  return { id: ID, name: "guest", memoryBytes: 16 * MIB, config: JSON.stringify(settings), vbds: vbds.vbds };
}

async function processId(hypervisor: Hypervisor): Promise<number> {
  return Number((await hypervisor.inspect(ID)).pid);
}

describeHypervisor("wasm", async () => {
  const vbds = await serveVbds([8 * MIB, 3 * MIB + 512]);
  const spec = specOf(vbds, { opsPerSecond: 1000 });
  return {
    spec,
    open: (host) => new WasmHypervisor({ runDir: join(vbds.dir, host) }),
    works: () => vbds.stores[0]!.further(20),
    requests: () => vbds.stores.reduce((sum, store) => sum + store.requests, 0),
    faults: async (hypervisor) => {
      const { ok, blocksChecked, pagesChecked, errors } = await (hypervisor as WasmHypervisor).verify(
        spec.id,
      );
      expect(blocksChecked).toBeGreaterThan(0);
      expect(pagesChecked).toBeGreaterThan(0);
      expect(ok).toBe(errors.length === 0);
      return errors;
    },
    kill: async (hypervisor) => {
      const pid = await processId(hypervisor);
      process.kill(pid, "SIGKILL");
      await gone(pid);
    },
    close: () => vbds.close(),
  };
});

describe("a wasm domain", () => {
  let vbds: NbdVbds;
  let source: WasmHypervisor;
  let target: WasmHypervisor;

  beforeEach(async () => {
    vbds = await serveVbds([8 * MIB, 4 * MIB]);
    source = new WasmHypervisor({ runDir: join(vbds.dir, "a") });
    target = new WasmHypervisor({ runDir: join(vbds.dir, "b") });
  });

  afterEach(async () => {
    await source.destroy(ID);
    await target.destroy(ID);
    await vbds.close();
  });

  async function move(spec: DomainSpec): Promise<void> {
    const incoming = await target.migrateIn(spec);
    const outgoing = await source.migrateOut(ID);
    const pumped = (async () => {
      for await (const chunk of outgoing.stream) await incoming.write(chunk);
    })();
    await new Promise<void>((resolve) => outgoing.onRound((round) => round.converged && resolve()));
    await outgoing.freeze();
    await incoming.loaded(await outgoing.ended());
    await target.resume(ID);
    await outgoing.cancel();
    await pumped;
    await source.destroy(ID);
    [source, target] = [target, source];
  }

  it.each(["idle", "web", "video", "diabolical"])(
    "under the %s workload finds no fault after moves",
    async (workload) => {
      const spec = specOf(vbds, { workload, opsPerSecond: workload === "diabolical" ? "unlimited" : 500 });
      await source.start(spec);
      await vbds.stores[0]!.further(100);
      await move(spec);
      await vbds.stores[0]!.further(50);
      await move(spec);
      const { ok, errors, blocksChecked } = await source.verify(ID);
      expect({ ok, errors }).toEqual({ ok: true, errors: [] });
      // Both vbds were filled with 1 MiB.
      expect(blocksChecked).toBeGreaterThanOrEqual(400);
    },
  );

  it("reports blocks that changed behind its back", async () => {
    await source.start(specOf(vbds, { workload: "idle", opsPerSecond: 0 }));
    // Two vbds of 16 chunks.
    await vbds.stores[1]!.further(16);
    await source.verify(ID);
    const block = Buffer.alloc(4096);
    await vbds.stores[0]!.read(40_960, block);
    block[700]! ^= 1;
    await vbds.stores[0]!.write(40_960, block);
    const { ok, errors } = await source.verify(ID);
    expect(ok).toBe(false);
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatch(/^verify: vbd 0 block 10 sector 81: expected write 1 of vbd 0 sector 81/);
    const status = await source.status(ID);
    expect(status).toMatchObject({ state: "running", detail: expect.stringContaining("errors: 1") });
  });

  it("reads a user's image over and over, never writes to it, and notices a change", async () => {
    const image = vbds.stores[1]!;
    const data = Buffer.alloc(4 * MIB);
    for (let i = 0; i < data.length; i += 4) data.writeUInt32LE(Math.imul(i, 2654435761) >>> 0, i);
    await image.write(0, data);
    const spec = specOf(vbds, { imageVbds: ["xvdb"], imageOpsPerSecond: "unlimited" });
    await source.start(spec);
    // 64 reads are one pass.
    await image.further(200);
    await move(spec);
    await image.further(200);
    const { ok, blocksChecked } = await source.verify(ID);
    expect(ok).toBe(true);
    expect(blocksChecked).toBeGreaterThanOrEqual(1024);
    const after = Buffer.alloc(data.length);
    await image.read(0, after);
    expect(after.equals(data)).toBe(true);
    await image.write(MIB, Buffer.from("somebody else was here"));
    const found = await source.verify(ID);
    expect(found.ok).toBe(false);
    expect(found.errors[0]).toMatch(/^image: vbd 1 block 256 /);
  });

  it("goes on after its NBD server restarted, with nothing lost", async () => {
    await source.start(specOf(vbds, { workload: "diabolical" }));
    await vbds.stores[0]!.further(100);
    for (let i = 0; i < 3; i++) {
      await vbds.restart();
      await vbds.stores[0]!.further(100);
    }
    const { ok, errors } = await source.verify(ID);
    expect({ ok, errors }).toEqual({ ok: true, errors: [] });
    expect((await source.inspect(ID)).errors).toBe(0);
  });

  it("moves a suspended domain, which stays suspended until it is resumed", async () => {
    const spec = specOf(vbds);
    await source.start(spec);
    await vbds.stores[0]!.further(50);
    await source.suspend(ID);
    await move(spec);
    await vbds.stores[0]!.further(20);
    expect((await source.verify(ID)).ok).toBe(true);
  });

  it("answers a verify that a migration interrupted by ending it, and its successor can be asked", async () => {
    const spec = specOf(vbds);
    await source.start(spec);
    await vbds.stores[0]!.further(50);
    const asked = source.verify(ID).catch((error: { code: string }) => error.code);
    await move(spec);
    const answer = await asked;
    if (typeof answer === "string") expect(answer).toBe("HYPERVISOR_PROCESS_FAILED");
    expect((await source.verify(ID)).ok).toBe(true);
  });

  it("refuses settings that it does not know, and memory that WebAssembly cannot have", async () => {
    const bad = { code: "HYPERVISOR_BAD_SPEC" };
    await expect(source.start(specOf(vbds, { speed: 9 }))).rejects.toMatchObject(bad);
    await expect(source.start(specOf(vbds, { imageVbds: ["xvdz"] }))).rejects.toMatchObject(bad);
    await expect(source.start({ ...specOf(vbds), memoryBytes: 16 * MIB + 1 })).rejects.toMatchObject(bad);
    await expect(source.start({ ...specOf(vbds), id: "../escape" })).rejects.toMatchObject(bad);
  });

  it("ends an incoming domain whose daemon died before all of it had come", async () => {
    const module = new URL("../../../../node/hypervisor/wasm/wasm-hypervisor.ts", import.meta.url).href;
    const script = `
      const { WasmHypervisor } = await import(${JSON.stringify(module)});
      const hypervisor = new WasmHypervisor({ runDir: ${JSON.stringify(join(vbds.dir, "b"))} });
      const incoming = await hypervisor.migrateIn(${JSON.stringify(specOf(vbds))});
      process.stdout.write(String((await hypervisor.inspect(${JSON.stringify(ID)})).pid));
      process.kill(process.pid, "SIGKILL");`;
    const daemon = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let pid = "";
    for await (const text of daemon.stdout.setEncoding("utf8")) pid += text;
    await gone(Number(pid));
    expect(await target.status(ID)).toEqual({ state: "shutoff" });
  });

  it("freezes though its NBD server does not answer, and issues what it was waiting for when it is resumed", async () => {
    await source.start(specOf(vbds, { workload: "diabolical" }));
    await vbds.stores[0]!.further(100);
    vbds.stores[0]!.hold();
    await vbds.stores[0]!.held();
    await source.suspend(ID);
    const { requests } = (await source.inspect(ID)) as { requests: { issued: number } };
    expect(requests.issued).toBeGreaterThan(0);
    vbds.stores[0]!.release();
    await source.resume(ID);
    await vbds.stores[0]!.further(100);
    const { ok, errors } = await source.verify(ID);
    expect({ ok, errors }).toEqual({ ok: true, errors: [] });
  });
});

/** A killed process is reaped by its parent's next turn. */
async function gone(pid: number): Promise<void> {
  for (;;) {
    try {
      process.kill(pid, 0);
    } catch {
      return;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}
