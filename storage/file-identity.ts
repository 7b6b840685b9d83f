/**
 * How a replica is known again. A file that anybody else wrote to since we closed it is not the replica that
 * its label says: size, inode and time of the last change give it away at once, and digests of some blocks
 * catch a copy that was put back with its old times.
 */

import { createHash } from "node:crypto";
import { closeSync, fdatasyncSync, fstatSync, openSync, readSync } from "node:fs";
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../protocol/units.ts";
import { sizeOfPath } from "./path-size.ts";

const SPOT_COUNT = 64;

export type FileIdentity = {
  /** Chooses the blocks of `spotHash`. */
  seed: number;
  sizeBytes: number;
  /** Nanoseconds since 1970, as text: more than a number holds. */
  modifiedNs: string;
  device: string;
  inode: string;
  /** Of the first, the last, and some blocks between. */
  spotHash: string;
};

/** Everything written to the file is flushed first: a time that is still to be set would differ later. */
export function fingerprint(path: string, { seed }: { seed: number }): FileIdentity {
  const sizeBytes = sizeOfPath(path);
  const fd = openSync(path, "r");
  try {
    fdatasyncSync(fd);
    const { mtimeNs, dev, ino, rdev } = fstatSync(fd, { bigint: true });
    return {
      seed,
      sizeBytes,
      modifiedNs: String(mtimeNs),
      device: String(rdev === 0n ? dev : rdev),
      inode: String(ino),
      spotHash: spotHashOf(fd, { sizeBytes, seed }),
    };
  } finally {
    closeSync(fd);
  }
}

/** What differs, in words; undefined when the two are the same file, unchanged. */
export function compareIdentity(before: FileIdentity, now: FileIdentity): string | undefined {
  if (before.sizeBytes !== now.sizeBytes) return `its size was ${before.sizeBytes} and is ${now.sizeBytes}`;
  if (before.inode !== now.inode || before.device !== now.device) return "it is another file (inode)";
  if (before.modifiedNs !== now.modifiedNs) return "it was written to (modification time)";
  if (before.spotHash !== now.spotHash) return "its contents changed (spot hashes)";
  return undefined;
}

function spotHashOf(fd: number, { sizeBytes, seed }: { sizeBytes: number; seed: number }): string {
  const blockCount = blockCountOf(sizeBytes);
  const hash = createHash("sha256");
  const block = Buffer.allocUnsafe(BLOCK_SIZE_BYTES);
  for (const index of spotsOf(blockCount, seed)) {
    const length = readSync(fd, block, 0, BLOCK_SIZE_BYTES, index * BLOCK_SIZE_BYTES);
    hash.update(`${index}:`).update(block.subarray(0, length));
  }
  return hash.digest("hex");
}

function spotsOf(blockCount: number, seed: number): number[] {
  if (blockCount === 0) return [];
  const spots = [0, blockCount - 1];
  for (let index = 0; index < SPOT_COUNT; index++) {
    const digest = createHash("sha256").update(`${seed}:${index}`).digest();
    spots.push(digest.readUIntBE(0, 6) % blockCount);
  }
  return spots;
}

export type FileHolder = { pid: number; command: string };

/** Other processes that have the file open for writing, as far as this user may see. */
export async function findOpenElsewhere(path: string): Promise<FileHolder[]> {
  const wanted = await stat(path);
  const holders: FileHolder[] = [];
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid || pid === process.ppid) continue;
    if (await hasOpen(pid, wanted)) holders.push({ pid, command: await commandOf(pid) });
  }
  return holders;
}

async function hasOpen(pid: number, wanted: { dev: number; ino: number; rdev: number }): Promise<boolean> {
  // A process may end, or belong to somebody else: then it says nothing.
  const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => []);
  for (const descriptor of descriptors) {
    const link = `/proc/${pid}/fd/${descriptor}`;
    const target = await readlink(link).catch(() => "");
    if (!target.startsWith("/")) continue;
    const found = await stat(link).catch(() => undefined);
    if (found === undefined) continue;
    const isDevice = wanted.rdev !== 0 && found.rdev === wanted.rdev;
    if (!isDevice && (found.dev !== wanted.dev || found.ino !== wanted.ino)) continue;
    if (await isForWriting(pid, descriptor)) return true;
  }
  return false;
}

async function isForWriting(pid: number, descriptor: string): Promise<boolean> {
  const info = await readFile(`/proc/${pid}/fdinfo/${descriptor}`, "utf8").catch(() => "");
  const flags = /^flags:\s*([0-7]+)/m.exec(info)?.[1];
  return flags !== undefined && (Number.parseInt(flags, 8) & 3) !== 0;
}

async function commandOf(pid: number): Promise<string> {
  const command = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
  return command.trim() || "unknown";
}
