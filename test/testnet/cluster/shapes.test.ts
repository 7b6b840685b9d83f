import { expect, it } from "vitest";
import { partitionOf } from "../../../testnet/cluster/shapes.ts";

const NAMES = ["a", "b", "c", "d", "e", "f"];

it("halves hear nothing of each other, and all of their own", () => {
  const { groups, cuts } = partitionOf(NAMES, "halves");
  expect(groups).toEqual([
    ["a", "b", "c"],
    ["d", "e", "f"],
  ]);
  expect(cuts).toHaveLength(2 * 3 * 3);
  for (const { from, to } of cuts) expect("abc".includes(from)).not.toBe("abc".includes(to));
});

it("of three parts none hears another", () => {
  const { groups, cuts } = partitionOf(NAMES, "three-way");
  expect(groups.map((group) => group.join(""))).toEqual(["ab", "cd", "ef"]);
  expect(cuts).toHaveLength(6 * 4);
});

it("one-way loses what the first half sends, and nothing that it should hear", () => {
  const { cuts } = partitionOf(NAMES, "one-way");
  expect(new Set(cuts.map(({ from }) => from))).toEqual(new Set(["a", "b", "c"]));
  expect(new Set(cuts.map(({ to }) => to))).toEqual(new Set(["d", "e", "f"]));
  expect(cuts).toHaveLength(9);
});
