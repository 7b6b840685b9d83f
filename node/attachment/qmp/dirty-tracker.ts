/**
 * QEMU as the tracker of a domain's vbds: a dirty bitmap of 4 KiB granularity on each vbd's upper node, where
 * it survives every exchange of the child below.
 *
 *     sojourn-<generation>-<token>-1   disabled, read, removed          (an earlier harvest)
 *     sojourn-<generation>-<token>-2   recording
 *
 * QEMU marks a block when its write has ended and before the guest is told, whatever became of the write. A
 * harvest first adds a new bitmap and then disables the old one: a write that ends between the two is in both.
 * The bitmaps live in QEMU's memory. They tell everything while that process lives, and nothing afterwards; so
 * the dirty log of each vbd names this tracker as its owner for as long as it is needed.
 */

import { randomBytes } from "node:crypto";
import type { BlockBitmap } from "../../../protocol/block-bitmap.ts";
import { BLOCK_SIZE_BYTES, type Generation } from "../../../protocol/units.ts";
import type { BlockNodeInfo, TransactionAction } from "../../qmp/commands.ts";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import { readBitmaps } from "./bitmap-reader.ts";

const NAME = /^(sojourn-\d+-[0-9a-f]{16})-(\d+)$/;

export type TrackerOptions = { nodes: readonly string[]; socketFolder: string };

/** What was read and is still in QEMU: `forget` once it is durable elsewhere. */
export type Harvest = { written: readonly BlockBitmap[]; forget(): Promise<void> };

export class DirtyTracker {
  /** What a dirty log names. Tells apart every stay on a native path. */
  readonly id: string;
  readonly #nodes: readonly string[];
  readonly #socketFolder: string;

  constructor(id: string, { nodes, socketFolder }: TrackerOptions) {
    this.id = id;
    this.#nodes = nodes;
    this.#socketFolder = socketFolder;
  }

  /** Records from when this completes, on all nodes or none. */
  static async begin(qmp: QmpClient, generation: Generation, options: TrackerOptions): Promise<DirtyTracker> {
    const tracker = new DirtyTracker(`sojourn-${generation}-${randomBytes(8).toString("hex")}`, options);
    await qmp.execute("transaction", {
      actions: options.nodes.map((node) => addAction(node, `${tracker.id}-1`)),
    });
    return tracker;
  }

  /** What was written since it began, or since the last harvest. Throws when QEMU does not record any more. */
  async harvest(qmp: QmpClient): Promise<Harvest> {
    const before = await this.#find(qmp);
    const next = Math.max(...before.flatMap(({ bitmaps }) => bitmaps.map(({ number }) => number))) + 1;
    const actions = before.flatMap(({ node, bitmaps }): TransactionAction[] => [
      addAction(node, `${this.id}-${next}`),
      ...bitmaps.map(({ name }) => ({ type: "block-dirty-bitmap-disable" as const, data: { node, name } })),
    ]);
    await qmp.execute("transaction", { actions });
    return this.#read(qmp, before);
  }

  /**
   * The same, and it goes on recording: for when somebody else tracks too. A recording bitmap is how the next
   * process knows, should this one be killed, that nobody has stopped it in between.
   */
  async look(qmp: QmpClient): Promise<readonly BlockBitmap[]> {
    const { written } = await this.#read(qmp, await this.#find(qmp));
    return written;
  }

  /** Whether every node still records for it. */
  async isRecording(qmp: QmpClient): Promise<boolean> {
    return this.#find(qmp).then(
      () => true,
      (error) => {
        if (error instanceof TrackerGone) return false;
        throw error;
      },
    );
  }

  /** Removes its bitmaps, wherever they are left. */
  async drop(qmp: QmpClient): Promise<void> {
    const actions = (await nodesOf(qmp, this.#nodes)).flatMap((info): TransactionAction[] =>
      bitmapsOf(info)
        .filter(({ id }) => id === this.id)
        .map(({ name }) => ({
          type: "block-dirty-bitmap-remove",
          data: { node: info["node-name"]!, name },
        })),
    );
    if (actions.length > 0) await qmp.execute("transaction", { actions });
  }

  async #read(qmp: QmpClient, before: readonly Found[]): Promise<Harvest> {
    const sources = before.map(({ node, sizeBytes, bitmaps }) => {
      return { node, sizeBytes, bitmaps: bitmaps.map(({ name }) => name) };
    });
    const written = await readBitmaps(qmp, sources, { socketFolder: this.#socketFolder });
    const forget = async (): Promise<void> => {
      const actions = sources.flatMap(({ node, bitmaps }) =>
        bitmaps.map((name) => ({ type: "block-dirty-bitmap-remove" as const, data: { node, name } })),
      );
      await qmp.execute("transaction", { actions });
    };
    return { written, forget };
  }

  async #find(qmp: QmpClient): Promise<Found[]> {
    return (await nodesOf(qmp, this.#nodes)).map((info) => {
      const node = info["node-name"]!;
      const bitmaps = bitmapsOf(info).filter(({ id }) => id === this.id);
      if (!bitmaps.some(({ recording }) => recording)) throw new TrackerGone(node);
      return { node, bitmaps, sizeBytes: info.image["virtual-size"] };
    });
  }
}

type OwnBitmap = { id: string; name: string; number: number; recording: boolean };
type Found = { node: string; sizeBytes: number; bitmaps: readonly OwnBitmap[] };

/** QEMU lives and its bitmap is not there, or does not record: somebody else removed it. */
export class TrackerGone extends Error {
  constructor(node: string) {
    super(`QEMU does not record the writes of ${node} any more: its dirty bitmap was removed or disabled`);
    this.name = "TrackerGone";
  }
}

/** The ids of the trackers that some of the nodes have bitmaps of. */
export function trackersOf(nodes: readonly BlockNodeInfo[]): readonly string[] {
  return [...new Set(nodes.flatMap((info) => bitmapsOf(info).map(({ id }) => id)))];
}

/** The named nodes, in that order. Throws when QEMU lacks one. */
export async function nodesOf(qmp: QmpClient, names: readonly string[]): Promise<BlockNodeInfo[]> {
  const all = await qmp.execute("query-named-block-nodes", { flat: true });
  return names.map((name) => {
    const info = all.find((candidate) => candidate["node-name"] === name);
    if (info === undefined) throw new Error(`QEMU at ${qmp.path} has no block node ${name}`);
    return info;
  });
}

function bitmapsOf(info: BlockNodeInfo): OwnBitmap[] {
  return (info["dirty-bitmaps"] ?? []).flatMap(({ name = "", recording }) => {
    const match = NAME.exec(name);
    return match === null ? [] : [{ id: match[1]!, name, number: Number(match[2]), recording }];
  });
}

function addAction(node: string, name: string): TransactionAction {
  return { type: "block-dirty-bitmap-add", data: { node, name, granularity: BLOCK_SIZE_BYTES } };
}
