import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { PresenceLog } from "../../storage/presence-log.ts";
import { CrashingByteFile } from "./crashing-byte-file.ts";
import { forSeeds, Random } from "./random.ts";

const IDENTITY = { generation: 2, migration: "m-1", bootId: "boot-1" };
const OPTIONS = { ...IDENTITY, blockCount: 100 };
const NEXT_BOOT = { ...OPTIONS, bootId: "boot-2" };

const newFile = (): CrashingByteFile => new CrashingByteFile(new Random(1));
const missingOf = (...blocks: number[]) => BlockBitmap.of(100, blocks);
const nothing = async (): Promise<void> => {};

describe("presence log", () => {
  it("keeps its own copy of what is missing, durably from the beginning", async () => {
    const file = newFile();
    const missing = missingOf(1, 2, 3, 99);
    const log = await PresenceLog.create(file, { ...IDENTITY, missing });
    missing.clear();
    expect([...log.missing]).toEqual([1, 2, 3, 99]);
    expect([...(await PresenceLog.open(file.afterPowerLoss(), NEXT_BOOT)).missing]).toEqual([1, 2, 3, 99]);
  });

  it("knows after kill -9 what was marked, and after a loss of power only what was flushed", async () => {
    const file = newFile();
    const log = await PresenceLog.create(file, { ...IDENTITY, missing: BlockBitmap.full(100) });
    log.markPresent({ start: 0, count: 10 });
    await log.flush(nothing);
    log.markPresent({ start: 50, count: 50 });
    const killed = await PresenceLog.open(file.afterKill(), OPTIONS);
    expect([...killed.missing.runs()]).toEqual([{ start: 10, count: 40 }]);
    const rebooted = await PresenceLog.open(file.afterPowerLoss(), NEXT_BOOT);
    expect([...rebooted.missing.runs()]).toEqual([{ start: 10, count: 90 }]);
  });

  it("makes presence durable only after the data", async () => {
    const file = newFile();
    const log = await PresenceLog.create(file, { ...IDENTITY, missing: BlockBitmap.full(100) });
    log.markPresent({ start: 0, count: 10 });
    const operations = file.operations;
    const { promise, resolve } = Promise.withResolvers<void>();
    const flushed = log.flush(() => promise);
    // What becomes present while the data is flushed may have missed that flush.
    log.markPresent({ start: 20, count: 1 });
    expect(file.operations).toBe(operations + 1);
    expect(log.flushNeeded).toBe(true);
    resolve();
    await flushed;
    const rebooted = await PresenceLog.open(file.afterPowerLoss(), NEXT_BOOT);
    expect([...rebooted.missing.runs()]).toEqual([{ start: 10, count: 90 }]);
  });

  it("does not vouch for data whose flush failed, and tries again", async () => {
    const file = newFile();
    const log = await PresenceLog.create(file, { ...IDENTITY, missing: missingOf(5) });
    log.markPresent({ start: 5, count: 1 });
    await expect(log.flush(() => Promise.reject(new Error("EIO")))).rejects.toThrow("EIO");
    expect(log.flushNeeded).toBe(true);
    expect((await PresenceLog.open(file.afterPowerLoss(), NEXT_BOOT)).missing.population).toBe(1);
  });

  it("flushes after a kill -9 what its predecessor had marked and not flushed", async () => {
    const file = newFile();
    const log = await PresenceLog.create(file, { ...IDENTITY, missing: missingOf(5, 6) });
    log.markPresent({ start: 5, count: 1 });
    const next = file.afterKill();
    const killed = await PresenceLog.open(next, OPTIONS);
    expect(killed.flushNeeded).toBe(true);
    await killed.flush(nothing);
    expect([...(await PresenceLog.open(next.afterPowerLoss(), NEXT_BOOT)).missing]).toEqual([6]);
  });

  it("refuses anything but its own whole file with STORAGE_CORRUPT", async () => {
    const file = newFile();
    const log = await PresenceLog.create(file, { ...IDENTITY, missing: missingOf(5, 6) });
    log.markPresent({ start: 5, count: 1 });
    await log.flush(nothing);
    const open = (options: typeof OPTIONS, damage?: (next: CrashingByteFile) => void) => {
      const next = file.afterKill();
      damage?.(next);
      return PresenceLog.open(next, options);
    };
    await expect(open(OPTIONS)).resolves.toBeInstanceOf(PresenceLog);
    const corrupt = { code: "STORAGE_CORRUPT" };
    await expect(open({ ...OPTIONS, blockCount: 101 })).rejects.toMatchObject(corrupt);
    await expect(open({ ...OPTIONS, generation: 3 })).rejects.toMatchObject(corrupt);
    await expect(open({ ...OPTIONS, migration: "m-2" })).rejects.toMatchObject(corrupt);
    await expect(open(OPTIONS, (next) => next.pwrite(30, Uint8Array.of(9)))).rejects.toMatchObject(corrupt);
    await expect(open(OPTIONS, (next) => next.pwrite(4096 + 12, Uint8Array.of(0x80)))).rejects.toMatchObject(
      corrupt,
    );
    // Missing by the volatile map and present by the durable one: no history of ours leads there.
    await expect(open(OPTIONS, (next) => next.pwrite(4096, Uint8Array.of(0x60)))).rejects.toMatchObject(
      corrupt,
    );
    await expect(PresenceLog.open(newFile(), OPTIONS)).rejects.toMatchObject(corrupt);
    await expect(
      PresenceLog.open(new CrashingByteFile(new Random(1), new Uint8Array(20000)), OPTIONS),
    ).rejects.toMatchObject(corrupt);
  });

  it("survives being begun, in a new or a used file, with a crash at every step", async () => {
    await forSeeds(200, async (random, seed) => {
      let file = new CrashingByteFile(random);
      const used = random.chance(0.5);
      if (used) {
        await PresenceLog.create(file, { ...IDENTITY, migration: "m-0", missing: BlockBitmap.full(100) });
        file = file.afterKill();
      }
      file.operationsLeft = seed % 9;
      const missing = missingOf(3, 4, 5);
      const created = await PresenceLog.create(file, { ...IDENTITY, missing }).then(
        () => true,
        () => false,
      );
      const powerLost = random.chance(0.5);
      const next = powerLost ? file.afterPowerLoss() : file.afterKill();
      const opened = await PresenceLog.open(next, powerLost ? NEXT_BOOT : OPTIONS).then(
        (log) => log.missing.equals(missing),
        (error) => (error.code === "STORAGE_CORRUPT" ? "corrupt" : error),
      );
      if (created) expect(opened).toBe(true);
      else expect([true, "corrupt"]).toContain(opened);
    });
  });

  it("after any crashes says missing of no flushed block, and present of no unmarked one", async () => {
    await forSeeds(300, async (random) => {
      let file = new CrashingByteFile(random);
      let boot = 1;
      const missing = BlockBitmap.full(100);
      let log = await PresenceLog.create(file, { ...IDENTITY, missing });
      const marked = new Set<number>();
      const flushed = new Set<number>();
      for (let life = 0; life < 5; life++) {
        file.operationsLeft = random.below(12);
        try {
          for (;;) {
            if (random.chance(0.3)) {
              const before = [...marked];
              await log.flush(nothing);
              for (const block of before) flushed.add(block);
            } else {
              const start = random.below(100);
              const count = 1 + random.below(Math.min(20, 100 - start));
              for (let block = start; block < start + count; block++) marked.add(block);
              log.markPresent({ start, count });
            }
          }
        } catch (error) {
          if (!file.dead) throw error;
        }
        let opened: PresenceLog | undefined;
        while (opened === undefined) {
          const powerLost = random.chance(0.5);
          if (powerLost) boot++;
          file = powerLost ? file.afterPowerLoss() : file.afterKill();
          if (random.chance(0.5)) file.operationsLeft = random.below(4);
          const dying = file;
          opened = await PresenceLog.open(file, { ...OPTIONS, bootId: `boot-${boot}` }).catch((error) => {
            if (!dying.dead) throw error;
            return undefined;
          });
        }
        log = opened;
        for (const block of flushed) expect(log.missing.has(block), `block ${block} was flushed`).toBe(false);
        for (let block = 0; block < 100; block++) {
          if (!log.missing.has(block)) expect(marked.has(block), `block ${block} never came`).toBe(true);
          else marked.delete(block);
        }
      }
    });
  });
});
