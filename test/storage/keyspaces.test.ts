import { expect, test } from "vitest";
import { KEYSPACES, keyOf, partsOf, prefixOf, readableKey } from "../../storage/keyspaces.ts";

test("the numbers of the keyspaces are what they always were", () => {
  // A number that changes here makes every existing folder unreadable. Add; never renumber, never reuse.
  expect(KEYSPACES).toEqual({
    meta: "00",
    domain: "01",
    vbd: "02",
    generation: "03",
    bitmap: "04",
    replica: "05",
    placement: "06",
    history: "07",
    journal: "08",
    custody: "09",
  });
});

test("no two different lists of parts make the same key", () => {
  const parts = [
    ["a", "b"],
    ["a/b"],
    ["a%2Fb"],
    ["a", "b", ""],
    ["", "a", "b"],
    ["é"],
    ["\u0000"],
    ["\uffff"],
  ];
  const keys = parts.map((list) => keyOf("vbd", ...list));
  expect(new Set(keys).size).toBe(parts.length);
  expect(keys.map(partsOf)).toEqual(parts);
});

test("keys sort as their numbers do", () => {
  const numbers = [0, 9, 10, 99, 1000, 2 ** 40, Number.MAX_SAFE_INTEGER];
  const keys = numbers.map((number) => keyOf("generation", "d", number));
  expect(keys.toSorted()).toEqual(keys);
});

test("the prefix of one domain holds no other's keys", () => {
  const prefix = prefixOf("vbd", "d");
  expect(keyOf("vbd", "d", "root").startsWith(prefix)).toBe(true);
  for (const other of ["d2", "d/", "d/x", "d-", "dé", "d%"]) {
    expect(keyOf("vbd", other, "root").startsWith(prefix)).toBe(false);
  }
});

test("a key in a message names its keyspace and its numbers without padding", () => {
  expect(readableKey(keyOf("bitmap", "d", 0, 12, 3))).toBe("bitmap/d/0/12/3");
  expect(readableKey(keyOf("domain", "3f2a"))).toBe("domain/3f2a");
  expect(readableKey("77/x")).toBe("unknown keyspace 77/x");
});
