/**
 * A vbd as a block device (a logical volume, a disk, a loop device).
 *
 * A trim is `fallocate`'s punch, which gives space back and reads as zero afterwards, or is refused and changes
 * nothing. The discard `ioctl` gives space back on more devices, but some of them then read as anything, and
 * two hosts would no longer agree on what the block holds.
 */

import { closeSync, fstatSync, readFileSync } from "node:fs";
import { checkRange, type Extent } from "./block-store.ts";
import { openFile } from "./byte-file.ts";
import { StorageError } from "./errors.ts";
import { FdBlockStore } from "./fd-block-store.ts";
import { linuxCalls } from "./linux.ts";

/** Sizes in sysfs count these, whatever the device's own sectors are. */
const SYSFS_SECTOR_BYTES = 512;

/** Every device's logical block divides this, so aligning `fallocate` to it suits them all. */
const ALLOCATION_UNIT_BYTES = 4096;

export class DeviceBlockStore extends FdBlockStore {
  readonly path: string;

  private constructor(path: string, options: { fd: number; sizeBytes: number; readOnly: boolean }) {
    super({ ...options, allocationUnitBytes: ALLOCATION_UNIT_BYTES });
    this.path = path;
  }

  /**
   * An existing device (or file, which is used as if it were one). With `sizeBytes` the device may be larger,
   * as logical volumes are rounded up, and its rest is not touched; a smaller one is `STORAGE_SIZE_MISMATCH`.
   */
  static open(path: string, options: { sizeBytes?: number; readOnly?: boolean } = {}): DeviceBlockStore {
    const readOnly = options.readOnly ?? false;
    const fd = openFile(path, readOnly ? "r" : "r+");
    try {
      const deviceBytes = sizeOf(fd);
      const sizeBytes = options.sizeBytes ?? deviceBytes;
      if (sizeBytes > deviceBytes) {
        throw new StorageError({
          code: "STORAGE_SIZE_MISMATCH",
          path,
          sizeBytes: deviceBytes,
          expectedBytes: sizeBytes,
        });
      }
      return new DeviceBlockStore(path, { fd, sizeBytes, readOnly });
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Nothing can be said: a device does not know which of its blocks were ever written. */
  extents(offset: number, length: number): readonly Extent[] | undefined {
    checkRange(offset, length, this.sizeBytes);
    this.openFd("extents");
    return undefined;
  }
}

function sizeOf(fd: number): number {
  const stat = fstatSync(fd);
  if (!stat.isBlockDevice()) return stat.size;
  const calls = linuxCalls();
  if (calls !== undefined) return calls.seekEnd(fd);
  // The kernel's encoding of a device number: 12 bits of minor above and 8 below 12 bits of major.
  const major = (stat.rdev >>> 8) & 0xfff;
  const minor = (stat.rdev & 0xff) | ((stat.rdev >>> 12) & 0xfff00);
  return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, "utf8")) * SYSFS_SECTOR_BYTES;
}
