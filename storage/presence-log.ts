/**
 * The durable record of what is still missing of one vbd at the destination of a migration in post-copy.
 *
 *     0          4096           +-------------------+-- next page -----+
 *    | header   | volatile map  (1: still missing)  | durable map      |
 *
 * Two maps, because there are two ways to stop in the middle.
 *
 * After a `kill -9` of the daemon the page cache is still there, and with it every write that was answered. The
 * *volatile map* is written (to the page cache) after a block's data and before that write is answered, so it is
 * exactly as new as the data: a block whose bit is still set has at most a write that nobody was told of, and
 * may be overwritten by the source's version. It counts only under the boot id that it was written under.
 *
 * After a loss of power an unflushed write may be gone. If presence had become durable before the data, the
 * block would count as present and read as what this disk held before: a replica's generation, older than the
 * source's, which no history of the guest allows. So the *durable map* drops a block only after an `fdatasync`
 * of the data, and says missing until then: a lost unflushed write falls back to the source's version, as a
 * lost unflushed write may. A guest's flush is answered only after the durable map is, or else a pulled block
 * could overwrite a write that had been flushed.
 */

import { BlockBitmap } from "../protocol/block-bitmap.ts";
import { assert } from "../protocol/errors.ts";
import type { BlockRun, Generation } from "../protocol/units.ts";
import { BitArea } from "./bit-area.ts";
import type { Completion } from "./block-store.ts";
import type { ByteFile } from "./byte-file.ts";
import { StorageError } from "./errors.ts";
import {
  decodeLogHeader,
  encodeLogHeader,
  headerMismatch,
  LOG_HEADER_BYTES,
  type LogHeader,
} from "./log-header.ts";

const MAGIC = "SJpresen";
const PAGE_BYTES = 4096;

export type PresenceLogIdentity = {
  generation: Generation;
  migration: string;
  /** The kernel's current boot. */
  bootId: string;
};

export class PresenceLog {
  readonly #file: ByteFile;
  readonly #volatile: BitArea;
  readonly #durable: BitArea;
  readonly #missing: BlockBitmap;
  /** Present, and perhaps not on the disk yet: still missing in the durable map. */
  #unflushed: BlockBitmap;
  #flushing = false;
  #closed = false;

  private constructor(file: ByteFile, areas: Areas, missing: BlockBitmap, unflushed: BlockBitmap) {
    this.#file = file;
    this.#volatile = areas.volatile;
    this.#durable = areas.durable;
    this.#missing = missing;
    this.#unflushed = unflushed;
  }

  /** Begins the record in an empty or used file; what the file held is lost. Durable when it completes. */
  static async create(
    file: ByteFile,
    options: PresenceLogIdentity & { missing: BlockBitmap },
  ): Promise<PresenceLog> {
    const { missing } = options;
    const areas = areasOf(file, missing.blockCount);
    // Before anything else, so that no crash leaves old maps under a header that is believed. A new file has neither.
    if (file.size() > 0) {
      file.pwrite(0, encodeLogHeader(headerOf(options, missing.blockCount, "making")));
      await file.fdatasync();
    }
    if (file.size() < areas.sizeBytes) file.pwrite(areas.sizeBytes - 1, new Uint8Array(1));
    areas.volatile.storeAll(missing);
    areas.durable.storeAll(missing);
    await file.fdatasync();
    file.pwrite(0, encodeLogHeader(headerOf(options, missing.blockCount, "open")));
    await file.fdatasync();
    return new PresenceLog(file, areas, missing.clone(), new BlockBitmap(missing.blockCount));
  }

  /**
   * Reads the record after a restart. `STORAGE_CORRUPT` when it is torn or another migration's: then nobody
   * knows what this copy lacks, and only the source's record or a comparison of digests can tell.
   */
  static async open(
    file: ByteFile,
    options: PresenceLogIdentity & { blockCount: number },
  ): Promise<PresenceLog> {
    const { blockCount } = options;
    const areas = areasOf(file, blockCount);
    const header = readHeader(file, headerOf(options, blockCount, "open"), areas.sizeBytes);
    const durable = areas.durable.load();
    if (durable === undefined) throw corrupt("its durable map has bits beyond the last block");
    if (header.bootId === options.bootId) {
      // A killed flush may have written the durable map and not synced it. Nobody would sync it again.
      await file.fdatasync();
      const missing = areas.volatile.load();
      if (missing === undefined) throw corrupt("its volatile map has bits beyond the last block");
      const unflushed = durable.clone();
      unflushed.subtract(missing);
      if (unflushed.population + missing.population !== durable.population) {
        throw corrupt("a block is missing in its volatile map and present in its durable map");
      }
      return new PresenceLog(file, areas, missing, unflushed);
    }
    // The header last: until it says so, the volatile map is not believed.
    areas.volatile.storeAll(durable);
    file.pwrite(0, encodeLogHeader(headerOf(options, blockCount, "open")));
    await file.fdatasync();
    return new PresenceLog(file, areas, durable, new BlockBitmap(blockCount));
  }

  /** The blocks that are not here. To be read only. */
  get missing(): BlockBitmap {
    return this.#missing;
  }

  /** The blocks' data has landed: they are missing no more. In the file too, when this returns. */
  markPresent(run: BlockRun): void {
    if (this.#closed) throw new StorageError({ code: "STORAGE_CLOSED", operation: "markPresent" });
    this.#volatile.storeRun(run, false, (block) => this.#missing.has(block));
    this.#missing.deleteRange(run.start, run.count);
    this.#unflushed.addRange(run.start, run.count);
  }

  /** Whether a flush of the data has presence to make durable after it. */
  get flushNeeded(): boolean {
    return this.#unflushed.population > 0;
  }

  /**
   * Flushes the data by `flushData` and then makes durable that the blocks present *before* are. One call at a
   * time. When either fails nothing counts as durable, and the next call tries again.
   */
  async flush(flushData: () => Completion): Promise<void> {
    assert(!this.#flushing, "flushes of a presence log overlap");
    this.#flushing = true;
    const flushed = this.#unflushed;
    this.#unflushed = new BlockBitmap(this.#missing.blockCount);
    try {
      await flushData();
      if (flushed.population === 0) return;
      for (const run of flushed.runs()) {
        // Blocks of this flush that lie behind in the loop share octets too: they are not missing any more.
        this.#durable.storeRun(run, false, (block) => this.#missing.has(block) || this.#unflushed.has(block));
      }
      await this.#file.fdatasync();
    } catch (error) {
      this.#unflushed.union(flushed);
      throw error;
    } finally {
      this.#flushing = false;
    }
  }

  /** Idempotent. Keeps the file: the record is needed until the migration is over. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#file.close();
  }
}

type Areas = { volatile: BitArea; durable: BitArea; sizeBytes: number };

function areasOf(file: ByteFile, blockCount: number): Areas {
  const volatile = new BitArea(file, { offset: PAGE_BYTES, blockCount });
  const durableOffset = PAGE_BYTES + Math.ceil(volatile.sizeBytes / PAGE_BYTES) * PAGE_BYTES;
  const durable = new BitArea(file, { offset: durableOffset, blockCount });
  return { volatile, durable, sizeBytes: durableOffset + durable.sizeBytes };
}

function headerOf(identity: PresenceLogIdentity, blockCount: number, state: LogHeader["state"]): LogHeader {
  const { generation, migration, bootId } = identity;
  return { magic: MAGIC, blockCount, generation, state, scale: 0, bootId, owner: migration };
}

function readHeader(file: ByteFile, expected: LogHeader, sizeBytes: number): LogHeader {
  const fileBytes = file.size();
  if (fileBytes < LOG_HEADER_BYTES) throw corrupt(`it has only ${fileBytes} octets`);
  const sector = new Uint8Array(LOG_HEADER_BYTES);
  file.pread(0, sector);
  const header = decodeLogHeader(sector, MAGIC);
  if (typeof header === "string") throw corrupt(header);
  const mismatch = headerMismatch(header, expected);
  if (mismatch !== undefined) throw corrupt(mismatch);
  if (header.state !== "open") throw corrupt(`it is in state ${header.state}`);
  if (fileBytes < sizeBytes) throw corrupt(`it has ${fileBytes} octets and not ${sizeBytes}`);
  return header;
}

function corrupt(reason: string): StorageError {
  return new StorageError({ code: "STORAGE_CORRUPT", what: "presence log", reason });
}
