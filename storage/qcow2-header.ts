/**
 * What a qcow2 image says of itself in its first octets. All integers are big-endian.
 *
 *     0        4         8                16            20             24         32
 *    +--------+---------+----------------+-------------+--------------+----------+--------------+
 *    | QFI\xfb| version | backing: where | its length  | cluster bits | size     | encryption   |
 *    +--------+---------+----------------+-------------+--------------+----------+--------------+
 *    60: snapshots   72: incompatible features, from version 3
 */

import { closeSync } from "node:fs";
import { openFile, readFully } from "./byte-file.ts";

const MAGIC = 0x514649fb;
const HEADER_BYTES = 104;
/** QEMU's own limit. */
const BACKING_BYTES_MAX = 1023;
const FEATURE_EXTERNAL_DATA = 1n << 2n;

export type Qcow2Image = {
  /** What its guest sees. */
  sizeBytes: number;
  /** The image below, as the image names it. */
  backing: string | undefined;
  /** Snapshots within the image. */
  snapshots: number;
  isEncrypted: boolean;
  /** The data lies in another file. */
  hasDataFile: boolean;
};

/** Undefined when the file is no qcow2 image. Only looks: a guest may write anything to a raw vbd. */
export function readQcow2Header(path: string): Qcow2Image | undefined {
  const fd = openFile(path, "r");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    const length = readFully(fd, 0, header);
    const version = header.readUInt32BE(4);
    if (length < 72 || header.readUInt32BE(0) !== MAGIC || version < 2 || version > 3) return undefined;
    const backingBytes = Math.min(header.readUInt32BE(16), BACKING_BYTES_MAX);
    const backing = Buffer.alloc(backingBytes);
    const backingLength = readFully(fd, Number(header.readBigUInt64BE(8)), backing);
    return {
      sizeBytes: Number(header.readBigUInt64BE(24)),
      backing: backingBytes === 0 ? undefined : backing.toString("utf8", 0, backingLength),
      snapshots: header.readUInt32BE(60),
      isEncrypted: header.readUInt32BE(32) !== 0,
      hasDataFile: version === 3 && (header.readBigUInt64BE(72) & FEATURE_EXTERNAL_DATA) !== 0n,
    };
  } finally {
    closeSync(fd);
  }
}
