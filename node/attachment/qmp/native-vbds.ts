/**
 * The vbds of a domain while QEMU has them on their files or devices itself. We only look: what we know of its
 * writes is as of the last harvest.
 */

import { statSync } from "node:fs";
import type { BlockBitmap } from "../../../protocol/block-bitmap.ts";
import { blockCountOf, type Generation } from "../../../protocol/units.ts";
import type { BlockStore } from "../../../storage/block-store.ts";
import { FdByteFile } from "../../../storage/byte-file.ts";
import { DeviceBlockStore } from "../../../storage/device-block-store.ts";
import { DirtyLog } from "../../../storage/dirty-log.ts";
import { FileBlockStore } from "../../../storage/file-block-store.ts";
import { sizeOfPath } from "../../../storage/path-size.ts";
import { NodeError } from "../../errors.ts";
import { addToLog, type NbdVbd } from "../nbd-attachment.ts";
import type { DirtyTracker } from "./dirty-tracker.ts";

export class NativeVbds {
  readonly tracker: DirtyTracker;
  readonly stores: readonly BlockStore[];
  /** As of the last harvest. */
  written: readonly BlockBitmap[] = [];

  constructor(vbds: readonly NbdVbd[], tracker: DirtyTracker) {
    this.tracker = tracker;
    this.stores = vbds.map((vbd) => openForReading(vbd));
  }

  async flush(): Promise<void> {
    await Promise.all(this.stores.map((store) => store.flush()));
  }

  async close(): Promise<void> {
    await Promise.all(this.stores.map((store) => store.close()));
  }
}

/** Adds a harvest to the vbd's log, durably, and returns all that the log knows. The log stays its tracker's. */
export async function addHarvest(
  vbd: NbdVbd,
  { tracker, written }: { tracker: string; written: BlockBitmap },
  { generation, bootId }: { generation: Generation; bootId: string },
): Promise<BlockBitmap> {
  const options = { generation, bootId, blockCount: blockCountOf(vbd.sizeBytes), owners: [tracker] };
  const opened = await DirtyLog.open(FdByteFile.open(vbd.dirtyLogPath), options);
  if (!opened.trusted) throw new Error(`the log of ${vbd.name}'s writes cannot be used: ${opened.reason}`);
  try {
    await addToLog(opened.log, written);
    return opened.log.written.clone();
  } finally {
    await opened.log.close({ clean: true });
  }
}

/** Throws VBD_RESIZED: a vbd that was resized behind our back has blocks that no bitmap of ours has. */
export function refuseResized(vbds: readonly NbdVbd[]): void {
  for (const { name, path, sizeBytes } of vbds) {
    const foundBytes = sizeOfPath(path);
    const fits = statSync(path).isBlockDevice() ? foundBytes >= sizeBytes : foundBytes === sizeBytes;
    if (!fits) throw new NodeError("VBD_RESIZED", { vbd: `${name} (${path})`, sizeBytes, foundBytes });
  }
}

function openForReading({ path, sizeBytes }: NbdVbd): BlockStore {
  const isDevice = statSync(path).isBlockDevice();
  const Store = isDevice ? DeviceBlockStore : FileBlockStore;
  return Store.open(path, { sizeBytes, readOnly: true });
}
