/**
 * Post-copy under everything at once: a guest that reads, writes, trims and flushes; a source that pushes, is asked
 * and sends twice; a link that breaks; a disk whose operations end in any order, or fail half way; and a daemon
 * that is killed, or loses power, at any operation of its presence log.
 *
 * Checked at every read and at the end: each unit holds a value that the guest's history allows. Never what the
 * disk held before the migration; after a loss of power nothing older than the last answered flush.
 */

import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { type BlockRun, blockCountOf } from "../../protocol/units.ts";
import { MissingBlockStore } from "../../storage/missing-block-store.ts";
import { PresenceLog } from "../../storage/presence-log.ts";
import { CrashingByteFile } from "./crashing-byte-file.ts";
import { bytesAsUnits, ManualBlockStore, UNIT_BYTES, unitsAsBytes } from "./manual-block-store.ts";
import { forSeeds, type Random, settle } from "./random.ts";

describe("missing store: any history with crashes", () => {
  it("shows the guest only its own history, and loses nothing that was flushed", async () => {
    await forSeeds(500, async (random) => {
      const world = new PostCopyWorld(random);
      await world.run();
    });
  });
});

/** `answeredAt` is infinite for a write that failed or was cut off: it may have happened, in part. */
type Entry = { values: Set<number>; answeredAt: number };

const STALE = 1_000_000;

class PostCopyWorld {
  readonly #random: Random;
  readonly #source: number[];
  readonly #history: Entry[][];
  #inner: ManualBlockStore;
  #file: CrashingByteFile;
  #store!: MissingBlockStore;
  #boot = 1;
  #life = 0;
  #clock = 0;
  #flushedAt = 0;
  #lastValue = 10_000;
  readonly #busy = new Set<number>();
  /** Blocks on their way from the source, perhaps twice. */
  #inTransit: number[] = [];
  #completions = 0;

  constructor(random: Random) {
    this.#random = random;
    const units = 3 + random.below(20);
    // Some of the source's blocks are zero and travel without bytes.
    this.#source = Array.from({ length: units }, (_, unit) =>
      Math.floor(unit / 2) % 4 === 3 ? 0 : 1000 + unit,
    );
    this.#history = this.#source.map((value) => [{ values: new Set([value]), answeredAt: 0 }]);
    this.#inner = new ManualBlockStore(random, { values: [], atOnce: 0 });
    this.#file = new CrashingByteFile(random);
  }

  async run(): Promise<void> {
    await this.#begin();
    const lives = 1 + this.#random.below(4);
    for (let life = 0; life < lives; life++) {
      await this.#live();
      if (life < lives - 1) await this.#crash();
    }
    await this.#finish();
  }

  async #begin(): Promise<void> {
    const blockCount = blockCountOf(this.#source.length * UNIT_BYTES);
    const missing = new BlockBitmap(blockCount);
    for (let block = 0; block < blockCount; block++) if (this.#random.chance(0.8)) missing.add(block);
    missing.add(this.#random.below(blockCount));
    const values = this.#source.map((value, unit) =>
      missing.has(Math.floor(unit / 2)) ? STALE + unit : value,
    );
    this.#inner = new ManualBlockStore(this.#random, { values, atOnce: this.#random.pick([0, 0.5, 1]) });
    this.#attach(await PresenceLog.create(this.#file, { ...this.#identity(), missing }));
  }

  #identity() {
    return { generation: 2, migration: "m-1", bootId: `boot-${this.#boot}` };
  }

  #attach(presence: PresenceLog): void {
    this.#life++;
    this.#completions = 0;
    this.#store = new MissingBlockStore({
      store: this.#inner,
      presence,
      pull: (runs) => this.#send(runs),
      onComplete: () => this.#completions++,
    });
  }

  #send(runs: readonly BlockRun[]): void {
    for (const { start, count } of runs) {
      for (let block = start; block < start + count; block++) this.#inTransit.push(block);
    }
  }

  async #live(): Promise<void> {
    this.#file.syncsAtOnce = this.#random.chance(0.5);
    this.#file.operationsLeft = this.#random.chance(0.5) ? this.#random.below(40) : Number.POSITIVE_INFINITY;
    const steps = this.#random.below(80);
    for (let step = 0; step < steps && !this.#file.dead; step++) {
      this.#step(this.#random.below(20));
      if (this.#random.chance(0.5)) await settle();
    }
  }

  #step(action: number): void {
    if (action < 2) this.#guestReads();
    else if (action < 6) this.#guestWrites();
    else if (action < 7) this.#guestFlushes();
    else if (action < 9) this.#push();
    else if (action < 12) this.#deliver();
    else if (action < 17) this.#inner.completeAny();
    else if (action < 18) this.#inner.failAny();
    else if (action < 19) this.#file.completeSync();
    else this.#breakLink();
  }

  #push(): void {
    const { missing } = this.#store;
    const block = missing.next(this.#random.below(missing.blockCount)) ?? missing.next(0);
    if (block !== undefined) this.#inTransit.push(block);
  }

  #deliver(): void {
    if (this.#inTransit.length === 0) return;
    const at = this.#random.below(this.#inTransit.length);
    const first = this.#inTransit[at]!;
    if (this.#random.chance(0.8)) this.#inTransit.splice(at, 1);
    const count = Math.min(1 + this.#random.below(3), this.#store.missing.blockCount - first);
    const runs: BlockRun[] = [];
    const zeroes: BlockRun[] = [];
    const values: number[] = [];
    for (let block = first; block < first + count; block++) {
      const units = this.#source.slice(block * 2, block * 2 + 2);
      if (units.every((value) => value === 0)) zeroes.push({ start: block, count: 1 });
      else {
        runs.push({ start: block, count: 1 });
        values.push(...units);
      }
    }
    void this.#attempt(() => this.#store.arrive(runs, zeroes, unitsAsBytes(values)));
  }

  #breakLink(): void {
    this.#inTransit = [];
    this.#send(this.#store.requestedAgain());
  }

  /** Units in blocks that no other operation of the guest uses now: as a page cache writes. */
  #lockedUnits(): { first: number; count: number; unlock: () => void } | undefined {
    const first = this.#random.below(this.#source.length);
    const count = 1 + this.#random.below(Math.min(6, this.#source.length - first));
    const blocks: number[] = [];
    for (let block = Math.floor(first / 2); block <= Math.floor((first + count - 1) / 2); block++)
      blocks.push(block);
    if (blocks.some((block) => this.#busy.has(block))) return undefined;
    for (const block of blocks) this.#busy.add(block);
    const unlock = (): void => {
      for (const block of blocks) this.#busy.delete(block);
    };
    return { first, count, unlock };
  }

  #guestReads(): void {
    const units = this.#lockedUnits();
    if (units === undefined) return;
    const target = new Uint8Array(units.count * UNIT_BYTES);
    void this.#attempt(() => this.#store.read(units.first * UNIT_BYTES, target)).then((outcome) => {
      if (outcome === "forgotten") return;
      units.unlock();
      if (outcome === "failed") return;
      for (const [index, value] of bytesAsUnits(target).entries()) this.#observe(units.first + index, value);
    });
  }

  #wrong: string | undefined;

  #observe(unit: number, value: number): void {
    const allowed = this.#allowed(unit, this.#clock);
    if (!allowed.has(value)) this.#wrong ??= `unit ${unit} reads ${value}, allowed: ${[...allowed]}`;
    this.#history[unit]!.push({ values: new Set([value]), answeredAt: ++this.#clock });
  }

  #guestWrites(): void {
    const units = this.#lockedUnits();
    if (units === undefined) return;
    const { first, count } = units;
    const kind = this.#random.pick(["write", "write", "write", "zeroes", "trim"]);
    const value = kind === "write" ? ++this.#lastValue : 0;
    const entries = Array.from({ length: count }, (_, index) => {
      const values = new Set([value]);
      if (kind === "trim") for (const before of this.#allowed(first + index, this.#clock)) values.add(before);
      const entry = { values, answeredAt: Number.POSITIVE_INFINITY };
      this.#history[first + index]!.push(entry);
      return entry;
    });
    const offset = first * UNIT_BYTES;
    const length = count * UNIT_BYTES;
    void this.#attempt(() => {
      if (kind === "trim") return this.#store.trim(offset, length);
      if (kind === "zeroes") return this.#store.writeZeroes(offset, length, { mayUnmap: true });
      return this.#store.write(offset, unitsAsBytes(new Array<number>(count).fill(value)));
    }).then((outcome) => {
      if (outcome === "forgotten") return;
      units.unlock();
      if (outcome === "done") for (const entry of entries) entry.answeredAt = ++this.#clock;
    });
  }

  #guestFlushes(): void {
    const begunAt = this.#clock;
    void this.#attempt(() => this.#store.flush()).then((outcome) => {
      if (outcome === "done") this.#flushedAt = Math.max(this.#flushedAt, begunAt);
    });
  }

  /** What an operation came to; "forgotten" when the daemon that was asked is no more. */
  async #attempt(operation: () => void | Promise<void>): Promise<"done" | "failed" | "forgotten"> {
    const life = this.#life;
    let outcome: "done" | "failed" = "done";
    try {
      const completion = operation();
      if (completion !== undefined) await completion;
    } catch {
      outcome = "failed";
    }
    return life === this.#life && !this.#file.dead ? outcome : "forgotten";
  }

  /** The values that a unit may hold when all that was answered until `durableAt` counts. */
  #allowed(unit: number, durableAt: number): Set<number> {
    const entries = this.#history[unit]!;
    const base = entries.findLastIndex(({ answeredAt }) => answeredAt <= durableAt);
    return new Set(entries.slice(base).flatMap(({ values }) => [...values]));
  }

  async #crash(): Promise<void> {
    // What the guest was told before the crash, it knows.
    await settle();
    const powerLost = this.#random.chance(0.5);
    this.#life++;
    this.#busy.clear();
    this.#inTransit = [];
    if (powerLost) this.#losePower();
    else {
      this.#file = this.#file.afterKill();
      this.#inner = this.#inner.afterKill();
    }
    await settle();
    const blockCount = blockCountOf(this.#source.length * UNIT_BYTES);
    this.#attach(await PresenceLog.open(this.#file, { ...this.#identity(), blockCount }));
  }

  #losePower(): void {
    this.#boot++;
    this.#file = this.#file.afterPowerLoss();
    const values = this.#inner.valuesAfterPowerLoss();
    this.#inner = new ManualBlockStore(this.#random, { values, atOnce: this.#random.pick([0, 0.5, 1]) });
    for (const [unit, entries] of this.#history.entries()) {
      const values = this.#allowed(unit, this.#flushedAt);
      entries.splice(0, entries.length, { values, answeredAt: 0 });
    }
  }

  async #finish(): Promise<void> {
    if (this.#file.dead) await this.#crash();
    this.#file.operationsLeft = Number.POSITIVE_INFINITY;
    this.#file.syncsAtOnce = true;
    this.#file.completeSync();
    const someMissing = this.#store.missing.population > 0;
    const busy = (): boolean => this.#store.missing.population > 0 || this.#inner.pending.length > 0;
    // Every operation of the guest ends, too: nobody waits for ever.
    for (let turn = 0; busy() || this.#busy.size > 0; turn++) {
      expect(turn, "turns to the end").toBeLessThan(10_000);
      this.#push();
      this.#deliver();
      this.#inner.completeAny();
      await settle();
    }
    expect(this.#wrong).toBeUndefined();
    if (someMissing) expect(this.#completions).toBe(1);
    await this.#checkAll();
    const begunAt = this.#clock;
    expect(await this.#driven(() => this.#store.flush())).toBe("done");
    this.#flushedAt = begunAt;
    this.#losePower();
    const options = { ...this.#identity(), blockCount: this.#store.missing.blockCount };
    expect((await PresenceLog.open(this.#file, options)).missing.population).toBe(0);
    for (const [unit, value] of this.#inner.values.entries()) this.#observe(unit, value);
    expect(this.#wrong).toBeUndefined();
  }

  async #driven(operation: () => void | Promise<void>): Promise<string | undefined> {
    let outcome: string | undefined;
    void this.#attempt(operation).then((found) => {
      outcome = found;
    });
    for (let turn = 0; turn < 1000 && outcome === undefined; turn++) {
      await settle();
      this.#inner.completeAny();
    }
    return outcome;
  }

  async #checkAll(): Promise<void> {
    const target = new Uint8Array(this.#source.length * UNIT_BYTES);
    expect(await this.#driven(() => this.#store.read(0, target))).toBe("done");
    for (const [unit, value] of bytesAsUnits(target).entries()) this.#observe(unit, value);
    expect(this.#wrong).toBeUndefined();
  }
}
