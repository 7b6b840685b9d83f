/**
 * Images that a vbd is made from. A vbd is the bytes that its guest sees: a qcow2 image is refused as one, since
 * its snapshots and the images below it would stay behind, unless it is to be flattened: then what its guest sees
 * becomes a vbd, without snapshots, and on its own.
 */

import { execFile } from "node:child_process";
import { constants, copyFile, stat } from "node:fs/promises";
import { promisify } from "node:util";
import { type Qcow2Image, readQcow2Header } from "../../storage/qcow2-header.ts";
import { NodeError } from "../errors.ts";
import { formatSize } from "../sizes.ts";

/** Throws VBD_FORMAT for a qcow2 image. */
export function refuseQcow2(path: string): void {
  const image = readQcow2Header(path);
  if (image !== undefined) throw new NodeError("VBD_FORMAT", { path, found: descriptionOf(image) });
}

/**
 * Makes `target`, a new raw file, of what a guest of `image` sees. Throws VBD_FORMAT for a qcow2 image that is
 * not to be flattened or cannot be; then nothing, or a part of `target`, is there.
 */
export async function copyImage(
  image: string,
  target: string,
  { flatten }: { flatten: boolean },
): Promise<void> {
  const header = readQcow2Header(image);
  if (header === undefined)
    return copyFile(image, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
  if (!flatten) refuseQcow2(image);
  const found = descriptionOf(header);
  try {
    // Zeroes become holes; the images below are found as QEMU finds them.
    await promisify(execFile)("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", "-S", "4k", image, target]);
  } catch (cause) {
    const { code, stderr = "" } = cause as { code?: unknown; stderr?: string };
    const why = code === "ENOENT" ? "qemu-img is not installed" : stderr.trim().slice(0, 500);
    throw new NodeError("VBD_FORMAT", { path: image, found, why }, { cause });
  }
  const { size } = await stat(target);
  if (size === header.sizeBytes) return;
  const why = `it has ${size} bytes when flattened, and says ${header.sizeBytes}`;
  throw new NodeError("VBD_FORMAT", { path: image, found, why });
}

function descriptionOf({ sizeBytes, backing, snapshots, isEncrypted, hasDataFile }: Qcow2Image): string {
  const parts = [
    `a qcow2 image of ${formatSize(sizeBytes)}`,
    ...(snapshots === 0 ? [] : [`with ${snapshots} ${snapshots === 1 ? "snapshot" : "snapshots"} in it`]),
    ...(backing === undefined ? [] : [`on top of ${backing}`]),
    ...(isEncrypted ? ["encrypted"] : []),
    ...(hasDataFile ? ["with its data in another file"] : []),
  ];
  return parts.join(", ");
}
