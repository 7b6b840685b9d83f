import { describe, expect, it } from "vitest";
import { HashDescent } from "../../protocol/hash-descent.ts";
import { DIGESTS_PER_MESSAGE_MAX, HASH_REGION_BLOCKS } from "../../protocol/limits.ts";

describe("hash descent", () => {
  it("asks for every region, in messages that are not too large", () => {
    const regions = DIGESTS_PER_MESSAGE_MAX + 2;
    const descent = new HashDescent(regions * HASH_REGION_BLOCKS);
    expect(descent.ask(9)).toEqual([
      { level: "region", start: 0, count: DIGESTS_PER_MESSAGE_MAX },
      { level: "region", start: DIGESTS_PER_MESSAGE_MAX, count: 2 },
    ]);
  });

  it("is done when all regions are alike", () => {
    const descent = new HashDescent(3 * HASH_REGION_BLOCKS);
    descent.ask(1);
    expect(descent.isDone).toBe(false);
    descent.compared("region", 0, []);
    expect(descent.isDone).toBe(true);
    expect(descent.differing.population).toBe(0);
  });

  it("asks for the blocks of a region that differs; the last region may be short", () => {
    const descent = new HashDescent(HASH_REGION_BLOCKS + 5);
    descent.ask(1);
    descent.compared("region", 0, [1]);
    expect(descent.ask(1)).toEqual([{ level: "block", start: HASH_REGION_BLOCKS, count: 5 }]);
    descent.compared("block", HASH_REGION_BLOCKS, [HASH_REGION_BLOCKS + 3]);
    expect([...descent.differing]).toEqual([HASH_REGION_BLOCKS + 3]);
    expect(descent.isDone).toBe(true);
  });

  it("keeps at most as many questions open as it is told", () => {
    const descent = new HashDescent(3 * HASH_REGION_BLOCKS);
    descent.ask(1);
    descent.compared("region", 0, [0, 1, 2]);
    expect(descent.ask(2)).toHaveLength(2);
    expect(descent.ask(2)).toEqual([]);
  });

  it("knows only questions that are open", () => {
    const descent = new HashDescent(HASH_REGION_BLOCKS);
    expect(descent.openQuestion("region", 0)).toBeUndefined();
    descent.ask(1);
    expect(descent.openQuestion("region", 0)).toEqual({ level: "region", start: 0, count: 1 });
    expect(descent.openQuestion("block", 0)).toBeUndefined();
  });

  it("ignores an answer that nobody asked for, and the second of two", () => {
    const descent = new HashDescent(HASH_REGION_BLOCKS);
    descent.compared("block", 0, [1]);
    expect(descent.differing.population).toBe(0);
    descent.ask(1);
    descent.compared("region", 0, []);
    descent.compared("region", 0, [0]);
    expect(descent.isDone).toBe(true);
  });
});
