import fc from "fast-check";
import { expect, test } from "vitest";
import { formatSize, parseSize } from "../../node/sizes.ts";

test.each([
  ["0", 0],
  ["65536", 65_536],
  ["512k", 512 << 10],
  ["512K", 512 << 10],
  ["64MiB", 64 << 20],
  ["64 mib", 64 << 20],
  ["4GiB", 4 * 2 ** 30],
  ["4G", 4 * 2 ** 30],
  ["1.5GiB", 1.5 * 2 ** 30],
  ["2TiB", 2 * 2 ** 40],
  ["10MB", 10_000_000],
  ["12B", 12],
])("%s is a size", (text, sizeBytes) => {
  expect(parseSize(text)).toBe(sizeBytes);
});

test.each([
  "",
  "MiB",
  "-1",
  "1.5",
  "0.3k",
  "1e3",
  "0x10",
  "4XiB",
  "4 G B",
  "9999999999TiB",
  "1,5G",
  "Infinity",
  "1..2k",
  "constructor",
])("%j is no size", (text) => {
  expect(parseSize(text)).toBeUndefined();
});

test("a size is shown in the unit a person would take", () => {
  const sizes = [0, 1, 1023, 1024, 64 << 20, 1.5 * 2 ** 30, 2 ** 20 - 1, 2 ** 40 * 4096];
  expect(sizes.map(formatSize)).toEqual(["0B", "1B", "1023B", "1KiB", "64MiB", "1.5GiB", "1MiB", "4096TiB"]);
});

test("what is shown can be read again, to within a twentieth", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 50 }), (sizeBytes) => {
      const text = formatSize(sizeBytes);
      // A tenth of a KiB is no whole number of bytes, so the reading may need the number alone.
      const [number, unit] = [Number.parseFloat(text), text.replace(/[\d.]+/, "")];
      const read = number * parseSize(`1${unit}`)!;
      expect(Math.abs(read - sizeBytes)).toBeLessThanOrEqual(sizeBytes * 0.05);
    }),
  );
});
