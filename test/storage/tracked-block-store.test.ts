import { afterEach, describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BLOCK_SIZE_BYTES, blockCountOf, byteRangeOf } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import { DirtyLog } from "../../storage/dirty-log.ts";
import { MemoryBlockStore } from "../../storage/memory-block-store.ts";
import { TrackedBlockStore } from "../../storage/tracked-block-store.ts";
import { blockStoreContract, pattern } from "../contract/block-store.contract.ts";
import { CrashingByteFile } from "./crashing-byte-file.ts";
import { ManualBlockStore, UNIT_BYTES, unitsAsBytes } from "./manual-block-store.ts";
import { forSeeds, Random, settle } from "./random.ts";

async function newLog(blockCount: number): Promise<{ log: DirtyLog; file: CrashingByteFile }> {
  const file = new CrashingByteFile(new Random(1));
  const options = { blockCount, generation: 1, bootId: "boot", regionBlocks: 4, activeRegionsMax: 3 };
  return { log: await DirtyLog.create(file, options), file };
}

async function tracked(store: BlockStore): Promise<{ store: TrackedBlockStore; file: CrashingByteFile }> {
  const { log, file } = await newLog(blockCountOf(store.sizeBytes));
  return { store: new TrackedBlockStore({ store, log }), file };
}

blockStoreContract("tracked", async (options) => {
  const { store } = await tracked(new MemoryBlockStore(options));
  store.startRound();
  return store;
});

/** Nothing completes by itself. */
const manual = (units = 40) =>
  new ManualBlockStore(new Random(1), { values: new Array<number>(units).fill(7), atOnce: 0 });

const one = () => unitsAsBytes([1, 1]);

describe("tracked store: writes", () => {
  const opened: TrackedBlockStore[] = [];
  afterEach(() => Promise.all(opened.splice(0).map((store) => store.close())));

  it("are not issued before the intent is durable", async () => {
    const inner = manual();
    const { store, file } = await tracked(inner);
    opened.push(store);
    file.syncsAtOnce = false;
    const written = store.write(0, one());
    await settle();
    expect(inner.pending).toEqual([]);
    file.completeSync();
    await settle();
    expect(inner.pending).toHaveLength(1);
    expect(store.written.has(0)).toBe(true);
    inner.completeAny();
    await written;
    file.syncsAtOnce = true;
  });

  it("fail and are not issued when the intent cannot be made durable", async () => {
    const inner = manual();
    const { store, file } = await tracked(inner);
    file.syncsAtOnce = false;
    const written = store.write(0, one());
    await settle();
    file.failSync();
    await expect(written).rejects.toMatchObject({ code: "STORAGE_IO" });
    expect(inner.values).toEqual(new Array(40).fill(7));
    expect(inner.pending).toEqual([]);
    await store.close();
  });

  it("complete in the call when nothing is new and the store does", async () => {
    const { store } = await tracked(new MemoryBlockStore({ sizeBytes: 1 << 20 }));
    opened.push(store);
    await store.write(0, pattern(4096, 1));
    expect(store.write(0, pattern(4096, 2))).toBeUndefined();
    expect(store.write(100, pattern(10, 2))).toBeUndefined();
  });

  it("of every kind count, in every block they touch", async () => {
    const { store } = await tracked(new MemoryBlockStore({ sizeBytes: 20 * BLOCK_SIZE_BYTES + 5 }));
    opened.push(store);
    store.startRound();
    await store.write(BLOCK_SIZE_BYTES - 1, pattern(2, 1));
    await store.writeZeroes(5 * BLOCK_SIZE_BYTES, 1, { mayUnmap: true });
    await store.trim(7 * BLOCK_SIZE_BYTES + 9, BLOCK_SIZE_BYTES);
    await store.write(20 * BLOCK_SIZE_BYTES + 4, pattern(1, 1));
    await store.read(10 * BLOCK_SIZE_BYTES, new Uint8Array(BLOCK_SIZE_BYTES));
    expect([...store.takeRound()]).toEqual([0, 1, 5, 7, 8, 20]);
    expect([...store.written]).toEqual([0, 1, 5, 7, 8, 20]);
  });

  it("count in the round in which they land, also when they fail", async () => {
    const inner = manual();
    const { store } = await tracked(inner);
    opened.push(store);
    store.startRound();
    const written = store.write(0, one());
    await settle();
    expect(store.takeRound().population).toBe(0);
    inner.failAny();
    await expect(written).rejects.toMatchObject({ code: "STORAGE_IO" });
    expect([...store.takeRound()]).toEqual([0]);
    expect(store.takeRound().population).toBe(0);
  });

  it("that fail in the call count too", async () => {
    const inner = manual();
    const { store } = await tracked(inner);
    opened.push(store);
    const first = store.write(0, one());
    await settle();
    inner.completeAny();
    await first;
    store.startRound();
    inner.onIssue = () => {
      throw new Error("broken in the call");
    };
    expect(() => store.write(0, one())).toThrow("broken in the call");
    expect([...store.takeRound()]).toEqual([0]);
  });

  it("are in the round before they are answered", async () => {
    const inner = manual();
    const { store } = await tracked(inner);
    opened.push(store);
    store.startRound();
    let round: BlockBitmap | undefined;
    const written = Promise.resolve(store.write(0, one())).then(() => {
      round = store.takeRound();
    });
    await settle();
    inner.completeAny();
    await written;
    expect(round?.has(0)).toBe(true);
  });

  it("are refused when out of range before anything is marked", async () => {
    const { store } = await tracked(new MemoryBlockStore({ sizeBytes: 8192 }));
    opened.push(store);
    expect(() => store.write(8000, new Uint8Array(500))).toThrow("STORAGE_OUT_OF_RANGE");
    expect(store.written.population).toBe(0);
  });
});

describe("tracked store: fence", () => {
  it("refuses writes of every kind, lets reads and flushes through, until unfenced", async () => {
    const { store } = await tracked(new MemoryBlockStore({ sizeBytes: 8192 }));
    await store.fence();
    expect(() => store.write(0, new Uint8Array(1))).toThrow("STORAGE_FENCED");
    expect(() => store.trim(0, 1)).toThrow("STORAGE_FENCED");
    expect(() => store.writeZeroes(0, 1, { mayUnmap: true })).toThrow("STORAGE_FENCED");
    await store.read(0, new Uint8Array(8192));
    await store.flush();
    expect(store.written.population).toBe(0);
    store.unfence();
    await store.write(0, new Uint8Array(1));
    await store.close();
  });

  it("completes when every accepted write has landed and is marked, also those that wait for the log", async () => {
    const inner = manual();
    const { store, file } = await tracked(inner);
    store.startRound();
    file.syncsAtOnce = false;
    const written = [store.write(0, one()), store.write(8 * BLOCK_SIZE_BYTES, one())];
    let fenced = false;
    const fence = store.fence().then(() => {
      fenced = true;
    });
    await settle();
    file.syncsAtOnce = true;
    file.completeSync();
    await settle();
    inner.completeAny();
    await settle();
    expect(fenced).toBe(false);
    inner.completeAny();
    await Promise.all([fence, ...written]);
    expect([...store.takeRound()]).toEqual([0, 8]);
    await store.close();
  });
});

describe("tracked store: flush", () => {
  it("is answered when both the data and the log are durable", async () => {
    const inner = manual();
    const { store, file } = await tracked(inner);
    const written = store.write(0, one());
    await settle();
    inner.completeAny();
    await written;
    // A new block of an active region: the fine map has something to flush.
    const second = store.write(BLOCK_SIZE_BYTES, one());
    inner.completeAny();
    await second;
    file.syncsAtOnce = false;
    let flushed = false;
    const flush = Promise.resolve(store.flush()).then(() => {
      flushed = true;
    });
    await settle();
    inner.completeAny();
    await settle();
    expect(flushed).toBe(false);
    file.completeSync();
    await flush;
    file.syncsAtOnce = true;
    await store.close();
  });

  it("fails when the data's flush fails", async () => {
    const inner = manual();
    const { store } = await tracked(inner);
    const flush = store.flush();
    inner.failAny();
    await expect(flush).rejects.toMatchObject({ code: "STORAGE_IO" });
    await store.close();
  });
});

describe("tracked store: a copier that clears before it reads", () => {
  it("misses no write, whatever the order in which things end", async () => {
    await forSeeds(300, async (random) => {
      const world = await CopyWorld.create(random);
      await world.run();
    });
  });
});

/** A guest that writes, a copier that copies in rounds, and a store that takes its time with both. */
class CopyWorld {
  readonly #random: Random;
  readonly #inner: ManualBlockStore;
  readonly #store: TrackedBlockStore;
  readonly #file: CrashingByteFile;
  readonly #copy: number[];
  readonly #toSend: BlockBitmap;
  readonly #issued = new Set<number>();
  #copying = 0;
  #lastValue = 100;
  readonly #operations: Promise<void>[] = [];

  static async create(random: Random): Promise<CopyWorld> {
    const values = Array.from({ length: 4 + random.below(30) }, (_, unit) => unit);
    const inner = new ManualBlockStore(random, { values, atOnce: random.pick([0, 0.3, 0.9]) });
    const { store, file } = await tracked(inner);
    return new CopyWorld(random, inner, store, file);
  }

  private constructor(
    random: Random,
    inner: ManualBlockStore,
    store: TrackedBlockStore,
    file: CrashingByteFile,
  ) {
    this.#random = random;
    this.#inner = inner;
    this.#store = store;
    this.#file = file;
    this.#copy = inner.values.map(() => -1);
    this.#toSend = BlockBitmap.full(blockCountOf(inner.sizeBytes));
    file.syncsAtOnce = random.chance(0.3);
    inner.onIssue = (offset, length) => {
      for (let unit = offset / UNIT_BYTES; unit < (offset + length) / UNIT_BYTES; unit++) {
        const block = Math.floor(unit / 2);
        this.#issued.add(block);
        expect(store.written.has(block), "intent before the write").toBe(true);
      }
    };
  }

  async run(): Promise<void> {
    // Writes that begin before the first round and land in it are the round's.
    for (let step = 0; step < 5; step++) this.#guestWrites();
    this.#store.startRound();
    for (let step = 0; step < 60; step++) {
      this.#step(this.#random.below(12));
      if (this.#random.chance(0.5)) await settle();
    }
    let fenced = false;
    const fence = this.#store.fence().then(() => {
      fenced = true;
    });
    while (!fenced) await this.#finishSome();
    await fence;
    this.#toSend.union(this.#store.takeRound());
    while (this.#toSend.population > 0 || this.#copying > 0) {
      if (this.#toSend.population > 0) this.#copyOne();
      await this.#finishSome();
    }
    expect(this.#copy).toEqual(this.#inner.values);
    expect(new Set(this.#store.written)).toEqual(this.#issued);
    this.#file.syncsAtOnce = true;
    this.#file.completeSync();
    await Promise.all(this.#operations);
    await this.#store.close();
  }

  #step(action: number): void {
    if (action < 3) this.#guestWrites();
    else if (action < 6) this.#copyOne();
    else if (action < 7) this.#toSend.union(this.#store.takeRound());
    else if (action < 9) this.#inner.completeAny();
    else if (action < 10) this.#failWrite();
    else this.#file.completeSync();
  }

  #guestWrites(): void {
    const units = this.#inner.values.length;
    const first = this.#random.below(units);
    const count = 1 + this.#random.below(Math.min(5, units - first));
    const value = ++this.#lastValue;
    const offset = first * UNIT_BYTES;
    const length = count * UNIT_BYTES;
    const kind = this.#random.below(4);
    this.#operations.push(
      (async () => {
        if (kind === 0) return this.#store.writeZeroes(offset, length, { mayUnmap: true });
        if (kind === 1) return this.#store.trim(offset, length);
        return this.#store.write(offset, unitsAsBytes(new Array<number>(count).fill(value)));
      })().catch(() => {}),
    );
  }

  #copyOne(): void {
    const block = this.#toSend.next(this.#random.below(this.#toSend.blockCount)) ?? this.#toSend.next(0);
    if (block === undefined) return;
    this.#toSend.delete(block);
    this.#copying++;
    const { offset, length } = byteRangeOf({ start: block, count: 1 }, this.#store.sizeBytes);
    const target = new Uint8Array(length);
    const read = (async () => {
      try {
        await this.#store.read(offset, target);
        for (let at = 0; at < length; at += UNIT_BYTES) {
          this.#copy[(offset + at) / UNIT_BYTES] = Buffer.from(target).readUInt32LE(at);
        }
      } catch {
        // As the copier does: what could not be read is still to be sent.
        this.#toSend.add(block);
      } finally {
        this.#copying--;
      }
    })();
    this.#operations.push(read);
  }

  #failWrite(): void {
    this.#inner.failAny();
  }

  async #finishSome(): Promise<void> {
    this.#inner.completeAny();
    this.#file.completeSync();
    await settle();
  }
}
