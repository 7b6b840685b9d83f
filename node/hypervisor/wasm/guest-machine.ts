/**
 * One guest: its linear memory and the instance that steps over it. No I/O and no clock; whoever owns it calls
 * `step`, takes the requests that the guest queued, and answers them.
 *
 * The memory is all of its state: a machine made over a copy of it is the same guest.
 */

import { badSpec, badStream } from "../errors.ts";
import type { VbdAttachment } from "../hypervisor.ts";
import { checkMemoryBytes, type GuestConfig, rateNumber, WORKLOAD_DEFAULTS } from "./config.ts";
import { GUEST_MODULE_BASE64 } from "./guest-module.ts";
import * as L from "./layout.ts";

export type GuestOperation = "read" | "write" | "flush" | "trim" | "zero";

/** A queued request. `data` lies in guest memory: where a read's bytes belong, or what a write writes. */
export type GuestRequest = {
  slot: number;
  cookie: number;
  operation: GuestOperation;
  vbd: number;
  offset: number;
  length: number;
  data: Buffer;
};

const OPERATIONS: readonly GuestOperation[] = ["read", "write", "flush", "trim", "zero"];

type Exports = { boot(): number; step(elapsedMicros: number): number; startVerify(): number };

let compiled: WebAssembly.Module | undefined;

export class GuestMachine {
  /** The guest's RAM. Whoever stores into it above `ALWAYS_DIRTY_BYTES` calls `markDirty`. */
  readonly memory: Buffer;
  readonly #view: DataView;
  readonly #guest: Exports;

  /** A machine with zeroed memory: `boot` it, or load a state into it. */
  constructor(memoryBytes: number) {
    checkMemoryBytes(memoryBytes);
    const pages = memoryBytes / 65_536;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    compiled ??= new WebAssembly.Module(Buffer.from(GUEST_MODULE_BASE64, "base64"));
    const instance = new WebAssembly.Instance(compiled, { env: { memory } });
    this.#guest = instance.exports as unknown as Exports;
    this.memory = Buffer.from(memory.buffer);
    this.#view = new DataView(memory.buffer);
  }

  boot(config: GuestConfig, vbds: readonly VbdAttachment[]): void {
    checkVbds(config, vbds);
    const defaults = WORKLOAD_DEFAULTS[config.workload];
    this.#set(L.S_MEMORY_BYTES, this.memory.length);
    this.#set(L.S_WORKLOAD, defaults.number);
    this.#view.setBigUint64(L.S_SEED, BigInt(config.seed), true);
    this.#set(L.S_DISK_RATE, rateNumber(config.opsPerSecond, defaults.opsPerSecond));
    this.#set(L.S_MEMORY_RATE, rateNumber(config.memoryPagesPerSecond, defaults.memoryPagesPerSecond));
    this.#set(L.S_IMAGE_RATE, rateNumber(config.imageOpsPerSecond, 0));
    this.#set(L.S_DEPTH, config.depth ?? defaults.depth);
    this.#set(L.S_WHOLE_BLOCKS, config.wholeBlocks ? 1 : 0);
    this.#view.setBigUint64(L.S_FILL_BYTES, BigInt(config.fillBytes), true);
    this.#view.setBigUint64(L.S_WORKING_SET_BYTES, BigInt(config.workingSetBytes), true);
    this.#view.setBigUint64(L.S_TOUCHED_BYTES, BigInt(config.touchedMemoryBytes), true);
    this.#set(L.S_VBD_COUNT, vbds.length);
    for (const [index, vbd] of vbds.entries()) {
      const record = L.VBD_RECORDS + index * L.VBD_RECORD_BYTES;
      this.#view.setBigUint64(record + L.V_SIZE_BYTES, BigInt(vbd.sizeBytes), true);
      this.#set(record + L.V_FLAGS, config.imageVbds.includes(vbd.name) ? L.VBD_IMAGE : 0);
    }
    if (this.#guest.boot() === 0) {
      throw badSpec("memoryBytes", "too small for this many vbds");
    }
  }

  /** After a state was loaded: it must be a guest of our layout with these vbds. Throws `HYPERVISOR_BAD_STREAM`. */
  checkLoaded(vbds: readonly VbdAttachment[]): void {
    const reject = (reason: string): never => {
      throw badStream(reason);
    };
    if (this.#get(L.S_MAGIC) !== L.GUEST_MAGIC) reject("no guest in it");
    if (this.#get(L.S_VERSION) !== L.GUEST_VERSION) reject("a guest of another version");
    if (this.#get(L.S_MEMORY_BYTES) !== this.memory.length) reject("a guest of another memory size");
    if (this.#get(L.S_VBD_COUNT) !== vbds.length) reject("a guest with another number of vbds");
    for (const [index, vbd] of vbds.entries()) {
      if (this.#vbdSizeBytes(index) !== vbd.sizeBytes) reject(`vbd ${index} has another size`);
    }
    this.memory.fill(0, L.DIRTY_LOG, L.DIRTY_LOG + this.pages);
  }

  /** Lets the guest do what it can do now; answers the microseconds until it wants to be stepped again. */
  step(elapsedMicros: number): number {
    return this.#guest.step(Math.min(Math.max(Math.round(elapsedMicros), 0), 1_000_000));
  }

  /** The queued requests, which are marked as issued. A request that no peer could serve ends the guest. */
  takeQueued(): GuestRequest[] {
    const requests: GuestRequest[] = [];
    for (let slot = 0; slot < L.SLOTS_MAX; slot++) {
      const at = slotAt(slot);
      if (this.#get(at + L.R_STATE) !== L.SLOT_QUEUED) continue;
      requests.push(this.#request(slot));
      this.#set(at + L.R_STATE, L.SLOT_ISSUED);
    }
    return requests;
  }

  /** What was issued and never answered is queued again: the same bytes to the same place, so twice is as once. */
  requeueIssued(): number {
    let requeued = 0;
    for (let slot = 0; slot < L.SLOTS_MAX; slot++) {
      const at = slotAt(slot) + L.R_STATE;
      if (this.#get(at) !== L.SLOT_ISSUED) continue;
      this.#set(at, L.SLOT_QUEUED);
      requeued++;
    }
    return requeued;
  }

  /** Answers an issued request; `errorNumber` other than 0 is a failure, as NBD numbers them. */
  answer(
    request: GuestRequest,
    { data, errorNumber = 0 }: { data?: Uint8Array; errorNumber?: number },
  ): void {
    const at = slotAt(request.slot);
    if (this.#get(at + L.R_STATE) !== L.SLOT_ISSUED || this.#get(at + L.R_COOKIE) !== request.cookie) return;
    if (data) {
      request.data.set(data);
      this.markDirty(request.data.byteOffset, request.length);
    }
    this.#set(at + L.R_ERROR, errorNumber);
    this.#set(at + L.R_STATE, errorNumber === 0 ? L.SLOT_DONE : L.SLOT_ERROR);
  }

  markDirty(address: number, length: number): void {
    const first = Math.floor(address / L.PAGE_BYTES);
    const last = Math.floor((address + length - 1) / L.PAGE_BYTES);
    this.memory.fill(1, L.DIRTY_LOG + first, L.DIRTY_LOG + last + 1);
  }

  /** Starts a verify pass, or joins the one that runs; answers its number. */
  startVerify(): number {
    return this.#guest.startVerify();
  }

  verified(pass: number): boolean {
    return this.#get(L.S_VERIFY_ENDED) >= pass;
  }

  askToShutDown(): void {
    this.#set(L.S_COMMAND, L.COMMAND_SHUTDOWN);
  }

  get halted(): boolean {
    return this.#get(L.S_HALTED) !== 0;
  }

  /** Whether an answer would let the guest go on at once, rather than when its rate allows. */
  get blocked(): boolean {
    return this.#get(L.S_BLOCKED) !== 0;
  }

  get pages(): number {
    return this.memory.length / L.PAGE_BYTES;
  }

  get vbdCount(): number {
    return this.#get(L.S_VBD_COUNT);
  }

  u32(offset: number): number {
    return this.#get(offset);
  }

  u64(offset: number): bigint {
    return this.#view.getBigUint64(offset, true);
  }

  #vbdSizeBytes(vbd: number): number {
    return Number(this.u64(L.VBD_RECORDS + vbd * L.VBD_RECORD_BYTES + L.V_SIZE_BYTES));
  }

  #request(slot: number): GuestRequest {
    const at = slotAt(slot);
    const operation = OPERATIONS[this.#get(at + L.R_OP)];
    const vbd = this.#get(at + L.R_VBD);
    const offset = Number(this.u64(at + L.R_OFFSET));
    const length = this.#get(at + L.R_LENGTH);
    const buffer = this.#get(at + L.R_BUFFER);
    // The memory may have come from a peer: it is not trusted to stay inside its own vbds and buffers.
    const isOurs = buffer === L.BUFFERS + slot * L.CHUNK_BYTES && length <= L.CHUNK_BYTES;
    if (!operation || !isOurs || vbd >= this.vbdCount || offset + length > this.#vbdSizeBytes(vbd)) {
      throw new Error(`slot ${slot} holds no valid request`);
    }
    const data = this.memory.subarray(buffer, buffer + length);
    return { slot, cookie: this.#get(at + L.R_COOKIE), operation, vbd, offset, length, data };
  }

  #get(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  #set(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true);
  }
}

function slotAt(slot: number): number {
  return L.RING + slot * L.SLOT_BYTES;
}

function checkVbds(config: GuestConfig, vbds: readonly VbdAttachment[]): void {
  const reject = (reason: string): never => {
    throw badSpec("vbds", reason);
  };
  if (vbds.length > L.VBDS_MAX) reject(`more than ${L.VBDS_MAX}`);
  const names = new Set(vbds.map((vbd) => vbd.name));
  if (names.size < vbds.length) reject("two of one name");
  for (const name of config.imageVbds) if (!names.has(name)) reject(`no vbd ${name} for imageVbds`);
  for (const vbd of vbds) {
    if (!Number.isSafeInteger(vbd.sizeBytes) || vbd.sizeBytes < 0) reject(`size of ${vbd.name}`);
  }
}
