/**
 * A file on a machine that can be killed at any operation.
 *
 * After `kill -9` everything that was written is there, and of the write that was under way some first sectors. After a loss of power
 * each sector holds, by chance, what was last synced or any version written since, independently of all others.
 * A sync is durable when it completes, which is when the test says so.
 */

import type { ByteFile } from "../../storage/byte-file.ts";
import { StorageError } from "../../storage/errors.ts";
import type { Random } from "./random.ts";

const SECTOR_BYTES = 512;

export class Crash extends Error {}

export class CrashingByteFile implements ByteFile {
  readonly #random: Random;
  #bytes: Uint8Array<ArrayBufferLike>;
  #sizeBytesSynced: number;
  /** Per sector: the synced version, then each one written since. */
  readonly #versions = new Map<number, Uint8Array[]>();
  #syncs: { complete: () => void; fail: (error: Error) => void }[] = [];
  /** Writes and syncs until the process is killed. */
  operationsLeft = Number.POSITIVE_INFINITY;
  /** Without it the test completes each sync with `completeSync`. */
  syncsAtOnce = true;
  operations = 0;
  syncCount = 0;
  dead = false;

  constructor(random: Random, bytes: Uint8Array = new Uint8Array(0)) {
    this.#random = random;
    this.#bytes = bytes;
    this.#sizeBytesSynced = bytes.length;
  }

  size(): number {
    return this.#bytes.length;
  }

  pread(offset: number, target: Uint8Array): void {
    if (this.dead) throw new Crash("dead");
    if (offset + target.length > this.#bytes.length) {
      throw new StorageError({ code: "STORAGE_CORRUPT", what: "test file", reason: "ends too early" });
    }
    target.set(this.#bytes.subarray(offset, offset + target.length));
  }

  pwrite(offset: number, data: Uint8Array): void {
    if (this.#lastOperation()) {
      // The kernel looks for a fatal signal between pages; a sector at least is copied wholly or not at all.
      const sectors = Math.ceil((offset + data.length) / SECTOR_BYTES) - Math.floor(offset / SECTOR_BYTES);
      const stop = (Math.floor(offset / SECTOR_BYTES) + this.#random.below(sectors + 1)) * SECTOR_BYTES;
      this.#write(offset, data.subarray(0, Math.max(0, stop - offset)));
      throw new Crash("killed in a write");
    }
    this.#write(offset, data);
  }

  fdatasync(): Promise<void> {
    if (this.#lastOperation()) return Promise.reject(new Crash("killed in a sync"));
    if (this.#syncs.length > 0) throw new Error("two syncs at once: this file does not know their order");
    this.syncCount++;
    const sizeBytes = this.#bytes.length;
    const lengths = new Map([...this.#versions].map(([sector, versions]) => [sector, versions.length]));
    return new Promise((resolve, reject) => {
      const complete = (): void => {
        if (this.dead) {
          reject(new Crash("killed in a sync"));
          return;
        }
        this.#sizeBytesSynced = Math.max(this.#sizeBytesSynced, sizeBytes);
        for (const [sector, length] of lengths) this.#forget(sector, length);
        resolve();
      };
      if (this.syncsAtOnce) complete();
      else this.#syncs.push({ complete, fail: reject });
    });
  }

  async close(): Promise<void> {}

  get syncsPending(): number {
    return this.#syncs.length;
  }

  completeSync(): void {
    this.#syncs.shift()?.complete();
  }

  failSync(): void {
    this.#syncs.shift()?.fail(Object.assign(new Error("EIO"), { code: "EIO" }));
  }

  /** The file as the next process of the same boot finds it. */
  afterKill(): CrashingByteFile {
    this.#die();
    const next = new CrashingByteFile(this.#random, this.#bytes);
    next.#sizeBytesSynced = this.#sizeBytesSynced;
    for (const [sector, versions] of this.#versions) next.#versions.set(sector, versions);
    return next;
  }

  /** The file as the next boot finds it. */
  afterPowerLoss(): CrashingByteFile {
    this.#die();
    const bytes: Uint8Array = this.#bytes.slice(
      0,
      this.#random.chance(0.5) ? this.#bytes.length : this.#sizeBytesSynced,
    );
    for (const [sector, versions] of this.#versions) {
      const version = this.#random.pick(versions);
      const room = bytes.length - sector * SECTOR_BYTES;
      if (room > 0) bytes.set(version.subarray(0, Math.min(room, SECTOR_BYTES)), sector * SECTOR_BYTES);
    }
    return new CrashingByteFile(this.#random, bytes);
  }

  #die(): void {
    this.dead = true;
    for (const sync of this.#syncs.splice(0)) sync.fail(new Crash("killed in a sync"));
  }

  #lastOperation(): boolean {
    if (this.dead) throw new Crash("dead");
    this.operations++;
    if (this.operationsLeft-- > 0) return false;
    this.dead = true;
    return true;
  }

  #write(offset: number, data: Uint8Array): void {
    if (data.length === 0) return;
    const first = Math.floor(offset / SECTOR_BYTES);
    const last = Math.floor((offset + data.length - 1) / SECTOR_BYTES);
    for (let sector = first; sector <= last; sector++) {
      if (!this.#versions.has(sector)) this.#versions.set(sector, [this.#sector(sector)]);
    }
    if (offset + data.length > this.#bytes.length) {
      const longer = new Uint8Array(offset + data.length);
      longer.set(this.#bytes);
      this.#bytes = longer;
    }
    this.#bytes.set(data, offset);
    for (let sector = first; sector <= last; sector++) this.#versions.get(sector)!.push(this.#sector(sector));
  }

  #sector(sector: number): Uint8Array {
    const bytes = new Uint8Array(SECTOR_BYTES);
    bytes.set(this.#bytes.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES));
    return bytes;
  }

  /** Of a sector's versions as they were at the sync, only the last one can still be found on the disk. */
  #forget(sector: number, length: number): void {
    const versions = this.#versions.get(sector);
    if (versions === undefined) return;
    versions.splice(0, Math.min(length, versions.length) - 1);
    if (versions.length === 1) this.#versions.delete(sector);
  }
}
