/** How many bytes a vbd on a file or a device has. */

import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { errnoOf, StorageError } from "./errors.ts";

const SECTOR_SIZE_BYTES = 512;

/** `STORAGE_NOT_FOUND` when there is nothing, `STORAGE_IO` when it is neither file nor block device. */
export function sizeOfPath(path: string): number {
  const fd = open(path);
  try {
    const stat = fstatSync(fd);
    if (stat.isFile()) return stat.size;
    if (!stat.isBlockDevice()) {
      throw new StorageError({
        code: "STORAGE_IO",
        operation: `size of ${path}`,
        reason: "neither file nor block device",
      });
    }
    const major = (stat.rdev >> 8) & 0xfff;
    const minor = (stat.rdev & 0xff) | ((stat.rdev >> 12) & 0xfff00);
    const sectors = readFileSync(`/sys/dev/block/${major}:${minor}/size`, "utf8");
    return Number(sectors) * SECTOR_SIZE_BYTES;
  } finally {
    closeSync(fd);
  }
}

function open(path: string): number {
  try {
    return openSync(path, "r");
  } catch (error) {
    if (errnoOf(error) === "ENOENT")
      throw new StorageError({ code: "STORAGE_NOT_FOUND", path }, { cause: error });
    throw error;
  }
}
