/**
 * Whether a file or device still is what we left: the identity of a replica.
 *
 * Nothing short of reading it all can prove that a copy is unchanged. The times of a file change with every write
 * through the file system; a device has none, and times can be set back. So some blocks are hashed as well, chosen
 * by a seed that only the record knows. A difference voids the replica's bitmaps; the ladder's hash rung follows.
 */

import { createHash } from "node:crypto";
import { closeSync, fstatSync } from "node:fs";
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../protocol/units.ts";
import { openFile, readFully } from "./byte-file.ts";
import { StorageError } from "./errors.ts";
import { linuxCalls } from "./linux.ts";

/** Besides the first and the last: a change of one block in a hundred is found in one case of two. */
const SPOTS = 64;

/** As it is kept in the metadata: plain values only. Times as decimal nanoseconds. */
export type FileIdentity = {
  seed: string;
  sizeBytes: number;
  mtimeNs: string;
  /** Undefined for devices, whose node may be made again with every boot. */
  ctimeNs: string | undefined;
  inode: string;
  device: string;
  /** Of the first block, the last one, and those that the seed chooses, in this order. */
  spotHashes: readonly string[];
};

/** A process, or a loop device (pid 0), that can write to the file. */
export type Opener = { pid: number; command: string };

/** Reads 66 blocks at most. */
export function fingerprint(path: string, options: { seed: string }): FileIdentity {
  const fd = openFile(path, "r");
  try {
    const info = fstatSync(fd, { bigint: true });
    const isDevice = info.isBlockDevice();
    const sizeBytes = isDevice ? deviceSizeOf(fd) : Number(info.size);
    const spotHashes = spotsOf(sizeBytes, options.seed).map((block) => {
      const bytes = new Uint8Array(BLOCK_SIZE_BYTES);
      const length = readFully(fd, block * BLOCK_SIZE_BYTES, bytes);
      return createHash("sha256").update(bytes.subarray(0, length)).digest("hex").slice(0, 32);
    });
    return {
      seed: options.seed,
      sizeBytes,
      mtimeNs: isDevice ? "0" : String(info.mtimeNs),
      ctimeNs: isDevice ? undefined : String(info.ctimeNs),
      inode: isDevice ? "0" : String(info.ino),
      device: String(isDevice ? info.rdev : info.dev),
      spotHashes,
    };
  } finally {
    closeSync(fd);
  }
}

/** What differs, in words; undefined when nothing does. The seeds must be the same to compare at all. */
export function compareIdentity(before: FileIdentity, after: FileIdentity): string | undefined {
  if (before.seed !== after.seed) return "the fingerprints were taken with different seeds";
  if (before.sizeBytes !== after.sizeBytes) {
    return `its size was ${before.sizeBytes} bytes and is ${after.sizeBytes}`;
  }
  if (before.inode !== after.inode || before.device !== after.device)
    return "it is another file of that name";
  if (before.mtimeNs !== after.mtimeNs) return "it was written since (its modification time changed)";
  if (before.ctimeNs !== after.ctimeNs) return "it was changed since (its change time changed)";
  const differing = before.spotHashes.filter((hash, index) => hash !== after.spotHashes[index]).length;
  if (differing > 0 || before.spotHashes.length !== after.spotHashes.length) {
    return `its content changed (${differing} of ${before.spotHashes.length} sampled blocks differ)`;
  }
  return undefined;
}

/**
 * Who else has the file or device open for writing, also by a loop device on it. Sees every process as root, and
 * otherwise our own user's. Advice only: somebody may open it a moment later.
 */
export async function findOpenElsewhere(path: string): Promise<Opener[]> {
  const info = await stat(path, { bigint: true }).catch((cause) => {
    throw new StorageError({ code: "STORAGE_NOT_FOUND", path }, { cause });
  });
  const loops = await loopDevicesOn(path);
  const nodes = new Set([nodeOf(info)]);
  for (const loop of loops) nodes.add(nodeOf(await stat(loop, { bigint: true })));
  const openers: Opener[] = loops.map((loop) => ({ pid: 0, command: loop }));
  for (const entry of await readdir("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    if (await writesTo(pid, nodes)) openers.push({ pid, command: await commandOf(pid) });
  }
  return openers;
}

function deviceSizeOf(fd: number): number {
  const sizeBytes = linuxCalls()?.seekEnd(fd);
  if (sizeBytes !== undefined) return sizeBytes;
  throw new StorageError({
    code: "STORAGE_IO",
    operation: "fingerprint",
    reason: "a device's size is unknown",
  });
}

/** The same for the same seed and size; a block may be chosen twice. */
function spotsOf(sizeBytes: number, seed: string): number[] {
  const blockCount = blockCountOf(sizeBytes);
  if (blockCount === 0) return [];
  const spots = [0, blockCount - 1];
  for (let index = 0; index < SPOTS; index++) {
    const random = createHash("sha256").update(`${index} ${seed}`).digest().readUIntBE(0, 6);
    spots.push(random % blockCount);
  }
  return spots;
}

type Stat = { dev: bigint; ino: bigint; rdev: bigint; isBlockDevice(): boolean };

/** A device is one thing under all its names. */
function nodeOf(info: Stat): string {
  return info.isBlockDevice() ? `device ${info.rdev}` : `file ${info.dev}:${info.ino}`;
}

async function loopDevicesOn(path: string): Promise<string[]> {
  const target = nodeOf(await stat(path, { bigint: true }));
  const names = await readdir("/sys/block").catch(() => []);
  const loops: string[] = [];
  for (const name of names.filter((candidate) => candidate.startsWith("loop"))) {
    const readOnly = await readFile(`/sys/block/${name}/ro`, "utf8").catch(() => "1");
    const backing = await readFile(`/sys/block/${name}/loop/backing_file`, "utf8").catch(() => undefined);
    if (backing === undefined || readOnly.trim() === "1") continue;
    const info = await stat(backing.trimEnd(), { bigint: true }).catch(() => undefined);
    if (info !== undefined && nodeOf(info) === target) loops.push(`/dev/${name}`);
  }
  return loops;
}

async function writesTo(pid: number, nodes: ReadonlySet<string>): Promise<boolean> {
  // A process may end, or refuse us, at any of these steps.
  const fds = await readdir(`/proc/${pid}/fd`).catch(() => []);
  for (const fd of fds) {
    const link = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => "");
    if (!link.startsWith("/")) continue;
    const info = await stat(`/proc/${pid}/fd/${fd}`, { bigint: true }).catch(() => undefined);
    if (info === undefined || !nodes.has(nodeOf(info))) continue;
    const details = await readFile(`/proc/${pid}/fdinfo/${fd}`, "utf8").catch(() => "");
    const flags = Number.parseInt(/^flags:\s*([0-7]+)/m.exec(details)?.[1] ?? "0", 8);
    // The access mode: 0 is for reading.
    if ((flags & 3) !== 0) return true;
  }
  return false;
}

async function commandOf(pid: number): Promise<string> {
  return (await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "?")).trim();
}
