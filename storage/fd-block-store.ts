/**
 * What files and block devices have in common: bytes behind a descriptor, through the page cache.
 *
 * Reads and writes are made in the call, on the event loop: with cached data that costs 1–2 µs, and the two
 * thread hops of the asynchronous calls cost ten times that and most of the throughput (a cache miss blocks the
 * loop for one disk access; that is why bulk work has a process of its own). `fdatasync` takes milliseconds and
 * is asynchronous.
 */

import { closeSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { type BlockStore, type Completion, checkRange, type Extent } from "./block-store.ts";
import { fdatasyncLater, readFully, writeFully } from "./byte-file.ts";
import { StorageError, storageErrorOf } from "./errors.ts";
import { FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, linuxCalls, SystemCallError } from "./linux.ts";
import { SharedSync } from "./shared-sync.ts";

/** Longest range that is zeroed in one go on the event loop: about 0.1 ms of copying. */
const ZEROES_AT_ONCE_BYTES = 1 << 20;
const ZEROES = new Uint8Array(ZEROES_AT_ONCE_BYTES);

export type FdBlockStoreOptions = {
  fd: number;
  sizeBytes: number;
  readOnly: boolean;
  /** `fallocate` accepts only multiples of this: 1 for files, the logical block for devices. */
  allocationUnitBytes: number;
};

export abstract class FdBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #readOnly: boolean;
  readonly #allocationUnitBytes: number;
  #fd: number;
  #closing: Promise<void> | undefined;
  readonly #inFlight = new Set<Promise<void>>();
  /** `fallocate` modes that this file system or device has refused. */
  readonly #unsupported = new Set<number>();
  #syncFailure: StorageError | undefined;
  readonly #sync = new SharedSync(() => this.#fdatasync());

  constructor(options: FdBlockStoreOptions) {
    this.#fd = options.fd;
    this.sizeBytes = options.sizeBytes;
    this.#readOnly = options.readOnly;
    this.#allocationUnitBytes = options.allocationUnitBytes;
  }

  abstract extents(offset: number, length: number): readonly Extent[] | undefined;

  read(offset: number, target: Uint8Array): Completion {
    checkRange(offset, target.length, this.sizeBytes);
    const count = readFully(this.openFd("read"), offset, target);
    if (count === target.length) return;
    throw new StorageError({ code: "STORAGE_IO", operation: "read", reason: "the file was truncated" });
  }

  write(offset: number, data: Uint8Array): Completion {
    checkRange(offset, data.length, this.sizeBytes);
    writeFully(this.#writableFd("write"), offset, data);
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    checkRange(offset, length, this.sizeBytes);
    const fd = this.#writableFd("writeZeroes");
    const modes = options.mayUnmap ? [FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE] : [FALLOC_ZERO_RANGE];
    if (length > ZEROES_AT_ONCE_BYTES) return this.#track(this.#zeroLongRange(fd, offset, length, modes));
    if (length > 0 && !this.#allocate(fd, offset, length, modes))
      writeFully(fd, offset, ZEROES.subarray(0, length));
  }

  trim(offset: number, length: number): Completion {
    checkRange(offset, length, this.sizeBytes);
    const fd = this.#writableFd("trim");
    // Units that are trimmed in part stay as they are: the contract allows it, and `fallocate` does not.
    const unit = this.#allocationUnitBytes;
    const start = Math.ceil(offset / unit) * unit;
    const end = Math.floor((offset + length) / unit) * unit;
    if (end <= start) return;
    if (end - start > ZEROES_AT_ONCE_BYTES) {
      return this.#track(this.#allocateLater(fd, start, end - start, [FALLOC_PUNCH_HOLE]).then(() => {}));
    }
    this.#allocate(fd, start, end - start, [FALLOC_PUNCH_HOLE]);
  }

  flush(): Completion {
    this.openFd("flush");
    return this.#sync.request();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  protected openFd(operation: string): number {
    if (this.#closing !== undefined) throw new StorageError({ code: "STORAGE_CLOSED", operation });
    return this.#fd;
  }

  #writableFd(operation: string): number {
    const fd = this.openFd(operation);
    if (this.#readOnly) throw new StorageError({ code: "STORAGE_READ_ONLY", operation });
    return fd;
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#inFlight);
    await this.#sync.idle();
    closeSync(this.#fd);
    this.#fd = -1;
  }

  #track(operation: Promise<void>): Promise<void> {
    const tracked = operation.finally(() => this.#inFlight.delete(tracked));
    this.#inFlight.add(tracked);
    return tracked;
  }

  async #fdatasync(): Promise<void> {
    // The kernel drops the pages that it could not write and reports that once. A second, successful sync would
    // vouch for data that is gone, so the first failure stays.
    if (this.#syncFailure !== undefined) throw this.#syncFailure;
    try {
      await fdatasyncLater(this.#fd);
    } catch (error) {
      throw (this.#syncFailure = storageErrorOf(error, "fdatasync"));
    }
  }

  /** Whether one of the modes did it. Where the kernel says no, nothing was changed. */
  #allocate(fd: number, offset: number, length: number, modes: readonly number[]): boolean {
    const calls = linuxCalls();
    if (calls === undefined || !this.#aligned(offset, length)) return false;
    return modes.some((mode) => {
      if (this.#unsupported.has(mode)) return false;
      return this.#judge(mode, calls.fallocate(fd, { mode, offset, length }));
    });
  }

  async #allocateLater(
    fd: number,
    offset: number,
    length: number,
    modes: readonly number[],
  ): Promise<boolean> {
    const calls = linuxCalls();
    if (calls === undefined || !this.#aligned(offset, length)) return false;
    for (const mode of modes) {
      if (this.#unsupported.has(mode)) continue;
      if (this.#judge(mode, await calls.fallocateLater(fd, { mode, offset, length }))) return true;
    }
    return false;
  }

  #aligned(offset: number, length: number): boolean {
    return offset % this.#allocationUnitBytes === 0 && length % this.#allocationUnitBytes === 0;
  }

  #judge(mode: number, errno: number): boolean {
    if (errno === 0) return true;
    const error = new SystemCallError("fallocate", errno);
    // Interrupted by a signal, or out of space for the new extents: writing zeroes will show.
    if (error.code === "EINTR" || error.code === "ENOSPC") return false;
    if (error.code === "EIO") throw storageErrorOf(error, "fallocate");
    this.#unsupported.add(mode);
    return false;
  }

  async #zeroLongRange(fd: number, offset: number, length: number, modes: readonly number[]): Promise<void> {
    const unit = this.#allocationUnitBytes;
    const start = Math.ceil(offset / unit) * unit;
    const end = Math.floor((offset + length) / unit) * unit;
    if (await this.#allocateLater(fd, start, end - start, modes)) {
      writeFully(fd, offset, ZEROES.subarray(0, start - offset));
      writeFully(fd, end, ZEROES.subarray(0, offset + length - end));
      return;
    }
    for (let done = 0; done < length; done += ZEROES_AT_ONCE_BYTES) {
      writeFully(fd, offset + done, ZEROES.subarray(0, Math.min(ZEROES_AT_ONCE_BYTES, length - done)));
      await setImmediate();
    }
  }
}
