/**
 * Reads dirty bitmaps of QEMU, exactly and block by block: QEMU tells their content to NBD clients only.
 *
 *     vbd0 ┄ bitmaps ──merge──▶ an empty node's bitmap ──QEMU's NBD server──▶ block status ──▶ BlockBitmap
 *
 * The guest's own node is never exported: it may be under an iothread, where QEMU 7.2 dies when an NBD client
 * leaves (`nbd_blockdev_client_closed`, an assertion), and its device allows no second user. A bitmap can be merged
 * into one of another node, so it is an empty one in the main thread that is exported.
 */

import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { BlockBitmap } from "../../../protocol/block-bitmap.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../../protocol/units.ts";
import { NbdClient } from "../../../storage/nbd/client.ts";
import { QmpError } from "../../qmp/errors.ts";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import { mapNode } from "../../qmp/vbd-nodes.ts";

/** Bitmaps of `node` to be read as one. They record no more. */
export type DisabledBitmaps = { node: string; bitmaps: readonly string[]; sizeBytes: number };

const MERGED = "merged";
const EXPORT_PREFIX = "sojourn-";
/** An NBD request's length has 32 bits. */
const STATUS_BYTES_MAX = 1 << 30;
const FLAG_DIRTY = 1;

/** `socketFolder`: where QEMU may make a socket for the moment. The bitmaps stay as they are. */
export async function readBitmaps(
  qmp: QmpClient,
  sources: readonly DisabledBitmaps[],
  { socketFolder }: { socketFolder: string },
): Promise<BlockBitmap[]> {
  const socketPath = join(socketFolder, `map-${randomBytes(5).toString("hex")}`);
  const maps = sources.map((source) => ({ ...source, holder: mapNode(source.node) }));
  try {
    // QEMU does them in order: no need to wait for each.
    await allOf([...maps.flatMap((map) => merge(qmp, map)), startServer(qmp, socketPath)]);
    await allOf(maps.map(({ holder }) => addExport(qmp, holder)));
    const bitmaps: BlockBitmap[] = [];
    for (const { holder, sizeBytes } of maps) {
      bitmaps.push(await readExport(socketPath, { name: holder, sizeBytes }));
    }
    return bitmaps;
  } finally {
    const exports = await qmp.execute("query-block-exports").catch(() => []);
    // One of somebody else's refused ours, and stays.
    const isOurs = maps.every(({ holder }) => exports.some((one) => one["node-name"] === holder));
    await Promise.allSettled([
      ...(isOurs ? [qmp.execute("nbd-server-stop")] : []),
      ...maps.map(({ holder }) => qmp.execute("blockdev-del", { "node-name": holder })),
    ]);
    rmSync(socketPath, { force: true });
  }
}

/** Waits for all, then fails with the first failure: QEMU goes on with the next command after one that failed. */
async function allOf(commands: readonly Promise<unknown>[]): Promise<void> {
  const results = await Promise.allSettled(commands);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** A new node of the same size that holds nothing but the bitmaps' union. */
function merge(
  qmp: QmpClient,
  { node, bitmaps, sizeBytes, holder }: DisabledBitmaps & { holder: string },
): Promise<unknown>[] {
  const granularity = BLOCK_SIZE_BYTES;
  return [
    qmp.execute("blockdev-add", {
      driver: "null-co",
      "node-name": holder,
      size: sizeBytes,
      "read-zeroes": true,
    }),
    qmp.execute("block-dirty-bitmap-add", { node: holder, name: MERGED, granularity, disabled: true }),
    qmp.execute("block-dirty-bitmap-merge", {
      node: holder,
      target: MERGED,
      bitmaps: bitmaps.map((name) => ({ node, name })),
    }),
  ];
}

function addExport(qmp: QmpClient, holder: string): Promise<unknown> {
  const id = `${EXPORT_PREFIX}${holder}`;
  return qmp.execute("block-export-add", {
    type: "nbd",
    id,
    "node-name": holder,
    name: holder,
    bitmaps: [MERGED],
  });
}

/** QEMU has one NBD server. One that we left running when we were killed is ended, anybody else's is not. */
async function startServer(qmp: QmpClient, path: string): Promise<void> {
  const addr = { type: "unix", data: { path } } as const;
  try {
    await qmp.execute("nbd-server-start", { addr });
  } catch (error) {
    if (!(error instanceof QmpError) || error.code !== "QMP_ERROR") throw error;
    const exports = (await qmp.execute("query-block-exports")).filter(({ type }) => type === "nbd");
    if (exports.some(({ id }) => !id.startsWith(EXPORT_PREFIX))) throw error;
    await qmp.execute("nbd-server-stop");
    await qmp.execute("nbd-server-start", { addr });
  }
}

async function readExport(
  unixPath: string,
  { name, sizeBytes }: { name: string; sizeBytes: number },
): Promise<BlockBitmap> {
  const context = `qemu:dirty-bitmap:${MERGED}`;
  const client = await NbdClient.connect({ unixPath }, { exportName: name, contexts: [context] });
  try {
    const bitmap = new BlockBitmap(blockCountOf(sizeBytes));
    for (let at = 0; at < sizeBytes; ) {
      const answer = await client.blockStatus(at, Math.min(STATUS_BYTES_MAX, sizeBytes - at));
      const extents = answer.get(context);
      if (extents === undefined || extents.length === 0)
        throw new Error("QEMU does not tell its dirty bitmap");
      for (const { length, flags } of extents) {
        if ((flags & FLAG_DIRTY) !== 0) addBytes(bitmap, { offset: at, length });
        at += length;
      }
    }
    return bitmap;
  } finally {
    await client.disconnect();
  }
}

function addBytes(bitmap: BlockBitmap, { offset, length }: { offset: number; length: number }): void {
  const start = Math.floor(offset / BLOCK_SIZE_BYTES);
  const end = Math.min(bitmap.blockCount, Math.ceil((offset + length) / BLOCK_SIZE_BYTES));
  bitmap.addRange(start, end - start);
}
