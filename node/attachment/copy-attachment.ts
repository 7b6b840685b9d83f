/**
 * A domain's copies while they are being received: plain files or devices, which no guest can reach. A block
 * that arrives is newer than what is there, by the order of the source's stream.
 */

import { statSync } from "node:fs";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { VbdIndex } from "../../protocol/messages.ts";
import { blockCountOf, byteRangeOf } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import { DeviceBlockStore } from "../../storage/device-block-store.ts";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import type { ArrivalCounts, ArrivedBlocks, Copies } from "./attachment.ts";

export type CopyFile = { path: string; sizeBytes: number };

/** The bytes at `path`, whatever they lie on. Fails when the size is another one. */
export function openCopy({ path, sizeBytes }: CopyFile): BlockStore {
  const isDevice = statSync(path).isBlockDevice();
  return isDevice ? DeviceBlockStore.open(path, { sizeBytes }) : FileBlockStore.open(path, { sizeBytes });
}

export class CopyAttachment implements Copies {
  readonly #stores: readonly BlockStore[];

  private constructor(stores: readonly BlockStore[]) {
    this.#stores = stores;
  }

  static open(files: readonly CopyFile[]): CopyAttachment {
    return new CopyAttachment(files.map((file) => openCopy(file)));
  }

  store(vbd: VbdIndex): BlockStore {
    return this.#stores[vbd]!;
  }

  async arrive(vbd: VbdIndex, { runs, zeroes, data }: ArrivedBlocks): Promise<void> {
    const store = this.#stores[vbd]!;
    let from = 0;
    for (const run of runs) {
      const { offset, length } = byteRangeOf(run, store.sizeBytes);
      await store.write(offset, data.subarray(from, from + length));
      from += length;
    }
    for (const run of zeroes) {
      const { offset, length } = byteRangeOf(run, store.sizeBytes);
      await store.writeZeroes(offset, length, { mayUnmap: true });
    }
  }

  async flush(): Promise<void> {
    await Promise.all(this.#stores.map((store) => store.flush()));
  }

  missing(): readonly BlockBitmap[] {
    return this.#stores.map(({ sizeBytes }) => new BlockBitmap(blockCountOf(sizeBytes)));
  }

  counts(): ArrivalCounts {
    return { pushed: 0, pulled: 0, superseded: 0, late: 0 };
  }

  waitedFor(): readonly [] {
    return [];
  }

  async close(): Promise<void> {
    await Promise.all(this.#stores.map((store) => store.close()));
  }
}
