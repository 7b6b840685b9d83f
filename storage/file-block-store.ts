/** A vbd as a sparse file: its holes are what was never written, or trimmed. */

import { closeSync, fstatSync, fsyncSync, ftruncateSync, unlinkSync } from "node:fs";
import { checkRange, type Extent, pushExtent } from "./block-store.ts";
import { openFile, syncDirectoryOf } from "./byte-file.ts";
import { StorageError, storageErrorOf } from "./errors.ts";
import { FdBlockStore } from "./fd-block-store.ts";
import { linuxCalls } from "./linux.ts";

export class FileBlockStore extends FdBlockStore {
  readonly path: string;

  private constructor(path: string, options: { fd: number; sizeBytes: number; readOnly: boolean }) {
    super({ ...options, allocationUnitBytes: 1 });
    this.path = path;
  }

  /** A new file, all hole. `STORAGE_EXISTS` when there is one: an old copy is an asset, never an obstacle. */
  static create(path: string, options: { sizeBytes: number }): FileBlockStore {
    const { sizeBytes } = options;
    const fd = openFile(path, "wx+");
    try {
      ftruncateSync(fd, sizeBytes);
      fsyncSync(fd);
      syncDirectoryOf(path);
    } catch (error) {
      closeSync(fd);
      unlinkSync(path);
      throw storageErrorOf(error, `create ${path}`);
    }
    return new FileBlockStore(path, { fd, sizeBytes, readOnly: false });
  }

  /**
   * An existing file, whose size is never changed. With `sizeBytes` it must have exactly that:
   * `STORAGE_SIZE_MISMATCH` otherwise. `STORAGE_NOT_FOUND` when there is none.
   */
  static open(path: string, options: { sizeBytes?: number; readOnly?: boolean } = {}): FileBlockStore {
    const readOnly = options.readOnly ?? false;
    const fd = openFile(path, readOnly ? "r" : "r+");
    const stat = fstatSync(fd);
    const expectedBytes = options.sizeBytes ?? stat.size;
    if (!stat.isFile() || stat.size !== expectedBytes) {
      closeSync(fd);
      if (!stat.isFile())
        throw new StorageError({ code: "STORAGE_IO", operation: "open", reason: "not a file" });
      throw new StorageError({ code: "STORAGE_SIZE_MISMATCH", path, sizeBytes: stat.size, expectedBytes });
    }
    return new FileBlockStore(path, { fd, sizeBytes: stat.size, readOnly });
  }

  extents(offset: number, length: number): readonly Extent[] | undefined {
    checkRange(offset, length, this.sizeBytes);
    const fd = this.openFd("extents");
    const calls = linuxCalls();
    if (calls === undefined) return undefined;
    try {
      const extents: Extent[] = [];
      const end = offset + length;
      for (let at = offset; at < end; ) {
        const data = Math.min(calls.seekData(fd, at) ?? end, end);
        pushExtent(extents, { offset: at, length: data - at, hole: true, zero: true });
        if (data === end) break;
        const hole = Math.min(calls.seekHole(fd, data), end);
        pushExtent(extents, { offset: data, length: hole - data, hole: false, zero: false });
        at = hole;
      }
      return extents;
    } catch (error) {
      throw storageErrorOf(error, "extents");
    }
  }
}
