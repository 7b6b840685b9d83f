/** What a guest's memory says about it, in words and numbers for people and tests. */

import type { VerifyResult } from "../hypervisor.ts";
import type { GuestMachine } from "./guest-machine.ts";
import * as L from "./layout.ts";

const WORKLOADS = ["idle", "web", "video", "diabolical"];
const KINDS = ["", "read", "verify", "memory", "image", "io"];
const OPERATIONS = ["read", "write", "flush", "trim", "zero"];

/** How many errors the guest found in its life, and the first few described. */
export function guestErrors(machine: GuestMachine): { count: number; first: string[] } {
  const count = Number(machine.u64(L.C_ERRORS));
  const first: string[] = [];
  for (let index = 0; index < Math.min(count, L.ERRORS_MAX); index++) first.push(describe(machine, index));
  return { count, first };
}

function describe(machine: GuestMachine, index: number): string {
  const record = L.ERROR_RECORDS + index * L.ERROR_RECORD_BYTES;
  const kind = machine.u32(record + L.E_KIND);
  const vbd = machine.u32(record + L.E_VBD);
  const offset = Number(machine.u64(record + L.E_OFFSET));
  const expected = [machine.u64(record + L.E_EXPECTED), machine.u64(record + L.E_EXPECTED + 8)] as const;
  const found = [machine.u64(record + L.E_FOUND), machine.u64(record + L.E_FOUND + 8)] as const;
  if (kind === L.ERROR_IO) {
    return `${OPERATIONS[Number(expected[0])]} of vbd ${vbd} at ${offset} failed with error ${found[0]}`;
  }
  const where =
    kind === L.ERROR_MEMORY
      ? `memory at ${offset}`
      : `vbd ${vbd} block ${Math.floor(offset / L.BLOCK_BYTES)} sector ${Math.floor(offset / L.SECTOR_BYTES)}`;
  if (kind === L.ERROR_IMAGE) return `image: ${where}: expected hash ${expected[0]}, found ${found[0]}`;
  return `${KINDS[kind]}: ${where}: expected ${stamp(expected)}, found ${stamp(found)}`;
}

/** A stamp's first two words: who it says it is. */
function stamp([name, sector]: readonly [bigint, bigint]): string {
  if (name === 0n && sector === 0n) return "zeroes";
  if (name >> 48n !== 0x534an) return `no stamp (0x${name.toString(16)} 0x${sector.toString(16)})`;
  const vbd = (name >> 32n) & 0xffffn;
  const whose = vbd === BigInt(L.MEMORY_VBD) ? "memory" : `vbd ${vbd}`;
  return `write ${name & 0xffffffffn} of ${whose} sector ${sector}`;
}

/** The figures of the pass that ended last. */
export function verifyResult(machine: GuestMachine): VerifyResult {
  const found = Number(machine.u64(L.S_VERIFY_ERRORS));
  const errors = guestErrors(machine);
  return {
    ok: found === 0,
    blocksChecked: Number(machine.u64(L.S_VERIFY_BLOCKS)),
    pagesChecked: Number(machine.u64(L.S_VERIFY_PAGES)),
    errors: found === 0 ? [] : errors.first,
  };
}

export function guestFigures(machine: GuestMachine): Record<string, unknown> {
  const counter = (offset: number): number => Number(machine.u64(offset));
  const errors = guestErrors(machine);
  const vbds = Array.from({ length: machine.vbdCount }, (_, index) => vbdFigures(machine, index));
  const toFill = vbds.reduce((sum, vbd) => sum + vbd.fillBytes, 0);
  return {
    workload: WORKLOADS[machine.u32(L.S_WORKLOAD)],
    uptimeMs: Math.floor(counter(L.C_UPTIME_MICROS) / 1000),
    steps: counter(L.C_STEPS),
    filledBytes: counter(L.C_FILLED_BYTES),
    fillBytes: toFill,
    filled: machine.u32(L.S_FILL_VBD) >= machine.vbdCount,
    reads: counter(L.C_READS),
    writes: counter(L.C_WRITES),
    flushes: counter(L.C_FLUSHES),
    trims: counter(L.C_TRIMS),
    zeroes: counter(L.C_ZEROES),
    bytesRead: counter(L.C_BYTES_READ),
    bytesWritten: counter(L.C_BYTES_WRITTEN),
    sectorsVerified: counter(L.C_SECTORS_VERIFIED),
    imageBlocksVerified: counter(L.C_IMAGE_BLOCKS_VERIFIED),
    imagePasses: counter(L.C_IMAGE_PASSES),
    memoryPagesTouched: counter(L.C_PAGES_TOUCHED),
    memoryPagesStamped: machine.u32(L.S_TOUCHED_STAMPED),
    requests: ringFigures(machine),
    vbds,
    errors: errors.count,
    firstErrors: errors.first,
  };
}

function vbdFigures(machine: GuestMachine, index: number) {
  const record = L.VBD_RECORDS + index * L.VBD_RECORD_BYTES;
  const sizeBytes = Number(machine.u64(record + L.V_SIZE_BYTES));
  return {
    sizeBytes,
    image: (machine.u32(record + L.V_FLAGS) & L.VBD_IMAGE) !== 0,
    workingSetBytes: Math.min(machine.u32(record + L.V_CHUNKS) * L.CHUNK_BYTES, sizeBytes),
    strideBytes: machine.u32(record + L.V_STRIDE) * L.CHUNK_BYTES,
    fillBytes: Math.min(machine.u32(record + L.V_FILL_CHUNKS) * L.CHUNK_BYTES, sizeBytes),
  };
}

function ringFigures(machine: GuestMachine) {
  const states = { free: 0, queued: 0, issued: 0, done: 0, error: 0 };
  const names = ["free", "queued", "issued", "done", "error"] as const;
  for (let slot = 0; slot < L.SLOTS_MAX; slot++) {
    const name = names[machine.u32(L.RING + slot * L.SLOT_BYTES + L.R_STATE)];
    if (name) states[name]++;
  }
  return states;
}
