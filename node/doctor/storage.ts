/** The data folder and the file system that it lies on, as `sojourn doctor` finds them. */

import { existsSync } from "node:fs";
import { constants, type FileHandle, mkdtemp, open, rm, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LevelStore } from "../../storage/level-store.ts";
import { FALLOC_PUNCH_HOLE, linuxCalls } from "../../storage/linux.ts";
import { MetadataError } from "../../storage/metadata-errors.ts";
import { formatSize } from "../sizes.ts";
import type { Finding } from "./finding.ts";

const FREE_BYTES_MIN = 1 << 30;
const PAGE_BYTES = 4096;
const PROBE_BYTES = 1 << 20;
const FLUSHES = 20;
/** A migration's pause has a few flushes in a row: beyond that they are most of it. */
const FLUSH_MS_MAX = 5;

export async function examineStorage({
  dataDir,
  metadataFolder,
}: {
  dataDir: string;
  metadataFolder: string;
}): Promise<Finding[]> {
  const found = existsSync(dataDir);
  const folder = found ? dataDir : nearest(dataDir);
  const findings: Finding[] = [];
  const { bavail, bsize, type } = await statfs(folder);
  const freeBytes = bavail * bsize;
  const where = found ? dataDir : `${dataDir} is not there yet; ${folder}`;
  const free = `${where} has ${formatSize(freeBytes)} free (file system ${nameOf(type)})`;
  findings.push(
    freeBytes >= FREE_BYTES_MIN
      ? { what: "data folder", state: "ok", found: free, ...(found ? {} : { remedy: "sojourn init" }) }
      : {
          what: "data folder",
          state: "limited",
          found: free,
          costs: "domains whose vbds do not fit are refused",
          remedy: "make room, or put the folder on another disk with --data-dir",
        },
  );
  findings.push(...(await probe(folder)));
  findings.push(await examineMetadata(metadataFolder, folder));
  return findings;
}

/** Tries what vbds need in a file of its own, which is removed. */
async function probe(folder: string): Promise<Finding[]> {
  let scratch: string;
  try {
    scratch = await mkdtemp(join(folder, ".sojourn-doctor-"));
  } catch (error) {
    const found = `${folder} cannot be written to (${(error as NodeJS.ErrnoException).code})`;
    const remedy = "run the daemon as the folder's owner, or name another with --data-dir";
    return [
      { what: "its files", state: "missing", found, costs: "no daemon starts here", remedy, isNeeded: true },
    ];
  }
  try {
    const path = join(scratch, "probe");
    const file = await open(path, "w+", 0o600);
    try {
      return [await examineHoles(file), await examineFlush(file), await examineDirect(path)];
    } finally {
      await file.close();
    }
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function examineHoles(file: FileHandle): Promise<Finding> {
  const what = "holes";
  const calls = linuxCalls();
  if (calls === undefined) {
    return {
      what,
      state: "limited",
      found: "the native library koffi does not load here",
      costs: "freed blocks keep their space, and whole vbds are read where holes would do",
      remedy: "npm ci on this machine, so that koffi is installed for it",
    };
  }
  await file.truncate(PROBE_BYTES);
  await file.write(Buffer.alloc(2 * PAGE_BYTES, 1), 0, 2 * PAGE_BYTES, PROBE_BYTES / 2);
  const seesHole = calls.seekData(file.fd, 0) === PROBE_BYTES / 2;
  const punch = calls.fallocate(file.fd, {
    mode: FALLOC_PUNCH_HOLE,
    offset: PROBE_BYTES / 2,
    length: PAGE_BYTES,
  });
  if (seesHole && punch === 0) return { what, state: "ok", found: "seen, and punched by a guest's discard" };
  const lacking = [...(seesHole ? [] : ["seen"]), ...(punch === 0 ? [] : ["punched"])].join(" nor ");
  return {
    what,
    state: "limited",
    found: `holes of files are not ${lacking} on this file system`,
    costs: seesHole
      ? "a guest's discard gives no space back"
      : "a first visit reads the whole vbd, not what is allocated",
    remedy: "ext4, xfs or btrfs below the data folder",
  };
}

async function examineFlush(file: FileHandle): Promise<Finding> {
  const what = "flushes";
  const page = Buffer.alloc(PAGE_BYTES, 2);
  const times: number[] = [];
  for (let flush = 0; flush < FLUSHES; flush++) {
    const begunMs = performance.now();
    await file.write(page, 0, PAGE_BYTES, flush * PAGE_BYTES);
    await file.datasync();
    times.push(performance.now() - begunMs);
  }
  const medianMs = times.sort((a, b) => a - b)[FLUSHES / 2]!;
  const found = `4 KiB are on the disk after ${medianMs.toFixed(1)} ms (median of ${FLUSHES})`;
  if (medianMs <= FLUSH_MS_MAX) return { what, state: "ok", found };
  const costs = "the pause of every migration to or from here has several of them in a row";
  const remedy = "a disk with a write cache that survives a power cut, or one that nobody else keeps busy";
  return { what, state: "limited", found, costs, remedy };
}

async function examineDirect(path: string): Promise<Finding> {
  const what = "O_DIRECT";
  try {
    await (await open(path, constants.O_RDONLY | constants.O_DIRECT)).close();
    return { what, state: "ok", found: "files can be opened without the page cache" };
  } catch (error) {
    return {
      what,
      state: "limited",
      found: `refused (${(error as NodeJS.ErrnoException).code})`,
      costs: "a guest that wants its disk without the host's cache cannot have it",
      remedy: "a file system on a disk, not in memory or on an overlay",
    };
  }
}

async function examineMetadata(metadataFolder: string, folder: string): Promise<Finding> {
  const what = "LevelDB";
  const isThere = existsSync(metadataFolder);
  const scratch = isThere
    ? undefined
    : await mkdtemp(join(folder, ".sojourn-doctor-")).catch(() => undefined);
  try {
    const path = isThere ? metadataFolder : join(scratch ?? folder, "metadata");
    await (await LevelStore.open(path)).close();
    return { what, state: "ok", found: isThere ? `${metadataFolder} opens` : "opens a new one" };
  } catch (error) {
    if (error instanceof MetadataError && error.code === "METADATA_LOCKED") {
      return { what, state: "ok", found: `in use: ${error.message}` };
    }
    const found = error instanceof Error ? error.message : String(error);
    const remedy = "restore the folder, or `sojourn repair`";
    return { what, state: "missing", found, costs: "no daemon starts here", remedy, isNeeded: true };
  } finally {
    if (scratch !== undefined) await rm(scratch, { recursive: true, force: true });
  }
}

/** The folder, or the nearest one above it that is there. */
function nearest(folder: string): string {
  return existsSync(folder) ? folder : nearest(dirname(folder));
}

const FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0xef53, "ext4"],
  [0x58465342, "xfs"],
  [0x9123683e, "btrfs"],
  [0x2fc12fc1, "zfs"],
  [0x01021994, "tmpfs"],
  [0x794c7630, "overlayfs"],
  [0x6969, "nfs"],
]);

function nameOf(type: number): string {
  return FILE_SYSTEMS.get(type) ?? `0x${type.toString(16)}`;
}
