import { describe, expect, it } from "vitest";
import { type IterationStatistics, precopyPolicy } from "../../protocol/precopy-policy.ts";

const limits = { remainingBlocksToFreeze: 100, iterationsMax: 5, totalSentFactorMax: 3 };

/** The second iteration of a migration that converges: no rule stops it. */
const converging: IterationStatistics = {
  iteration: 2,
  dirtiedBlocks: 500,
  sentBlocks: 1000,
  elapsedMs: 2000,
  remainingBlocks: 500,
  totalSentBlocks: 11_000,
  diskBlocks: 10_000,
  writeShare: 1,
};

describe("pre-copy", () => {
  it("iterates while it converges, and tells its rates", () => {
    expect(precopyPolicy(converging, limits)).toEqual({
      decision: "iterate",
      reason: "converging",
      dirtyBlocksPerSecond: 250,
      sentBlocksPerSecond: 500,
    });
  });

  it.each<[string, Partial<IterationStatistics>, Partial<IterationStatistics>]>([
    ["little-remains", { remainingBlocks: 100 }, { remainingBlocks: 101 }],
    ["dirty-rate-too-high", { dirtiedBlocks: 1000 }, { dirtiedBlocks: 999 }],
    ["iteration-cap", { iteration: 5 }, { iteration: 4 }],
    ["total-sent-cap", { totalSentBlocks: 30_000 }, { totalSentBlocks: 29_999 }],
  ])("freezes with reason %s, and not one step earlier", (reason, at, before) => {
    expect(precopyPolicy({ ...converging, ...at }, limits)).toMatchObject({ decision: "freeze", reason });
    expect(precopyPolicy({ ...converging, ...before }, limits).decision).toBe("iterate");
  });

  describe("with writes that may be slowed", () => {
    const slowing = { ...limits, writeSlowdownMax: 0.75 };

    it.each([
      // Half of what is sent is the goal.
      [1000, 1000, 0.5],
      [1250, 1000, 0.4],
      // No more is taken than was allowed.
      [4000, 1000, 0.25],
    ])(
      "slows a domain that dirtied %i blocks while %i were sent to %f",
      (dirtiedBlocks, sentBlocks, share) => {
        const statistics = { ...converging, dirtiedBlocks, sentBlocks };
        expect(precopyPolicy(statistics, slowing)).toMatchObject({ decision: "throttle", share });
      },
    );

    it("slows it in steps, down to what it was promised of its own rate and no further", () => {
      const statistics = { ...converging, dirtiedBlocks: 1000, writeShare: 0.6 };
      expect(precopyPolicy(statistics, slowing)).toMatchObject({ decision: "throttle", share: 0.3 });
      const slower = { ...statistics, writeShare: 0.3 };
      expect(precopyPolicy(slower, slowing)).toMatchObject({ decision: "throttle", share: 0.25 });
      const slowest = { ...statistics, writeShare: 0.25 };
      expect(precopyPolicy(slowest, slowing)).toMatchObject({
        decision: "freeze",
        reason: "dirty-rate-too-high",
      });
    });

    it("slows nothing for a domain that converges, or of which little remains", () => {
      expect(precopyPolicy(converging, slowing).decision).toBe("iterate");
      const little = { ...converging, dirtiedBlocks: 1000, remainingBlocks: 100 };
      expect(precopyPolicy(little, slowing)).toMatchObject({ decision: "freeze", reason: "little-remains" });
    });
  });

  it("does not take an iteration that sent nothing for a slow link", () => {
    const idle = { ...converging, iteration: 1, sentBlocks: 0, totalSentBlocks: 0 };
    expect(precopyPolicy(idle, limits).decision).toBe("iterate");
  });

  it("has no rates after an iteration without duration", () => {
    expect(precopyPolicy({ ...converging, elapsedMs: 0 }, limits).sentBlocksPerSecond).toBeUndefined();
  });

  it("names the best news first when several rules hold", () => {
    const all = {
      ...converging,
      remainingBlocks: 0,
      dirtiedBlocks: 2000,
      iteration: 9,
      totalSentBlocks: 90_000,
    };
    expect(precopyPolicy(all, limits)).toMatchObject({ reason: "little-remains" });
  });
});
