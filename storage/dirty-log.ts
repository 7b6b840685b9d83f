/**
 * The durable block-bitmap of the open generation of one vbd: every block that was ever written in it, whatever
 * crashes. It may name a block too many, and never one too few.
 *
 *     0          4096         8192
 *    | header   | activity   | fine map: one bit per block, 1 for written ...
 *
 * Two kinds of crash, two marks, both before the write is issued (DESIGN.md §4 rule 1):
 *
 * - The *fine map* is written to the page cache. It survives a `kill -9` of the daemon exactly, at the price of
 *   one `pwrite` per newly written block.
 * - The *activity* lists coarse regions. A region is durable there (`fdatasync`) before the first new block in it
 *   is written, and it stays until the fine map has been synced. After a loss of power every block of an active
 *   region counts as written, because its bits of the fine map may be lost. A region covers many blocks and
 *   stays active for long, so a sync is rare; many writes that wait for one share it.
 *
 * The invariant: **a bit that is set in memory is durable in the fine map, or its region is durably active.** So
 * a block whose bit is set costs nothing, and a region may leave once its bits are synced.
 */

import { BlockBitmap } from "../protocol/block-bitmap.ts";
import { assert } from "../protocol/errors.ts";
import type { BlockRun, Generation } from "../protocol/units.ts";
import { ACTIVITY_AREA_BYTES, ACTIVITY_SLOTS_MAX, ActivityArea } from "./activity-area.ts";
import { BitArea } from "./bit-area.ts";
import type { Completion } from "./block-store.ts";
import type { ByteFile } from "./byte-file.ts";
import { StorageError, storageErrorOf } from "./errors.ts";
import {
  decodeLogHeader,
  encodeLogHeader,
  headerMismatch,
  LOG_HEADER_BYTES,
  type LogHeader,
} from "./log-header.ts";
import { SharedSync } from "./shared-sync.ts";

const MAGIC = "SJdirty1";
const ACTIVITY_OFFSET = 4096;
const MAP_OFFSET = ACTIVITY_OFFSET + ACTIVITY_AREA_BYTES;

/** 4 MiB, as DRBD's extents: small enough that a crash costs little, large enough that a sync is rare. */
const REGION_BLOCKS = 1024;
/** 1 GiB of active regions: what a loss of power can declare written at most. */
const ACTIVE_REGIONS_MAX = 256;

export type DirtyLogOptions = {
  blockCount: number;
  generation: Generation;
  /** The kernel's current boot: decides whether the page cache of the last writer is still there. */
  bootId: string;
  /**
   * Trackers that still hold what they saw and did not hand over yet: a log that one of them owns is believed.
   * Without them only a log that nobody owns is.
   */
  owners?: readonly string[];
  regionBlocks?: number;
  activeRegionsMax?: number;
};

/** `trusted: false`: nobody knows what was written, and only digests can tell. The file was not changed. */
export type DirtyLogOpening = { trusted: true; log: DirtyLog } | { trusted: false; reason: string };

type Cover = { run: BlockRun; resolve: () => void; reject: (error: StorageError) => void };
type ActiveRegion = { slot: number; lastSet: number };

export class DirtyLog {
  readonly blockCount: number;
  readonly #file: ByteFile;
  readonly #map: BitArea;
  readonly #activity: ActivityArea;
  readonly #bootId: string;
  readonly #owners: readonly string[];
  readonly #regionBlocks: number;
  readonly #activeRegionsMax: number;
  #generation: Generation;
  #owner = "";
  #written: BlockBitmap;
  /** Durably active, least recently used first. */
  readonly #active = new Map<number, ActiveRegion>();
  readonly #freeSlots: number[] = [];
  /** Covers whose regions are not active yet, in the order they came. */
  #waiting: Cover[] = [];
  #activating: Promise<void> | undefined;
  /** Counts the times that bits were set, and how many of them are durable in the fine map. */
  #setCount = 0;
  #setCountDurable = 0;
  readonly #sync: SharedSync;
  #failure: StorageError | undefined;
  #resetting = false;
  #closing: Promise<void> | undefined;

  private constructor(file: ByteFile, options: DirtyLogOptions, written: BlockBitmap) {
    this.#file = file;
    this.blockCount = options.blockCount;
    this.#generation = options.generation;
    this.#bootId = options.bootId;
    this.#owners = ["", ...(options.owners ?? [])];
    this.#regionBlocks = options.regionBlocks ?? REGION_BLOCKS;
    this.#activeRegionsMax = options.activeRegionsMax ?? ACTIVE_REGIONS_MAX;
    assert(this.#activeRegionsMax >= 1 && this.#activeRegionsMax <= ACTIVITY_SLOTS_MAX);
    this.#map = new BitArea(file, { offset: MAP_OFFSET, blockCount: options.blockCount });
    this.#activity = new ActivityArea(file, { offset: ACTIVITY_OFFSET });
    this.#written = written;
    this.#sync = new SharedSync(() => this.#fdatasync());
    this.#forgetActivity();
  }

  /**
   * Begins a log in an empty or used file; what the file held is lost. Durable when it completes, and until then
   * the file is a log that nobody believes. `written`: what is written already, none by default; the log owns it.
   * Never make an empty log first and cover its blocks then: a crash in between leaves one that says nothing was
   * written, and is believed.
   */
  static async create(
    file: ByteFile,
    options: DirtyLogOptions,
    written = new BlockBitmap(options.blockCount),
  ): Promise<DirtyLog> {
    assert(written.blockCount === options.blockCount, "a bitmap of another size");
    const log = new DirtyLog(file, options, written);
    await log.#initialise();
    return log;
  }

  /** Reads the log after a restart of the daemon or of the host. */
  static async open(file: ByteFile, options: DirtyLogOptions): Promise<DirtyLogOpening> {
    const log = new DirtyLog(file, options, new BlockBitmap(options.blockCount));
    const reason = await log.#load();
    return reason === undefined ? { trusted: true, log } : { trusted: false, reason };
  }

  get generation(): Generation {
    return this.#generation;
  }

  /** The tracker that saw writes which are not in the log; empty when there is none. */
  get owner(): string {
    return this.#owner;
  }

  /**
   * Durable when it completes. From then on writes may pass the log by, which `owner` sees and adds to it later:
   * until it is "" again, whoever opens the log without that tracker is told that it cannot be believed.
   */
  async setOwner(owner: string): Promise<void> {
    this.#checkOpen("setOwner");
    this.#owner = owner;
    this.#storeHeader("open");
    await this.#sync.request();
  }

  /** Everything written in the generation, also writes still on their way. To be read only; `reset` replaces it. */
  get written(): BlockBitmap {
    return this.#written;
  }

  /**
   * Completes when a crash of any kind can no longer forget that the blocks were written: only then may the
   * write be issued. Completes in the call when nothing is new. When it fails the write must not be issued.
   */
  cover(start: number, count: number): Completion {
    this.#checkOpen("cover");
    if (this.#resetting) throw new StorageError({ code: "STORAGE_FENCED", operation: "cover" });
    if (count === 0) return;
    const first = this.#firstUnwritten(start, start + count);
    if (first === undefined) return;
    const run = { start: first, count: start + count - first };
    const rest = this.#setWhereActive(run);
    if (rest === undefined) return;
    return new Promise((resolve, reject) => {
      this.#waiting.push({ run: rest, resolve, reject });
      this.#activating ??= this.#activateWaiting();
    });
  }

  /** Makes the fine map durable, and so everything that was covered before. Nothing to do when nothing is new. */
  flush(): Completion {
    this.#checkOpen("flush");
    if (this.#setCountDurable === this.#setCount) return;
    return this.#sync.request();
  }

  /** Begins a new generation with nothing written. The caller has fenced the vbd: no cover may wait. */
  async reset(generation: Generation): Promise<void> {
    this.#checkOpen("reset");
    assert(this.#waiting.length === 0 && this.#activating === undefined, "reset while writes are under way");
    this.#resetting = true;
    this.#generation = generation;
    this.#written = new BlockBitmap(this.blockCount);
    try {
      await this.#sync.idle();
      await this.#initialise();
    } catch (error) {
      throw this.#fail(error);
    } finally {
      this.#resetting = false;
    }
  }

  /**
   * Waits for what is under way. `clean` says that no write follows: then the fine map alone tells everything,
   * under any boot. Idempotent.
   */
  close(options: { clean: boolean }): Promise<void> {
    this.#closing ??= this.#close(options.clean);
    return this.#closing;
  }

  async #close(clean: boolean): Promise<void> {
    await this.#activating;
    try {
      if (clean && this.#failure === undefined) {
        await this.#sync.request();
        this.#storeHeader("clean");
        await this.#file.fdatasync();
      }
    } finally {
      await this.#sync.idle();
      await this.#file.close();
    }
  }

  /** Order: no crash may leave an old map or an old activity under a header that is believed. */
  async #initialise(): Promise<void> {
    this.#storeHeader("making");
    const sizeBytes = MAP_OFFSET + this.#map.sizeBytes;
    if (this.#file.size() < sizeBytes) this.#file.pwrite(sizeBytes - 1, new Uint8Array(1));
    await this.#file.fdatasync();
    this.#forgetActivity();
    this.#activity.store(this.#generation);
    this.#map.storeAll(this.#written);
    await this.#file.fdatasync();
    this.#storeHeader("open");
    await this.#file.fdatasync();
    this.#setCountDurable = this.#setCount;
  }

  /** Undefined, or why the log cannot be believed. */
  async #load(): Promise<string | undefined> {
    const fileBytes = this.#file.size();
    if (fileBytes < LOG_HEADER_BYTES) return `it has only ${fileBytes} octets`;
    const sector = new Uint8Array(LOG_HEADER_BYTES);
    this.#file.pread(0, sector);
    const header = decodeLogHeader(sector, MAGIC);
    if (typeof header === "string") return header;
    const { owner: _owner, ...expected } = this.#header("open");
    const mismatch = headerMismatch(header, expected);
    if (mismatch !== undefined) return mismatch;
    if (header.state === "making") return "it was cut short while it was begun";
    if (header.state === "failed") return "the disk failed under it";
    if (!this.#owners.includes(header.owner))
      return `only ${header.owner} knew of the last writes, and it is gone`;
    this.#owner = header.owner;
    const sizeBytes = MAP_OFFSET + this.#map.sizeBytes;
    if (fileBytes < sizeBytes) return `it has ${fileBytes} octets and not ${sizeBytes}`;

    const written = this.#map.load();
    if (written === undefined) return "its map has bits beyond the last block";
    if (header.state === "open" && header.bootId !== this.#bootId) {
      const regions = this.#activity.load(this.#generation);
      if (regions === undefined) return "its activity is damaged";
      for (const region of regions) {
        const start = region * this.#regionBlocks;
        if (start >= this.blockCount) return "its activity names a region beyond the last block";
        written.addRange(start, Math.min(this.#regionBlocks, this.blockCount - start));
      }
      // Now the map says by itself what it said together with the activity.
      this.#map.storeAll(written);
    }
    this.#written = written;
    // A log that was closed in order is on the disk, and opening one is part of a migration's downtime.
    if (header.state !== "clean") await this.#file.fdatasync();
    await this.#adopt();
    return undefined;
  }

  /**
   * The file is used further under the current boot. Its map is durable: until it was, the old activity and boot id
   * are what made it whole.
   */
  async #adopt(): Promise<void> {
    this.#forgetActivity();
    this.#activity.store(this.#generation);
    this.#storeHeader("open");
    await this.#file.fdatasync();
  }

  #checkOpen(operation: string): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#closing !== undefined) throw new StorageError({ code: "STORAGE_CLOSED", operation });
  }

  #firstUnwritten(start: number, end: number): number | undefined {
    if (!this.#written.has(start)) return start;
    if (end === start + 1) return undefined;
    const unwritten = start + this.#written.nextRun(start, end - start)!.count;
    return unwritten < end ? unwritten : undefined;
  }

  /** Sets the bits of `run` as far as its regions are active; returns the rest. */
  #setWhereActive(run: BlockRun): BlockRun | undefined {
    const end = run.start + run.count;
    for (let start = run.start; start < end; ) {
      const region = Math.floor(start / this.#regionBlocks);
      const active = this.#active.get(region);
      if (active === undefined) return { start, count: end - start };
      const stop = Math.min(end, (region + 1) * this.#regionBlocks);
      const part = { start, count: stop - start };
      // The file first: when that fails nothing was promised.
      this.#map.storeRun(part, true, (block) => this.#written.has(block));
      this.#written.addRange(part.start, part.count);
      active.lastSet = ++this.#setCount;
      this.#active.delete(region);
      this.#active.set(region, active);
      start = stop;
    }
    return undefined;
  }

  /** Runs while covers wait: activates the regions of all of them with one sync, as many as there is room for. */
  async #activateWaiting(): Promise<void> {
    try {
      // Covers of the same turn of the event loop join the first sync.
      await null;
      while (this.#waiting.length > 0) {
        const wanted = this.#regionsWanted();
        await this.#makeRoomFor(wanted.size);
        const slots = [...wanted].map((region) => ({ region, slot: this.#freeSlots.pop()! }));
        for (const { region, slot } of slots) this.#activity.set(slot, region);
        this.#activity.store(this.#generation);
        await this.#sync.request();
        for (const { region, slot } of slots) this.#active.set(region, { slot, lastSet: 0 });
        this.#advanceWaiting();
      }
    } catch (error) {
      const failure = this.#fail(error);
      for (const cover of this.#waiting) cover.reject(failure);
      this.#waiting = [];
    } finally {
      this.#activating = undefined;
    }
  }

  /** In the order of the covers, so that a large one cannot starve those behind it, nor they the large one. */
  #regionsWanted(): Set<number> {
    const wanted = new Set<number>();
    for (const { run } of this.#waiting) {
      const last = Math.floor((run.start + run.count - 1) / this.#regionBlocks);
      for (let region = Math.floor(run.start / this.#regionBlocks); region <= last; region++) {
        if (wanted.size === this.#activeRegionsMax) return wanted;
        if (!this.#active.has(region)) wanted.add(region);
      }
    }
    return wanted;
  }

  async #makeRoomFor(count: number): Promise<void> {
    if (this.#freeSlots.length >= count) return;
    // A quarter at once: a vbd that is written all over syncs the map once for many regions.
    const victims = Math.min(
      this.#active.size,
      Math.max(count - this.#freeSlots.length, Math.floor(this.#activeRegionsMax / 4)),
    );
    const leaving = [...this.#active].slice(0, victims);
    // First out of the active ones, so that no bit is set in them behind the back of the sync.
    for (const [region] of leaving) this.#active.delete(region);
    if (leaving.some(([, { lastSet }]) => lastSet > this.#setCountDurable)) await this.#sync.request();
    for (const [, { slot }] of leaving) {
      this.#activity.set(slot, undefined);
      this.#freeSlots.push(slot);
    }
  }

  #advanceWaiting(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const cover of waiting) {
      try {
        const rest = this.#setWhereActive(cover.run);
        if (rest === undefined) cover.resolve();
        else this.#waiting.push({ ...cover, run: rest });
      } catch (error) {
        cover.reject(storageErrorOf(error, "cover"));
      }
    }
  }

  async #fdatasync(): Promise<void> {
    const setCount = this.#setCount;
    try {
      await this.#file.fdatasync();
    } catch (error) {
      throw this.#fail(error);
    }
    this.#setCountDurable = Math.max(this.#setCountDurable, setCount);
  }

  /** After a failed sync nobody knows what is durable: no write is covered any more, and no successor trusts it. */
  #fail(error: unknown): StorageError {
    const failure = storageErrorOf(error, "dirty log");
    this.#failure ??= failure;
    try {
      this.#storeHeader("failed");
    } catch {
      // Then the header stays; the bits that it vouches for are in the page cache as long as this boot lasts.
    }
    return failure;
  }

  #forgetActivity(): void {
    this.#active.clear();
    this.#activity.clear();
    this.#freeSlots.length = 0;
    for (let slot = this.#activeRegionsMax - 1; slot >= 0; slot--) this.#freeSlots.push(slot);
  }

  #storeHeader(state: LogHeader["state"]): void {
    this.#file.pwrite(0, encodeLogHeader(this.#header(state)));
  }

  #header(state: LogHeader["state"]): LogHeader {
    const { blockCount } = this;
    const generation = this.#generation;
    const scale = this.#regionBlocks;
    return { magic: MAGIC, blockCount, generation, state, scale, bootId: this.#bootId, owner: this.#owner };
  }
}
