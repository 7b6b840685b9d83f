import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { DirtyLog, type DirtyLogOpening } from "../../storage/dirty-log.ts";
import { CrashingByteFile } from "./crashing-byte-file.ts";
import { forSeeds, Random, settle } from "./random.ts";

const OPTIONS = { blockCount: 100, generation: 3, bootId: "boot-1", regionBlocks: 8, activeRegionsMax: 4 };
const NEXT_BOOT = { ...OPTIONS, bootId: "boot-2" };

const newFile = (): CrashingByteFile => new CrashingByteFile(new Random(1));

function trusted(opening: DirtyLogOpening): DirtyLog {
  if (!opening.trusted) throw new Error(`not trusted: ${opening.reason}`);
  return opening.log;
}

describe("dirty log: cover", () => {
  it("is durable before it completes, and costs nothing the second time", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    const operations = file.operations;
    const covered = log.cover(10, 3);
    expect(covered).toBeInstanceOf(Promise);
    expect(log.written.has(10)).toBe(false);
    await covered;
    expect([...log.written]).toEqual([10, 11, 12]);
    expect(file.operations).toBeGreaterThan(operations);
    const after = file.operations;
    expect(log.cover(10, 3)).toBeUndefined();
    expect(log.cover(12, 1)).toBeUndefined();
    expect(file.operations).toBe(after);
  });

  it("completes in the call, without a sync, for new blocks of an active region", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.cover(8, 1);
    const syncs = file.syncCount;
    expect(log.cover(9, 7)).toBeUndefined();
    expect(file.syncCount).toBe(syncs);
    expect(log.written.population).toBe(8);
  });

  it("does not complete for a second write of a block while the first still waits", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    file.syncsAtOnce = false;
    const first = log.cover(0, 1);
    let second = false;
    const covered = Promise.resolve(log.cover(0, 1)).then(() => {
      second = true;
    });
    await settle();
    expect(file.syncsPending).toBe(1);
    expect(second).toBe(false);
    file.completeSync();
    await Promise.all([first, covered]);
  });

  it("shares one sync among the covers that wait", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, { ...OPTIONS, activeRegionsMax: 8 });
    file.syncsAtOnce = false;
    const syncs = file.syncCount;
    const covers = [0, 20, 40].map((block) => log.cover(block, 1));
    await settle();
    const late = [50, 60, 70].map((block) => log.cover(block, 1));
    await settle();
    file.completeSync();
    await Promise.all(covers);
    await settle();
    file.completeSync();
    await Promise.all(late);
    expect(file.syncCount - syncs).toBe(2);
  });

  it("covers ranges of more regions than may be active", async () => {
    const log = await DirtyLog.create(newFile(), { ...OPTIONS, activeRegionsMax: 1 });
    await Promise.all([log.cover(0, 100), log.cover(50, 2)]);
    expect(log.written.population).toBe(100);
  });

  it("fails for all who wait, and for good, when a sync fails; and no successor trusts the log", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    file.syncsAtOnce = false;
    const covers = [0, 20].map(async (block) => log.cover(block, 1));
    await settle();
    file.failSync();
    for (const cover of covers) await expect(cover).rejects.toMatchObject({ code: "STORAGE_IO" });
    expect(() => log.cover(90, 1)).toThrow("STORAGE_IO");
    expect(() => log.flush()).toThrow("STORAGE_IO");
    await log.close({ clean: true });
    expect(await DirtyLog.open(file.afterKill(), OPTIONS)).toEqual({
      trusted: false,
      reason: "the disk failed under it",
    });
  });
});

describe("dirty log: flush", () => {
  it("syncs only when something is new", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    expect(log.flush()).toBeUndefined();
    await log.cover(0, 1);
    await log.flush();
    expect(log.flush()).toBeUndefined();
    log.cover(1, 1);
    expect(log.flush()).toBeInstanceOf(Promise);
  });
});

describe("dirty log: open", () => {
  it("knows the exact set after kill -9", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.cover(5, 10);
    await log.cover(99, 1);
    const again = trusted(await DirtyLog.open(file.afterKill(), OPTIONS));
    expect(again.written.equals(log.written)).toBe(true);
  });

  it("adds every block of every active region after a loss of power", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.cover(97, 1);
    await log.cover(9, 1);
    const again = trusted(await DirtyLog.open(file.afterPowerLoss(), NEXT_BOOT));
    expect([...again.written.runs()]).toEqual([
      { start: 8, count: 8 },
      { start: 96, count: 4 },
    ]);
  });

  it("knows the exact set after a clean close, under any boot", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.cover(5, 10);
    await log.close({ clean: true });
    const again = trusted(await DirtyLog.open(file.afterPowerLoss(), NEXT_BOOT));
    expect([...again.written.runs()]).toEqual([{ start: 5, count: 10 }]);
  });

  it("is not clean any more once it was opened", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.close({ clean: true });
    const next = file.afterKill();
    const again = trusted(await DirtyLog.open(next, OPTIONS));
    await again.cover(0, 1);
    const third = trusted(await DirtyLog.open(next.afterPowerLoss(), NEXT_BOOT));
    expect(third.written.population).toBe(8);
  });

  it("distrusts anything but its own whole file, and says why", async () => {
    const file = newFile();
    await DirtyLog.create(file, OPTIONS);
    const reasonFor = async (options: typeof OPTIONS, damage?: (next: CrashingByteFile) => void) => {
      const next = file.afterKill();
      damage?.(next);
      const opening = await DirtyLog.open(next, options);
      return opening.trusted ? undefined : opening.reason;
    };
    expect(await reasonFor(OPTIONS)).toBeUndefined();
    expect(await reasonFor({ ...OPTIONS, blockCount: 101 })).toBe("its blockCount is 100 and not 101");
    expect(await reasonFor({ ...OPTIONS, generation: 4 })).toBe("its generation is 3 and not 4");
    expect(await reasonFor({ ...OPTIONS, regionBlocks: 16 })).toBe("its scale is 8 and not 16");
    expect(await reasonFor(OPTIONS, (next) => next.pwrite(20, Uint8Array.of(1)))).toBe(
      "its header is damaged",
    );
    expect(await DirtyLog.open(new CrashingByteFile(new Random(1)), OPTIONS)).toMatchObject({
      trusted: false,
    });
    expect(await DirtyLog.open(new CrashingByteFile(new Random(1), new Uint8Array(9000)), OPTIONS)).toEqual({
      trusted: false,
      reason: "it is not such a log",
    });
  });

  it("is believed while it has an owner only with that owner, and by everybody once it has none again", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.cover(3, 1);
    await log.setOwner("tracker-1");
    await log.close({ clean: true });

    const opening = await DirtyLog.open(file, OPTIONS);
    expect(opening).toMatchObject({ trusted: false, reason: expect.stringContaining("tracker-1") });
    expect((await DirtyLog.open(file, { ...OPTIONS, owners: ["tracker-2"] })).trusted).toBe(false);

    const owned = trusted(await DirtyLog.open(file, { ...NEXT_BOOT, owners: ["tracker-2", "tracker-1"] }));
    expect(owned.owner).toBe("tracker-1");
    await owned.cover(4, 1);
    await owned.setOwner("");
    await owned.close({ clean: true });
    const log2 = trusted(await DirtyLog.open(file, { ...NEXT_BOOT, owners: ["tracker-3"] }));
    expect([log2.owner, [...log2.written]]).toEqual(["", [3, 4]]);
  });

  it("has an owner durably before anybody relies on it", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.setOwner("tracker-1");
    expect((await DirtyLog.open(file.afterPowerLoss(), NEXT_BOOT)).trusted).toBe(false);
  });

  it("distrusts damaged activity after a loss of power, and bits beyond the last block", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.cover(0, 1);
    await log.flush();
    const damaged = file.afterKill();
    damaged.pwrite(4096, Uint8Array.of(77));
    expect(await DirtyLog.open(damaged.afterKill(), NEXT_BOOT)).toEqual({
      trusted: false,
      reason: "its activity is damaged",
    });
    const beyond = file.afterKill();
    beyond.pwrite(8192 + 12, Uint8Array.of(0x10));
    expect(await DirtyLog.open(beyond, OPTIONS)).toMatchObject({ trusted: false });
  });

  it("distrusts a truncated file", async () => {
    const file = newFile();
    await DirtyLog.create(file, OPTIONS);
    const bytes = new Uint8Array(file.size() - 1);
    file.pread(0, bytes);
    expect(await DirtyLog.open(new CrashingByteFile(new Random(1), bytes), OPTIONS)).toMatchObject({
      trusted: false,
    });
  });
});

describe("dirty log: reset", () => {
  it("begins the next generation empty, and leaves the closed generation's bitmap to its holder", async () => {
    const file = newFile();
    const log = await DirtyLog.create(file, OPTIONS);
    await log.cover(0, 50);
    const closed = log.written;
    await log.reset(4);
    expect(closed.population).toBe(50);
    expect(log.written.population).toBe(0);
    await log.cover(99, 1);
    expect(await DirtyLog.open(file.afterKill(), OPTIONS)).toMatchObject({ trusted: false });
    const again = trusted(await DirtyLog.open(file.afterPowerLoss(), { ...NEXT_BOOT, generation: 4 }));
    expect([...again.written]).toEqual([96, 97, 98, 99]);
  });

  it("is never believed half done: killed or without power at every step", async () => {
    await forSeeds(300, async (random, seed) => {
      const file = new CrashingByteFile(random);
      const log = await DirtyLog.create(file, OPTIONS);
      await log.cover(0, 50);
      await log.flush();
      file.operationsLeft = seed % 8;
      await log.reset(4).catch(() => {});
      const powerLost = random.chance(0.5);
      const next = () => (powerLost ? file.afterPowerLoss() : file.afterKill());
      const bootId = powerLost ? "boot-2" : "boot-1";
      const old = await DirtyLog.open(next(), { ...OPTIONS, bootId });
      if (old.trusted) expect(old.log.written.population).toBeGreaterThanOrEqual(50);
      const young = await DirtyLog.open(next(), { ...OPTIONS, bootId, generation: 4 });
      if (young.trusted) expect(young.log.written.population).toBe(0);
      if (file.operationsLeft > 0) expect(young.trusted).toBe(true);
    });
  });
});

describe("dirty log: made anew where nothing is known", () => {
  it.each(["afterKill", "afterPowerLoss"] as const)(
    "says that every block was written, or is not believed, wherever its making ended (%s)",
    async (crash) => {
      let isMade = false;
      for (let operations = 1; !isMade; operations++) {
        const used = newFile();
        await (await DirtyLog.create(used, { ...OPTIONS, generation: 2 })).close({ clean: true });
        const file = used.afterKill();
        file.operationsLeft = operations;
        await DirtyLog.create(file, NEXT_BOOT, BlockBitmap.full(100)).catch((error: unknown) => {
          if (!file.dead) throw error;
        });
        isMade = !file.dead;
        file.operationsLeft = Number.POSITIVE_INFINITY;
        const opening = await DirtyLog.open(isMade ? file : file[crash](), NEXT_BOOT);
        if (opening.trusted) expect(opening.log.written.population, `${operations}`).toBe(100);
        else expect(isMade).toBe(false);
        expect(operations).toBeLessThan(100);
      }
    },
  );
});

describe("dirty log: any history with crashes", () => {
  it("never forgets a write that was issued, and adds no more than active regions", async () => {
    await forSeeds(400, async (random) => {
      const history = new DirtyLogHistory(random);
      await history.run();
    });
  });
});

/** Lives of one log: random covers, syncs that take their time, a crash at any operation, the next life. */
class DirtyLogHistory {
  readonly #random: Random;
  readonly #options;
  readonly #requested = new Set<number>();
  readonly #issued = new Set<number>();
  #boot = 1;

  constructor(random: Random) {
    this.#random = random;
    this.#options = {
      blockCount: 1 + random.below(400),
      generation: 1,
      regionBlocks: 8,
      activeRegionsMax: 1 + random.below(6),
    };
  }

  async run(): Promise<void> {
    let file = new CrashingByteFile(this.#random);
    let log = await DirtyLog.create(file, this.#withBoot());
    for (let life = 0; life < 4; life++) {
      await this.#live(file, log);
      const powerLost = this.#random.chance(0.5);
      ({ file, log } = await this.#reopen(file, powerLost));
      for (const block of this.#issued)
        expect(log.written.has(block), `block ${block} was written`).toBe(true);
      for (const block of log.written) {
        const known = this.#requested.has(block) || this.#inRequestedRegion(block);
        expect(known, `block ${block} was never near a write`).toBe(true);
      }
    }
  }

  async #live(file: CrashingByteFile, log: DirtyLog): Promise<void> {
    file.syncsAtOnce = false;
    file.operationsLeft = this.#random.chance(0.7) ? this.#random.below(30) : Number.POSITIVE_INFINITY;
    const steps = this.#random.below(40);
    for (let step = 0; step < steps && !file.dead; step++) {
      const action = this.#random.below(10);
      if (action < 5) this.#cover(log);
      else if (action < 9) file.completeSync();
      else
        void Promise.resolve()
          .then(() => log.flush())
          .catch(() => {});
      if (this.#random.chance(0.6)) await settle();
    }
  }

  #cover(log: DirtyLog): void {
    const { blockCount } = this.#options;
    const start = this.#random.below(blockCount);
    const count = 1 + this.#random.below(Math.min(this.#random.pick([1, 4, 40]), blockCount - start));
    const blocks = Array.from({ length: count }, (_, index) => start + index);
    for (const block of blocks) this.#requested.add(block);
    const issue = (): void => {
      for (const block of blocks) this.#issued.add(block);
    };
    try {
      const covered = log.cover(start, count);
      if (covered === undefined) issue();
      else covered.then(issue, () => {});
    } catch {
      // The crash.
    }
  }

  async #reopen(
    file: CrashingByteFile,
    powerLost: boolean,
  ): Promise<{ file: CrashingByteFile; log: DirtyLog }> {
    for (;;) {
      if (powerLost) this.#boot++;
      file = powerLost ? file.afterPowerLoss() : file.afterKill();
      // The next life may end while it begins.
      file.operationsLeft = this.#random.chance(0.4) ? this.#random.below(6) : Number.POSITIVE_INFINITY;
      try {
        return { file, log: trusted(await DirtyLog.open(file, this.#withBoot())) };
      } catch (error) {
        if (!file.dead) throw error;
        powerLost = this.#random.chance(0.5);
      }
    }
  }

  #withBoot() {
    return { ...this.#options, bootId: `boot-${this.#boot}` };
  }

  #inRequestedRegion(block: number): boolean {
    const region = Math.floor(block / 8);
    for (let near = region * 8; near < region * 8 + 8; near++) if (this.#requested.has(near)) return true;
    return false;
  }
}
