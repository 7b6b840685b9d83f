import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BLOCK_SIZE_BYTES, type BlockRun, blockCountOf, byteRangeOf } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import { MemoryBlockStore } from "../../storage/memory-block-store.ts";
import { MissingBlockStore } from "../../storage/missing-block-store.ts";
import { PresenceLog } from "../../storage/presence-log.ts";
import { blockStoreContract, bytesOf, expectSameBytes, pattern } from "../contract/block-store.contract.ts";
import { CrashingByteFile } from "./crashing-byte-file.ts";
import { bytesAsUnits, ManualBlockStore, UNIT_BYTES, unitsAsBytes } from "./manual-block-store.ts";
import { Random, settle } from "./random.ts";

const IDENTITY = { generation: 2, migration: "m-1", bootId: "boot-1" };

async function presenceOf(missing: BlockBitmap): Promise<PresenceLog> {
  return PresenceLog.create(new CrashingByteFile(new Random(1)), { ...IDENTITY, missing });
}

/** Replica content that nobody may ever read where it is missing. */
const STALE = 0xbad;

/** Every block missing; the source holds zeroes and answers each pull a little later. */
blockStoreContract("missing", async ({ sizeBytes }) => {
  const inner = new MemoryBlockStore({ sizeBytes });
  inner.write(0, pattern(sizeBytes, STALE));
  const store: MissingBlockStore = new MissingBlockStore({
    store: inner,
    presence: await presenceOf(BlockBitmap.full(blockCountOf(sizeBytes))),
    pull: (runs) =>
      setImmediate(() => void (async () => store.arrive([], runs, new Uint8Array(0)))().catch(() => {})),
  });
  return store;
});

type World = { store: MissingBlockStore; pulls: BlockRun[]; completions: () => number };

async function worldOf(inner: BlockStore, missing: Iterable<number>): Promise<World> {
  const blocks = BlockBitmap.of(blockCountOf(inner.sizeBytes), missing);
  const pulls: BlockRun[] = [];
  let completions = 0;
  const store = new MissingBlockStore({
    store: inner,
    presence: await presenceOf(blocks),
    pull: (runs) => pulls.push(...runs),
    onComplete: () => completions++,
  });
  return { store, pulls, completions: () => completions };
}

/** `blocks` blocks of stale content; `atOnce` says whether operations complete in the call. */
function innerOf(blocks: number, atOnce: boolean): ManualBlockStore {
  const values = new Array<number>(blocks * 2).fill(STALE);
  return new ManualBlockStore(new Random(1), { values, atOnce: atOnce ? 1 : 0 });
}

const block = (value: number) => unitsAsBytes([value, value]);
const runOf = (start: number, count = 1): BlockRun => ({ start, count });

async function unitsOf(store: BlockStore, start: number, count = 1): Promise<number[]> {
  const target = new Uint8Array(count * BLOCK_SIZE_BYTES);
  await store.read(start * BLOCK_SIZE_BYTES, target);
  return bytesAsUnits(target);
}

describe("missing store: reads", () => {
  it("of present blocks complete in the call, and ask for nothing", async () => {
    const { store, pulls } = await worldOf(innerOf(4, true), [3]);
    expect(store.read(0, new Uint8Array(3 * BLOCK_SIZE_BYTES))).toBeUndefined();
    expect(pulls).toEqual([]);
  });

  it("pull only what is missing, once, and wait for all of it", async () => {
    const { store, pulls } = await worldOf(innerOf(8, true), [1, 2, 5]);
    let done = false;
    const read = unitsOf(store, 0, 8).then((units) => {
      done = true;
      return units;
    });
    const other = unitsOf(store, 2);
    expect(pulls).toEqual([runOf(1, 2), runOf(5)]);
    store.arrive([runOf(1, 2)], [], unitsAsBytes([1, 1, 2, 2]));
    expect(await other).toEqual([2, 2]);
    await settle();
    expect(done).toBe(false);
    store.arrive([], [runOf(5)], new Uint8Array(0));
    expect(await read).toEqual([
      STALE,
      STALE,
      1,
      1,
      2,
      2,
      ...[STALE, STALE, STALE, STALE],
      0,
      0,
      ...new Array(4).fill(STALE),
    ]);
    expect(store.counts).toEqual({ pushed: 0, pulled: 3, superseded: 0, late: 0 });
  });

  it("are asked for again after a reconnect, those only that still wait", async () => {
    const { store, pulls } = await worldOf(innerOf(8, true), [1, 2, 3, 5]);
    const reads = [unitsOf(store, 1, 3), unitsOf(store, 5)];
    store.arrive([runOf(2)], [], block(2));
    expect(store.requestedAgain()).toEqual([runOf(1), runOf(3), runOf(5)]);
    expect(pulls).toEqual([runOf(1, 3), runOf(5)]);
    store.arrive([runOf(1), runOf(3), runOf(5)], [], unitsAsBytes([1, 1, 3, 3, 5, 5]));
    expect(await Promise.all(reads)).toEqual([
      [1, 1, 2, 2, 3, 3],
      [5, 5],
    ]);
    expect(store.requestedAgain()).toEqual([]);
  });

  it("fail with STORAGE_PULL_FAILED when the store is closed, and not before", async () => {
    const { store } = await worldOf(innerOf(2, true), [0, 1]);
    const read = unitsOf(store, 0, 2);
    const write = (async () => store.write(0, unitsAsBytes([1])))();
    const failures = [
      expect(read).rejects.toMatchObject({ code: "STORAGE_PULL_FAILED" }),
      expect(write).rejects.toMatchObject({ code: "STORAGE_PULL_FAILED" }),
    ];
    await store.close();
    await Promise.all(failures);
  });
});

describe("missing store: writes", () => {
  it("of a part pull first, then merge", async () => {
    const { store, pulls } = await worldOf(innerOf(3, true), [0, 1, 2]);
    const written = store.write(UNIT_BYTES, unitsAsBytes([9, 9, 9, 9]));
    expect(pulls).toEqual([runOf(0), runOf(2)]);
    store.arrive([runOf(0), runOf(2)], [], unitsAsBytes([1, 1, 3, 3]));
    await written;
    expect(await unitsOf(store, 0, 3)).toEqual([1, 9, 9, 9, 9, 3]);
    expect(store.counts).toEqual({ pushed: 0, pulled: 2, superseded: 1, late: 0 });
  });

  it("of whole blocks supersede in the call and pull nothing", async () => {
    const { store, pulls, completions } = await worldOf(innerOf(3, true), [0, 1, 2]);
    expect(store.write(0, unitsAsBytes([5, 5, 6, 6]))).toBeUndefined();
    expect(store.writeZeroes(2 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, { mayUnmap: true })).toBeUndefined();
    expect(pulls).toEqual([]);
    expect(completions()).toBe(1);
    store.arrive([runOf(0, 3)], [], unitsAsBytes([1, 1, 2, 2, 3, 3]));
    expect(await unitsOf(store, 0, 3)).toEqual([5, 5, 6, 6, 0, 0]);
    expect(store.counts).toEqual({ pushed: 0, pulled: 0, superseded: 3, late: 3 });
    expect(completions()).toBe(1);
  });

  it("of the short last block supersede it", async () => {
    const inner = new MemoryBlockStore({ sizeBytes: BLOCK_SIZE_BYTES + 100 });
    const { store, pulls } = await worldOf(inner, [0, 1]);
    expect(store.write(BLOCK_SIZE_BYTES, pattern(100, 1))).toBeUndefined();
    expect(pulls).toEqual([]);
    store.arrive([runOf(0, 2)], [], pattern(BLOCK_SIZE_BYTES + 100, 2));
    const bytes = await bytesOf(store);
    expectSameBytes(bytes.subarray(BLOCK_SIZE_BYTES), pattern(100, 1));
    expectSameBytes(
      bytes.subarray(0, BLOCK_SIZE_BYTES),
      pattern(BLOCK_SIZE_BYTES + 100, 2).subarray(0, 4096),
    );
  });
});

describe("missing store: a late block", () => {
  it("loses against a write that is under way, and its arrival waits for the outcome", async () => {
    const inner = innerOf(1, false);
    const { store } = await worldOf(inner, [0]);
    const written = store.write(0, block(9));
    let arrived = false;
    const arrival = Promise.resolve(store.arrive([runOf(0)], [], block(1))).then(() => {
      arrived = true;
    });
    await settle();
    expect(arrived).toBe(false);
    expect(inner.pending.map(({ kind }) => kind)).toEqual(["write"]);
    inner.completeAny();
    await Promise.all([written, arrival]);
    expect(inner.values).toEqual([9, 9]);
    expect(store.counts).toEqual({ pushed: 0, pulled: 0, superseded: 1, late: 1 });
  });

  it("is stored after all when the write that superseded it fails", async () => {
    const inner = innerOf(1, false);
    const { store } = await worldOf(inner, [0]);
    const written = (async () => store.write(0, block(9)))();
    const arrival = store.arrive([runOf(0)], [], block(1));
    inner.failAny();
    await expect(written).rejects.toMatchObject({ code: "STORAGE_IO" });
    await settle();
    inner.completeAny();
    await arrival;
    expect(inner.values).toEqual([1, 1]);
    expect(store.counts).toEqual({ pushed: 1, pulled: 0, superseded: 0, late: 0 });
  });

  it("of which only a part is being overwritten is stored in the other parts at once", async () => {
    const inner = innerOf(5, false);
    const { store } = await worldOf(inner, [0, 1, 2, 3]);
    const written = store.write(BLOCK_SIZE_BYTES, block(9));
    const arrival = store.arrive([runOf(0, 5)], [], unitsAsBytes([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]));
    expect(inner.pending.map(({ offset }) => offset / BLOCK_SIZE_BYTES)).toEqual([1, 0, 2]);
    while (inner.pending.length > 0) inner.completeAny();
    await Promise.all([written, arrival]);
    expect(inner.values).toEqual([0, 0, 9, 9, 2, 2, 3, 3, STALE, STALE]);
    expect(store.counts).toEqual({ pushed: 3, pulled: 0, superseded: 1, late: 2 });
  });

  it("that comes twice is stored once", async () => {
    const inner = innerOf(1, false);
    const { store } = await worldOf(inner, [0]);
    const arrivals = [
      store.arrive([runOf(0)], [], block(1)),
      store.arrive([], [runOf(0)], new Uint8Array(0)),
    ];
    expect(inner.pending).toHaveLength(1);
    inner.completeAny();
    await Promise.all(arrivals);
    expect(inner.values).toEqual([1, 1]);
    expect(store.counts).toEqual({ pushed: 1, pulled: 0, superseded: 0, late: 1 });
  });

  it("is not overtaken by a write while it is being stored", async () => {
    const inner = innerOf(1, false);
    const { store } = await worldOf(inner, [0]);
    const arrival = store.arrive([runOf(0)], [], block(1));
    const written = store.write(0, block(9));
    expect(inner.pending).toHaveLength(1);
    inner.completeAny();
    await arrival;
    await settle();
    inner.completeAny();
    await written;
    expect(inner.values).toEqual([9, 9]);
  });
});

describe("missing store: failures", () => {
  it("keep a block missing when the write that superseded it fails, and pull it for who waits", async () => {
    const inner = innerOf(1, false);
    const { store, pulls } = await worldOf(inner, [0]);
    const written = (async () => store.write(0, block(9)))();
    const read = unitsOf(store, 0);
    await settle();
    // Help is on its way: no pull yet, and no read of what the disk holds.
    expect(pulls).toEqual([]);
    expect(inner.pending.map(({ kind }) => kind)).toEqual(["write"]);
    inner.failAny();
    await expect(written).rejects.toMatchObject({ code: "STORAGE_IO" });
    expect(store.missing.has(0)).toBe(true);
    expect(pulls).toEqual([runOf(0)]);
    const arrival = store.arrive([runOf(0)], [], block(1));
    inner.completeAny();
    await arrival;
    await settle();
    inner.completeAny();
    expect(await read).toEqual([1, 1]);
  });

  it("to store an arrival are told, and the block can be asked for again", async () => {
    const inner = innerOf(2, false);
    const { store, pulls } = await worldOf(inner, [0, 1]);
    const read = unitsOf(store, 0);
    const arrival = store.arrive([runOf(0)], [runOf(1)], block(1));
    inner.failAny();
    inner.completeAny();
    await expect(arrival).rejects.toMatchObject({ code: "STORAGE_IO" });
    const again = store.requestedAgain();
    const lost = store.missing.next(0)!;
    expect(again).toEqual(lost === 0 ? [runOf(0)] : []);
    expect(pulls).toEqual([runOf(0)]);
    const second = store.arrive([runOf(0, 2)], [], unitsAsBytes([1, 1, 2, 2]));
    while (inner.pending.length > 0) inner.completeAny();
    await second;
    await settle();
    while (inner.pending.length > 0) inner.completeAny();
    expect(await read).toEqual([1, 1]);
    expect(store.missing.population).toBe(0);
  });

  it("of arrivals in the call leave the others stored", async () => {
    const inner = innerOf(3, true);
    const { store } = await worldOf(inner, [0, 1, 2]);
    inner.onIssue = (offset) => {
      if (offset === 0) throw new Error("no");
    };
    await expect(
      (async () => store.arrive([runOf(0), runOf(2)], [], unitsAsBytes([1, 1, 3, 3])))(),
    ).rejects.toThrow("no");
    expect([...store.missing]).toEqual([0, 1]);
  });
});

describe("missing store: trim", () => {
  it("of whole missing blocks pulls nothing and never shows what the disk held", async () => {
    const { store, pulls } = await worldOf(innerOf(3, true), [0, 1]);
    await store.trim(0, 3 * BLOCK_SIZE_BYTES);
    expect(pulls).toEqual([]);
    // The inner store's own trim forgets nothing.
    expect((await unitsOf(store, 0, 2)).every((value) => value === 0)).toBe(true);
    expect(store.missing.population).toBe(0);
  });

  it("of a part of a missing block leaves it to the source", async () => {
    const { store, pulls } = await worldOf(innerOf(3, true), [0, 2]);
    await store.trim(UNIT_BYTES, 4 * UNIT_BYTES);
    expect([...store.missing]).toEqual([0, 2]);
    await store.trim(0, UNIT_BYTES);
    expect(pulls).toEqual([]);
    store.arrive([runOf(0), runOf(2)], [], unitsAsBytes([1, 1, 3, 3]));
    expect(await unitsOf(store, 0, 3)).toEqual([1, 1, 0, 0, 3, 3]);
  });
});

describe("missing store: the rest", () => {
  it("reports missing blocks as data, whatever the disk says", async () => {
    const inner = new MemoryBlockStore({ sizeBytes: 5 * BLOCK_SIZE_BYTES + 10 });
    inner.write(3 * BLOCK_SIZE_BYTES, pattern(BLOCK_SIZE_BYTES, 1));
    const { store } = await worldOf(inner, [1, 2, 5]);
    const data = { hole: false, zero: false };
    const hole = { hole: true, zero: true };
    expect(await store.extents(0, inner.sizeBytes)).toEqual([
      { offset: 0, length: BLOCK_SIZE_BYTES, ...hole },
      { offset: BLOCK_SIZE_BYTES, length: 3 * BLOCK_SIZE_BYTES, ...data },
      { offset: 4 * BLOCK_SIZE_BYTES, length: BLOCK_SIZE_BYTES, ...hole },
      { offset: 5 * BLOCK_SIZE_BYTES, length: 10, ...data },
    ]);
    expect(await store.extents(BLOCK_SIZE_BYTES + 5, 10)).toEqual([
      { offset: BLOCK_SIZE_BYTES + 5, length: 10, ...data },
    ]);
  });

  it("refuses arrivals that do not fit, and stores none of them", async () => {
    const { store } = await worldOf(innerOf(3, true), [0, 1, 2]);
    const bad = { code: "STORAGE_BAD_ARRIVAL" };
    const arrive = async (runs: BlockRun[], zeroes: BlockRun[], bytes: number) =>
      store.arrive(runs, zeroes, new Uint8Array(bytes));
    await expect(arrive([runOf(0)], [runOf(3)], 4096)).rejects.toMatchObject(bad);
    await expect(arrive([runOf(-1)], [], 4096)).rejects.toMatchObject(bad);
    await expect(arrive([runOf(0, 0)], [], 0)).rejects.toMatchObject(bad);
    await expect(arrive([runOf(2, 2)], [], 8192)).rejects.toMatchObject(bad);
    await expect(arrive([runOf(0.5)], [], 4096)).rejects.toMatchObject(bad);
    await expect(arrive([runOf(0)], [], 4095)).rejects.toMatchObject(bad);
    expect(store.missing.population).toBe(3);
  });

  it("shares flushes, and answers one that came during another only after its own writes", async () => {
    const inner = innerOf(2, false);
    const { store } = await worldOf(inner, [0, 1]);
    const first = store.write(0, block(1));
    inner.completeAny();
    await first;
    const flushed: number[] = [];
    const flushes = [1, 2].map((id) => Promise.resolve(store.flush()).then(() => flushed.push(id)));
    await settle();
    expect(inner.pending.map(({ kind }) => kind)).toEqual(["flush"]);
    const late = Promise.resolve(store.flush()).then(() => flushed.push(3));
    inner.completeAny();
    await Promise.all(flushes);
    await settle();
    expect(flushed).toEqual([1, 2]);
    expect(inner.pending.map(({ kind }) => kind)).toEqual(["flush"]);
    inner.completeAny();
    await late;
  });

  it("waits with close for a write under way, so that its presence is recorded", async () => {
    const inner = innerOf(1, false);
    const { store } = await worldOf(inner, [0]);
    const written = store.write(0, block(1));
    const closed = store.close();
    await settle();
    expect(inner.closed).toBe(false);
    inner.completeAny();
    await Promise.all([written, closed]);
    expect(store.missing.population).toBe(0);
  });

  it("takes a run's data only of its own length", async () => {
    const inner = new MemoryBlockStore({ sizeBytes: 2 * BLOCK_SIZE_BYTES + 10 });
    const { store } = await worldOf(inner, [0, 2]);
    const { length } = byteRangeOf(runOf(2), inner.sizeBytes);
    const data = Buffer.concat([pattern(length, 1), pattern(BLOCK_SIZE_BYTES, 2)]);
    await store.arrive([runOf(2), runOf(0)], [], data);
    const bytes = await bytesOf(store);
    expectSameBytes(bytes.subarray(2 * BLOCK_SIZE_BYTES), pattern(10, 1));
    expectSameBytes(bytes.subarray(0, BLOCK_SIZE_BYTES), pattern(BLOCK_SIZE_BYTES, 2));
  });
});
