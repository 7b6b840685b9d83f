import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { parseGuestConfig } from "../../../../node/hypervisor/wasm/config.ts";
import { compileGuest, moduleText } from "../../../../node/hypervisor/wasm/guest/build.ts";
import { GuestMachine, type GuestRequest } from "../../../../node/hypervisor/wasm/guest-machine.ts";
import { GUEST_MODULE_BASE64 } from "../../../../node/hypervisor/wasm/guest-module.ts";
import { guestErrors, guestFigures, verifyResult } from "../../../../node/hypervisor/wasm/guest-report.ts";
import * as L from "../../../../node/hypervisor/wasm/layout.ts";
import { isLogPage } from "../../../../node/hypervisor/wasm/memory-stream.ts";

const MIB = 2 ** 20;
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31)) || 1;
console.info(`guest-machine.test: SEED=${SEED}`);

type Disk = { bytes: Buffer; answer(machine: GuestMachine, request: GuestRequest): void };

/** A disk that answers what it is asked when it is asked. */
function diskOf(sizeBytes: number): Disk {
  // One that is larger than any memory is for tests that answer its requests themselves.
  const bytes = Buffer.alloc(Math.min(sizeBytes, 64 * MIB));
  return {
    bytes,
    answer: (machine, request) => {
      const { operation, offset, length } = request;
      const end = offset + length;
      if (operation === "read") machine.answer(request, { data: bytes.subarray(offset, end) });
      else {
        if (operation === "write") request.data.copy(bytes, offset);
        else if (operation === "zero") bytes.fill(0, offset, end);
        else if (operation === "trim") bytes.fill(0x77, offset, end);
        machine.answer(request, {});
      }
    },
  };
}

function vbdsOf(...sizes: number[]) {
  return sizes.map((sizeBytes, index) => ({
    name: `xvd${index}`,
    sizeBytes,
    socketPath: "",
    exportName: "",
  }));
}

function booted(
  config: Record<string, unknown>,
  ...sizes: number[]
): { machine: GuestMachine; disks: Disk[] } {
  const machine = new GuestMachine(8 * MIB);
  const settings = { seed: SEED, fillBytes: MIB, touchedMemoryBytes: MIB, ...config };
  machine.boot(parseGuestConfig(JSON.stringify(settings)), vbdsOf(...sizes));
  return { machine, disks: sizes.map(diskOf) };
}

function run(machine: GuestMachine, disks: Disk[], { steps }: { steps: number }): void {
  for (let i = 0; i < steps; i++) {
    machine.step(10_000);
    for (const request of machine.takeQueued()) disks[request.vbd]!.answer(machine, request);
  }
}

function verify(machine: GuestMachine, disks: Disk[]) {
  const pass = machine.startVerify();
  for (let steps = 0; !machine.verified(pass); steps++) {
    if (steps > 100_000) throw new Error("the verify pass does not end");
    run(machine, disks, { steps: 1 });
  }
  return verifyResult(machine);
}

describe("the compiled guest", () => {
  it("is what its source compiles to", async () => {
    const path = new URL("../../../../node/hypervisor/wasm/guest-module.ts", import.meta.url);
    expect(await readFile(path, "utf8")).toBe(moduleText(await compileGuest()));
  });

  it("holds nothing outside of its memory: no global, no data, no table, no start", () => {
    expect(sectionIds(Buffer.from(GUEST_MODULE_BASE64, "base64"))).toEqual([1, 2, 3, 7, 10]);
  });
});

describe("a guest", () => {
  it.each(["idle", "web", "video", "diabolical"])("verifies what it wrote under %s", (workload) => {
    const { machine, disks } = booted({ workload, opsPerSecond: 5000 }, 4 * MIB, 3 * MIB + 5 * 512);
    run(machine, disks, { steps: 2000 });
    const result = verify(machine, disks);
    expect(result.errors).toEqual([]);
    expect(result.ok).toBe(true);
    expect(result.blocksChecked).toBeGreaterThanOrEqual(500);
    expect(result.pagesChecked).toBe(256);
    const figures = guestFigures(machine);
    expect(figures.filled).toBe(true);
    expect(figures.errors).toBe(0);
    expect(figures.writes).toBeGreaterThan(32);
  });

  it("writes parts of blocks, whole blocks and runs, trims, zeroes and flushes", () => {
    const { machine, disks } = booted({ workload: "web", opsPerSecond: 5000 }, 4 * MIB);
    const seen = new Set<string>();
    for (let i = 0; i < 5000; i++) {
      machine.step(10_000);
      for (const request of machine.takeQueued()) {
        const aligned = request.offset % 4096 === 0 && request.length % 4096 === 0;
        seen.add(`${request.operation} ${aligned ? "aligned" : "unaligned"}`);
        expect(request.offset % 512).toBe(0);
        disks[0]!.answer(machine, request);
      }
    }
    const kinds = [
      "write aligned",
      "write unaligned",
      "read aligned",
      "trim aligned",
      "zero aligned",
      "flush aligned",
    ];
    expect([...seen].sort()).toEqual(kinds.sort());
  });

  it("finds each lost write, by vbd, block and sector", () => {
    const { machine, disks } = booted({ workload: "web", opsPerSecond: 5000 }, 4 * MIB);
    run(machine, disks, { steps: 200 });
    const lost: GuestRequest[] = [];
    while (lost.length === 0) {
      machine.step(10_000);
      for (const request of machine.takeQueued()) {
        if (request.operation === "write" && lost.length === 0) {
          lost.push(request);
          machine.answer(request, {});
        } else disks[0]!.answer(machine, request);
      }
    }
    const { ok, errors } = verify(machine, disks);
    expect(ok).toBe(false);
    const { offset } = lost[0]!;
    expect(errors.join("\n")).toContain(`vbd 0 block ${Math.floor(offset / 4096)} sector ${offset / 512}`);
  });

  it("finds one flipped bit of memory", () => {
    const { machine, disks } = booted({ workload: "idle", opsPerSecond: 0, memoryPagesPerSecond: 0 }, MIB);
    run(machine, disks, { steps: 100 });
    expect(verify(machine, disks).ok).toBe(true);
    const at = machine.u32(L.S_TOUCHED_START) + 100 * 4096 + 3000;
    machine.memory[at]! ^= 0x10;
    const { ok, errors } = verify(machine, disks);
    expect(ok).toBe(false);
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatch(/^memory: memory at \d+: expected write 1 of memory sector 805/);
  });

  it("claims nothing of sectors whose write failed, and counts the failure", () => {
    const { machine, disks } = booted({ workload: "web", opsPerSecond: 5000 }, 4 * MIB);
    run(machine, disks, { steps: 200 });
    let failed = 0;
    for (let i = 0; i < 100; i++) {
      machine.step(10_000);
      for (const request of machine.takeQueued()) {
        if (request.operation === "write" && failed < 3) {
          failed++;
          // A torn write: half of it landed.
          request.data.copy(disks[0]!.bytes, request.offset, 0, request.length / 2);
          machine.answer(request, { errorNumber: 5 });
        } else disks[0]!.answer(machine, request);
      }
    }
    expect(failed).toBe(3);
    expect(verify(machine, disks).ok).toBe(true);
    expect(guestErrors(machine).count).toBe(3);
    expect(guestErrors(machine).first[0]).toMatch(/^write of vbd 0 at \d+ failed with error 5$/);
  });

  it("leaves a write's buffer alone, and its blocks, until it is answered", () => {
    const { machine, disks } = booted({ workload: "diabolical" }, 2 * MIB);
    const held: { request: GuestRequest; copy: Buffer }[] = [];
    for (let i = 0; i < 3000; i++) {
      machine.step(10_000);
      for (const request of machine.takeQueued()) {
        if (request.operation === "flush") {
          disks[0]!.answer(machine, request);
          continue;
        }
        for (const { request: other } of held) {
          const apart = blockEnd(request) <= blockStart(other) || blockEnd(other) <= blockStart(request);
          expect(apart || (request.operation === "read" && other.operation === "read")).toBe(true);
        }
        held.push({ request, copy: Buffer.from(request.data) });
      }
      // Answered out of order, some of them late.
      while (held.length > (i % 7) + 1) {
        const { request, copy } = held.splice((i * 5) % held.length, 1)[0]!;
        if (request.operation === "write") expect(request.data.equals(copy)).toBe(true);
        disks[0]!.answer(machine, request);
      }
    }
    for (const { request } of held) disks[0]!.answer(machine, request);
    expect(verify(machine, disks)).toMatchObject({ ok: true });
    expect(guestErrors(machine).count).toBe(0);
  });

  it("is its memory: copied with requests queued and issued, it goes on elsewhere and issues them again", () => {
    let { machine, disks } = booted({ workload: "diabolical", memoryPagesPerSecond: 5000 }, 4 * MIB, 4 * MIB);
    for (let move = 0; move < 20; move++) {
      run(machine, disks, { steps: 50 + move });
      machine.step(10_000);
      const issued = machine.takeQueued();
      // Some of them were done here, and the answer is lost.
      for (const request of issued.filter((_, index) => index % 2 === 0)) {
        if (request.operation === "write") request.data.copy(disks[request.vbd]!.bytes, request.offset);
      }
      const next = new GuestMachine(machine.memory.length);
      machine.memory.copy(next.memory);
      next.checkLoaded(vbdsOf(4 * MIB, 4 * MIB));
      expect(next.requeueIssued()).toBe(issued.length);
      machine = next;
    }
    expect(verify(machine, disks)).toMatchObject({ ok: true, errors: [] });
  });

  it("names every page that it changes in its dirty log", () => {
    const { machine, disks } = booted(
      { workload: "diabolical", memoryPagesPerSecond: 5000 },
      4 * MIB,
      2 * MIB,
    );
    for (let round = 0; round < 30; round++) {
      const before = Buffer.from(machine.memory);
      machine.memory.fill(0, L.DIRTY_LOG, L.DIRTY_LOG + machine.pages);
      run(machine, disks, { steps: 20 });
      if (round === 15) verify(machine, disks);
      const unnamed: number[] = [];
      for (let page = L.ALWAYS_DIRTY_BYTES / 4096; page < machine.pages; page++) {
        if (isLogPage(page, machine.pages) || machine.memory[L.DIRTY_LOG + page] === 1) continue;
        const [start, end] = [page * 4096, (page + 1) * 4096];
        if (machine.memory.compare(before, start, end, start, end) !== 0) unnamed.push(page);
      }
      expect(unnamed).toEqual([]);
    }
  });

  it("keeps its rate", () => {
    const { machine, disks } = booted({ workload: "web", opsPerSecond: 200, fillBytes: 0 }, 4 * MIB);
    for (let i = 0; i < 1000; i++) run(machine, disks, { steps: 1 });
    const { reads, writes, flushes, trims, zeroes } = guestFigures(machine) as Record<string, number>;
    const operations = reads! + writes! + flushes! + trims! + zeroes!;
    // Ten seconds of its time.
    expect(operations).toBeGreaterThan(1950);
    expect(operations).toBeLessThan(2050);
  });

  it("spreads a small working set over all of a large vbd", () => {
    const sizeBytes = 2 ** 40;
    const config = { workload: "web", opsPerSecond: 5000, fillBytes: 0, workingSetBytes: 4 * MIB };
    const { machine } = booted({ ...config }, sizeBytes);
    let highest = 0;
    for (let i = 0; i < 2000; i++) {
      machine.step(10_000);
      for (const request of machine.takeQueued()) {
        highest = Math.max(highest, request.offset);
        machine.answer(request, request.operation === "read" ? { data: Buffer.alloc(request.length) } : {});
      }
    }
    expect(highest).toBeGreaterThan(sizeBytes / 2);
    expect(highest).toBeLessThan(sizeBytes);
  });

  it("flushes every vbd before it halts", () => {
    const { machine, disks } = booted({ workload: "web", opsPerSecond: 5000 }, MIB, MIB);
    run(machine, disks, { steps: 50 });
    machine.askToShutDown();
    const last: string[] = [];
    for (let i = 0; i < 100 && !machine.halted; i++) {
      machine.step(10_000);
      for (const request of machine.takeQueued()) {
        last.push(`${request.operation} ${request.vbd}`);
        disks[request.vbd]!.answer(machine, request);
      }
    }
    expect(machine.halted).toBe(true);
    expect(last.slice(-2)).toEqual(["flush 0", "flush 1"]);
  });

  it("refuses a state that is not one of its own", () => {
    const fresh = new GuestMachine(8 * MIB);
    expect(() => fresh.checkLoaded([])).toThrow(/HYPERVISOR_BAD_STREAM/);
    const { machine } = booted({}, MIB);
    expect(() => machine.checkLoaded(vbdsOf(2 * MIB))).toThrow(/HYPERVISOR_BAD_STREAM/);
    expect(() => machine.checkLoaded(vbdsOf(MIB, MIB))).toThrow(/HYPERVISOR_BAD_STREAM/);
    machine.checkLoaded(vbdsOf(MIB));
  });

  it("gives out no request that points outside of its vbd or its buffer", () => {
    const { machine } = booted({}, MIB);
    const slot = L.RING;
    machine.memory.writeUInt32LE(L.SLOT_QUEUED, slot + L.R_STATE);
    machine.memory.writeUInt32LE(4096, slot + L.R_LENGTH);
    machine.memory.writeUInt32LE(L.BUFFERS, slot + L.R_BUFFER);
    machine.memory.writeBigUInt64LE(BigInt(MIB - 512), slot + L.R_OFFSET);
    expect(() => machine.takeQueued()).toThrow("no valid request");
    machine.memory.writeBigUInt64LE(0n, slot + L.R_OFFSET);
    machine.memory.writeUInt32LE(0, slot + L.R_BUFFER);
    expect(() => machine.takeQueued()).toThrow("no valid request");
  });
});

function blockStart(request: GuestRequest): number {
  return Math.floor(request.offset / 4096);
}

function blockEnd(request: GuestRequest): number {
  return Math.ceil((request.offset + request.length) / 4096);
}

/** The ids of a module's sections in their order. */
function sectionIds(module: Buffer): number[] {
  const ids: number[] = [];
  for (let at = 8; at < module.length; ) {
    ids.push(module[at++]!);
    let size = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = module[at++]!;
      size |= (byte & 0x7f) << shift;
      if ((byte & 0x80) === 0) break;
    }
    at += size;
  }
  return ids;
}
