import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { AssertionFailure } from "../../protocol/errors.ts";
import { GenerationLog, isGenerationLog } from "../../protocol/generation-log.ts";

const BLOCK_COUNTS = [40, 7];

function entry(first: number, last: number, ...blocks: number[][]) {
  const written = BLOCK_COUNTS.map((blockCount, vbd) => BlockBitmap.of(blockCount, blocks[vbd] ?? []));
  return { first, last, written };
}

function listed(bitmaps: readonly BlockBitmap[] | undefined): number[][] | undefined {
  return bitmaps?.map((bitmap) => [...bitmap]);
}

const threeGenerations = GenerationLog.empty(BLOCK_COUNTS)
  .append(entry(1, 1, [1, 2], [0]))
  .append(entry(2, 2, [2, 3]))
  .append(entry(3, 3, [39], [6]));

describe("a generation log", () => {
  it("gives the union of what was written since a generation", () => {
    expect(listed(threeGenerations.since(1))).toEqual([[2, 3, 39], [6]]);
    expect(listed(threeGenerations.since(2))).toEqual([[39], [6]]);
  });

  it("gives nothing since its latest generation, and knows nothing of later ones", () => {
    expect(listed(threeGenerations.since(3))).toEqual([[], []]);
    expect(threeGenerations.since(4)).toBeUndefined();
    expect(GenerationLog.empty(BLOCK_COUNTS).since(1)).toBeUndefined();
  });

  it("does not know what it does not reach back to", () => {
    const log = GenerationLog.empty(BLOCK_COUNTS).append(entry(7, 8, [1]));
    expect([log.since(5), log.since(7)]).toEqual([undefined, undefined]);
    expect(listed(log.since(6))).toEqual([[1], []]);
  });

  it("hands out bitmaps of the caller's own", () => {
    threeGenerations.since(2)![0]!.add(5);
    expect(listed(threeGenerations.since(2))).toEqual([[39], [6]]);
  });

  it("unites the generations that no replica tells apart, and forgets those that every replica has", () => {
    const merged = threeGenerations
      .append(entry(4, 4, [0]))
      .append(entry(5, 5, [0, 9]))
      .merge([3, 1]);
    expect(merged.entries.map(({ first, last }) => [first, last])).toEqual([
      [2, 3],
      [4, 5],
    ]);
    expect(listed(merged.since(3))).toEqual([[0, 9], []]);
    expect(merged.since(2)).toBeUndefined();
  });

  it("remembers where it ends when nobody needs its entries", () => {
    const merged = threeGenerations.merge([3]);
    expect([merged.entries, merged.latest]).toEqual([[], 3]);
    expect(listed(merged.since(3))).toEqual([[], []]);
    expect(listed(merged.append(entry(4, 4, [8])).since(3))).toEqual([[8], []]);
    expect(threeGenerations.merge([]).entries).toEqual([]);
  });

  it("shares the bitmaps of entries that a merge leaves alone", () => {
    const merged = threeGenerations.merge([1, 2]);
    expect(merged.entries.at(-1)).toBe(threeGenerations.entries.at(-1));
  });

  it("asserts that generations follow one another and fit the vbds", () => {
    const log = GenerationLog.empty(BLOCK_COUNTS, 6);
    for (const wrong of [entry(8, 8), entry(6, 7), entry(7, 6)]) {
      expect(() => log.append(wrong)).toThrow(AssertionFailure);
    }
    const otherSize = { first: 7, last: 7, written: [new BlockBitmap(41), new BlockBitmap(7)] };
    expect(() => log.append(otherSize)).toThrow(AssertionFailure);
    expect(() => log.append({ first: 7, last: 7, written: [new BlockBitmap(40)] })).toThrow(AssertionFailure);
    expect(log.append(entry(7, 9)).latest).toBe(9);
  });

  it("tells entries that make no log", () => {
    expect(isGenerationLog([entry(1, 1), entry(2, 4), entry(5, 5)])).toBe(true);
    expect(isGenerationLog([entry(1, 1), entry(3, 3)])).toBe(false);
    expect(isGenerationLog([entry(1, 2), entry(2, 3)])).toBe(false);
    expect(isGenerationLog([entry(3, 2)])).toBe(false);
    expect(isGenerationLog([entry(0, 1)])).toBe(false);
    expect(isGenerationLog([{ ...entry(1, 1), last: Number.MAX_SAFE_INTEGER + 1 }])).toBe(false);
  });
});

/** A domain moves on, replicas come and go, and the log is merged now and then. */
type Action =
  | { do: "close"; blocks: number[][] }
  /** The host that closed the latest generation keeps a replica of it. */
  | { do: "keep-replica" }
  | { do: "lose-replica"; which: number }
  | { do: "merge" };

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("close" as const),
      blocks: fc.tuple(...BLOCK_COUNTS.map((n) => fc.array(fc.nat(n - 1), { maxLength: 5 }))),
    }),
  },
  { weight: 3, arbitrary: fc.constant({ do: "keep-replica" as const }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("lose-replica" as const), which: fc.nat(9) }) },
  { weight: 2, arbitrary: fc.constant({ do: "merge" as const }) },
);

describe("against an array of sets", () => {
  it("since(g) is exact for every replica, after any merges, and otherwise exact or unknown", () => {
    let asked = 0;
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40 }), fc.integer({ min: 1, max: 9 }), (actions, start) => {
        let log = GenerationLog.empty(BLOCK_COUNTS, start - 1);
        /** `closed[i]`: what generation `start + i` wrote. */
        const closed: number[][][] = [];
        const replicas = new Set<number>();
        const exactSince = (g: number) =>
          BLOCK_COUNTS.map((_, vbd) => {
            const blocks = new Set(closed.slice(g - start + 1).flatMap((written) => written[vbd]!));
            return [...blocks].sort((a, b) => a - b);
          });
        for (const act of actions) {
          const latest = start + closed.length - 1;
          if (act.do === "close") {
            closed.push(act.blocks);
            log = log.append(entry(latest + 1, latest + 1, ...act.blocks));
          } else if (act.do === "keep-replica") {
            replicas.add(latest);
          } else if (act.do === "lose-replica") {
            replicas.delete([...replicas][act.which] ?? -1);
          } else {
            log = log.merge(replicas);
            expect(log.entries.length).toBeLessThanOrEqual(replicas.size);
          }
          for (const g of replicas) expect(listed(log.since(g))).toEqual(exactSince(g));
          asked += replicas.size;
          for (let g = start - 1; g < start + closed.length; g++) {
            const since = listed(log.since(g));
            if (since !== undefined) expect(since).toEqual(exactSince(g));
          }
          expect(log.since(start + closed.length)).toBeUndefined();
        }
      }),
      { numRuns: 300 },
    );
    expect(asked).toBeGreaterThan(1000);
  });
});
