import { expect, it } from "vitest";
import {
  allocationExtents,
  boundedExtents,
  listQueryMatches,
} from "../../../storage/nbd/metadata-contexts.ts";

it("extents are merged, clipped to the range, and never empty", () => {
  const found = [
    { length: 0, flags: 9 },
    { length: 10, flags: 1 },
    { length: 10, flags: 1 },
    { length: 50, flags: 0 },
    { length: 50, flags: 1 },
  ];
  expect(boundedExtents(found, { length: 60 })).toEqual([
    { length: 20, flags: 1 },
    { length: 40, flags: 0 },
  ]);
  expect(boundedExtents([], { length: 60 })).toEqual([{ length: 60, flags: 0 }]);
});

it("no more extents are drawn than a reply holds", () => {
  let drawn = 0;
  function* endless() {
    for (;;) yield { length: 1, flags: drawn++ % 2 };
  }
  expect(boundedExtents(endless(), { length: 1e9, extentsMax: 3 })).toHaveLength(3);
  expect(drawn).toBeLessThanOrEqual(5);
});

it("the one extent that a client asks for is merged whole", () => {
  const found = [
    { length: 4, flags: 1 },
    { length: 4, flags: 1 },
    { length: 4, flags: 0 },
  ];
  expect(boundedExtents(found, { length: 12, extentsMax: 1 })).toEqual([{ length: 8, flags: 1 }]);
});

it("what a store cannot tell is data", () => {
  expect(allocationExtents(undefined, 77)).toEqual([{ length: 77, flags: 0 }]);
  const extent = { offset: 5, length: 77, hole: true, zero: false };
  expect(allocationExtents([extent], 77)).toEqual([{ length: 77, flags: 1 }]);
});

it("a prefix without its separator finds nothing", () => {
  expect(listQueryMatches("x-sojourn", "x-sojourn:generation/1")).toBe(false);
  expect(listQueryMatches("x-sojourn:generation/1", "x-sojourn:generation/12")).toBe(false);
  expect(listQueryMatches("x-sojourn:generation/", "x-sojourn:generation/12")).toBe(true);
});
