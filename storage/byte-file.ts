/**
 * A file as the durable logs see it: bytes that survive this process at once, and the machine after `fdatasync`.
 *
 * Reads and writes go to the page cache and complete in the call, so that a log changes its file and its memory
 * in one step. The simulation has an implementation that loses unsynced writes, in part and in any order, when
 * it takes the power away; nothing here may be more than such a disk can promise.
 */

import { closeSync, fdatasync, fstatSync, fsyncSync, openSync, readSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { errnoOf, StorageError, storageErrorOf } from "./errors.ts";
import { SharedSync } from "./shared-sync.ts";

export interface ByteFile {
  /** Current length; a write beyond it makes the file longer, with zeroes between. */
  size(): number;
  /** Fills `target` from `offset`. Fails with `STORAGE_CORRUPT` when the file ends before. */
  pread(offset: number, target: Uint8Array): void;
  /** After a `kill -9` the bytes are there; after a loss of power only when an `fdatasync` followed. */
  pwrite(offset: number, data: Uint8Array): void;
  /** What was written before this call is durable. A failure is final: what it was about may be gone. */
  fdatasync(): Promise<void>;
  close(): Promise<void>;
}

export class FdByteFile implements ByteFile {
  readonly #path: string;
  #fd: number;
  #failure: StorageError | undefined;
  readonly #sync = new SharedSync(() => this.#fdatasync());

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
  }

  /** Makes a new empty file, durably. `STORAGE_EXISTS` when there is one. */
  static create(path: string): FdByteFile {
    const file = new FdByteFile(path, openFile(path, "wx+"));
    syncDirectoryOf(path);
    return file;
  }

  /** `STORAGE_NOT_FOUND` when there is none. */
  static open(path: string): FdByteFile {
    return new FdByteFile(path, openFile(path, "r+"));
  }

  size(): number {
    return fstatSync(this.#openFd("size")).size;
  }

  pread(offset: number, target: Uint8Array): void {
    const fd = this.#openFd("pread");
    if (readFully(fd, offset, target) < target.length) {
      throw new StorageError({ code: "STORAGE_CORRUPT", what: this.#path, reason: "ends too early" });
    }
  }

  pwrite(offset: number, data: Uint8Array): void {
    writeFully(this.#openFd("pwrite"), offset, data);
  }

  fdatasync(): Promise<void> {
    return this.#sync.request();
  }

  async close(): Promise<void> {
    await this.#sync.idle();
    if (this.#fd === -1) return;
    closeSync(this.#fd);
    this.#fd = -1;
  }

  async #fdatasync(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      await fdatasyncLater(this.#openFd("fdatasync"));
    } catch (error) {
      throw (this.#failure = storageErrorOf(error, "fdatasync"));
    }
  }

  #openFd(operation: string): number {
    if (this.#fd === -1) throw new StorageError({ code: "STORAGE_CLOSED", operation });
    return this.#fd;
  }
}

/** Opens with Node's flags; says which of ours a failure is. */
export function openFile(path: string, flags: string | number): number {
  try {
    return openSync(path, flags, 0o600);
  } catch (error) {
    if (errnoOf(error) === "ENOENT")
      throw new StorageError({ code: "STORAGE_NOT_FOUND", path }, { cause: error });
    if (errnoOf(error) === "EEXIST")
      throw new StorageError({ code: "STORAGE_EXISTS", path }, { cause: error });
    throw storageErrorOf(error, `open ${path}`);
  }
}

/** Makes the name of a new file durable: its own `fsync` does not. */
export function syncDirectoryOf(path: string): void {
  const fd = openFile(dirname(path), "r");
  try {
    fsyncSync(fd);
  } catch (error) {
    throw storageErrorOf(error, "fsync of the directory");
  } finally {
    closeSync(fd);
  }
}

/** Reads until `target` is full or the file ends; returns how many bytes were read. */
export function readFully(fd: number, offset: number, target: Uint8Array): number {
  try {
    let done = 0;
    while (done < target.length) {
      const count = readSync(fd, target, done, target.length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
    return done;
  } catch (error) {
    throw storageErrorOf(error, "read");
  }
}

export function writeFully(fd: number, offset: number, data: Uint8Array): void {
  try {
    let done = 0;
    while (done < data.length) done += writeSync(fd, data, done, data.length - done, offset + done);
  } catch (error) {
    throw storageErrorOf(error, "write");
  }
}

export function fdatasyncLater(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fdatasync(fd, (error) => (error === null ? resolve() : reject(error)));
  });
}
