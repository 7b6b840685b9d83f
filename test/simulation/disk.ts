/**
 * A host's files: a page cache over a disk. What was written is there for every process of this boot; what was
 * not synced is lost with the power, in any subset, each sector of 512 octets wholly or not at all.
 */
import type { BlockStore, Completion, Extent } from "../../storage/block-store.ts";
import { checkRange, pushExtent } from "../../storage/block-store.ts";
import type { ByteFile } from "../../storage/byte-file.ts";
import { StorageError } from "../../storage/errors.ts";
import type { Prng } from "./prng.ts";
import type { Process } from "./process.ts";

export const SECTOR_BYTES = 512;
const PAGE_BYTES = 4096;

export class SimFile {
  #durable: Uint8Array<ArrayBuffer>;
  #cached: Uint8Array<ArrayBuffer>;
  #unsynced: { offset: number; data: Uint8Array }[] = [];
  #syncedCount = 0;

  constructor(sizeBytes: number) {
    this.#durable = new Uint8Array(sizeBytes);
    this.#cached = new Uint8Array(sizeBytes);
  }

  get bytes(): Uint8Array {
    return this.#cached;
  }

  get isDurable(): boolean {
    return this.#unsynced.every(({ offset, data }) => equalAt(this.#durable, offset, data));
  }

  write(offset: number, data: Uint8Array): void {
    this.#cached = grown(this.#cached, offset + data.length);
    this.#cached.set(data, offset);
    this.#unsynced.push({ offset, data: data.slice() });
  }

  /** What a sync that begins now has to cover: a count of writes since the file was made. */
  mark(): number {
    return this.#syncedCount + this.#unsynced.length;
  }

  sync(mark: number): void {
    // Another sync or a loss of power may have dealt with some of it.
    const writes = Math.max(0, mark - this.#syncedCount);
    for (const { offset, data } of this.#unsynced.slice(0, writes)) this.#keep(offset, data);
    this.#unsynced = this.#unsynced.slice(writes);
    this.#syncedCount += writes;
  }

  losePower(prng: Prng): void {
    const keptPercent = prng.pick([0, 30, 50, 70, 100]);
    for (const { offset, data } of this.#unsynced) {
      for (let at = 0; at < data.length; ) {
        const length = Math.min(data.length - at, SECTOR_BYTES - ((offset + at) % SECTOR_BYTES));
        if (prng.chance(keptPercent)) this.#keep(offset + at, data.subarray(at, at + length));
        at += length;
      }
    }
    this.#syncedCount = this.mark();
    this.#unsynced = [];
    this.#cached = this.#durable.slice();
  }

  #keep(offset: number, data: Uint8Array): void {
    this.#durable = grown(this.#durable, offset + data.length);
    this.#durable.set(data, offset);
  }
}

function grown(bytes: Uint8Array<ArrayBuffer>, sizeBytes: number): Uint8Array<ArrayBuffer> {
  if (bytes.length >= sizeBytes) return bytes;
  const longer = new Uint8Array(sizeBytes);
  longer.set(bytes);
  return longer;
}

function equalAt(bytes: Uint8Array, offset: number, data: Uint8Array): boolean {
  if (offset + data.length > bytes.length) return false;
  return Buffer.compare(bytes.subarray(offset, offset + data.length), data) === 0;
}

/** Of a thousand operations, how many fail. */
export type DiskFaults = { failing: () => number };

/** A file as a process has it open. A dead process changes nothing. */
export class SimByteFile implements ByteFile {
  readonly #file: SimFile;
  readonly #process: Process;
  readonly #faults: DiskFaults;

  constructor(file: SimFile, process: Process, faults: DiskFaults) {
    this.#file = file;
    this.#process = process;
    this.#faults = faults;
  }

  size(): number {
    return this.#file.bytes.length;
  }

  pread(offset: number, target: Uint8Array): void {
    if (offset + target.length > this.#file.bytes.length) {
      throw new StorageError({ code: "STORAGE_CORRUPT", what: "simulated file", reason: "ends too early" });
    }
    target.set(this.#file.bytes.subarray(offset, offset + target.length));
  }

  pwrite(offset: number, data: Uint8Array): void {
    if (!this.#process.point("pwrite")) return;
    failMaybe(this.#process, this.#faults, "pwrite");
    // A kill can cut a write short between two pages.
    for (let at = 0; at < data.length; ) {
      if (at > 0 && !this.#process.point("in pwrite")) return;
      const length = Math.min(data.length - at, PAGE_BYTES - ((offset + at) % PAGE_BYTES));
      this.#file.write(offset + at, data.subarray(at, at + length));
      at += length;
    }
  }

  fdatasync(): Promise<void> {
    const mark = this.#file.mark();
    return this.#process.call(this.#process.prng.between(0, 6), () => {
      failMaybe(this.#process, this.#faults, "fdatasync");
      this.#file.sync(mark);
    });
  }

  async close(): Promise<void> {}
}

export type StoreOptions = {
  /** Longest an operation takes. 0: most complete in the call. */
  latencyMs: number;
  /** Whether the store can tell holes from data. */
  knowsHoles: boolean;
};

/** A vbd's image. Operations overlap freely, and those on the same bytes have no order. */
export class SimBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #file: SimFile;
  readonly #process: Process;
  readonly #faults: DiskFaults;
  readonly #options: StoreOptions;

  constructor(file: SimFile, process: Process, faults: DiskFaults, options: StoreOptions) {
    this.sizeBytes = file.bytes.length;
    this.#file = file;
    this.#process = process;
    this.#faults = faults;
    this.#options = options;
  }

  read(offset: number, target: Uint8Array): Completion {
    checkRange(offset, target.length, this.sizeBytes);
    return this.#perform("read", [
      () => target.set(this.#file.bytes.subarray(offset, offset + target.length)),
    ]);
  }

  write(offset: number, data: Uint8Array): Completion {
    checkRange(offset, data.length, this.sizeBytes);
    // In two pieces that land at different times.
    const cut = this.#process.prng.chance(30) ? sectorCut(this.#process.prng, data.length) : data.length;
    const pieces = [() => this.#file.write(offset, data.subarray(0, cut))];
    if (cut < data.length) pieces.push(() => this.#file.write(offset + cut, data.subarray(cut)));
    return this.#perform("write", pieces);
  }

  writeZeroes(offset: number, length: number, _options: { mayUnmap: boolean }): Completion {
    return this.write(offset, new Uint8Array(length));
  }

  trim(offset: number, length: number): Completion {
    checkRange(offset, length, this.sizeBytes);
    if (this.#process.prng.chance(50)) return this.#perform("trim", []);
    return this.write(offset, new Uint8Array(length));
  }

  flush(): Completion {
    const mark = this.#file.mark();
    return this.#process.call(this.#process.prng.between(0, this.#options.latencyMs), () => {
      failMaybe(this.#process, this.#faults, "flush");
      this.#file.sync(mark);
    });
  }

  extents(offset: number, length: number): readonly Extent[] | undefined {
    checkRange(offset, length, this.sizeBytes);
    if (!this.#options.knowsHoles) return undefined;
    const extents: Extent[] = [];
    for (let at = offset; at < offset + length; ) {
      const end = Math.min(offset + length, (Math.floor(at / PAGE_BYTES) + 1) * PAGE_BYTES);
      const hole = this.#file.bytes.subarray(at, end).every((byte) => byte === 0);
      pushExtent(extents, { offset: at, length: end - at, hole, zero: hole });
      at = end;
    }
    return extents;
  }

  async close(): Promise<void> {}

  #perform(operation: string, effects: readonly (() => void)[]): Completion {
    const { prng } = this.#process;
    if (!this.#process.point(operation)) return new Promise(() => {});
    const { latencyMs } = this.#options;
    if (latencyMs === 0 ? prng.chance(80) : prng.chance(20)) {
      failMaybe(this.#process, this.#faults, operation);
      for (const effect of effects) effect();
      return;
    }
    const done = effects.map((effect) =>
      this.#process.call(prng.between(0, latencyMs), () => {
        failMaybe(this.#process, this.#faults, operation);
        effect();
      }),
    );
    return allDone(done);
  }
}

/** Not over before every piece is, also when one fails: nothing lands later. */
async function allDone(pieces: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(pieces)) {
    if (result.status === "rejected") throw result.reason;
  }
}

function sectorCut(prng: Prng, length: number): number {
  const sectors = Math.floor(length / SECTOR_BYTES);
  return sectors < 2 ? length : prng.between(1, sectors - 1) * SECTOR_BYTES;
}

function failMaybe(process: Process, faults: DiskFaults, operation: string): void {
  const perMille = faults.failing();
  if (perMille === 0 || !process.prng.perMille(perMille)) return;
  if (process.prng.chance(50)) throw new StorageError({ code: "STORAGE_FULL", operation });
  throw new StorageError({ code: "STORAGE_IO", operation, reason: "EIO" });
}
