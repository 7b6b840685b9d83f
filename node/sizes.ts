/**
 * Sizes as people write them. `k`, `M`, `G`, `T` alone count in 1024, as qemu-img and dd have it; `kB`, `MB`, …
 * in 1000, as disk vendors and the SI have it; `KiB`, `MiB`, … say it in full.
 */

const FACTORS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 2 ** 10,
  kib: 2 ** 10,
  kb: 1e3,
  m: 2 ** 20,
  mib: 2 ** 20,
  mb: 1e6,
  g: 2 ** 30,
  gib: 2 ** 30,
  gb: 1e9,
  t: 2 ** 40,
  tib: 2 ** 40,
  tb: 1e12,
};

/** Whole bytes; undefined when `text` is no size, is negative, or is no whole number of bytes. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d{1,16}(?:\.\d{1,6})?)\s*([a-z]*)$/i.exec(text.trim());
  const factor = FACTORS[match?.[2]?.toLowerCase() ?? "?"];
  if (match === null || factor === undefined) return undefined;
  const sizeBytes = Number(match[1]) * factor;
  return Number.isSafeInteger(sizeBytes) ? sizeBytes : undefined;
}

/** For people: `64MiB` when that is exact, else rounded to a tenth: `1.5GiB`. */
export function formatSize(sizeBytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = sizeBytes;
  // What would be rounded to 1024.0 is one of the next unit.
  while (value >= 1023.95 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number(value.toFixed(1))}${units[unit]}`;
}
