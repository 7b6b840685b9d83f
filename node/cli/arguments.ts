/** Parsers of option values; each complains in the words of the option's user. */

import { InvalidArgumentError } from "commander";
import { parseSize } from "../sizes.ts";

export function integer({
  min,
  max = Number.MAX_SAFE_INTEGER,
}: {
  min: number;
  max?: number;
}): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  };
}

/** "64MiB" and the like, in bytes; at least one byte. */
export function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined) throw new InvalidArgumentError("It must be a size, such as 64MiB or 4GiB.");
  if (bytes < 1) throw new InvalidArgumentError("It must be at least one byte.");
  return bytes;
}

const UNIT_MS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** "90s", "30m", "24h", "7d", in milliseconds. */
export function duration(text: string): number {
  const [, count, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  if (count === undefined || unit === undefined) {
    throw new InvalidArgumentError("It must be a duration, such as 90s, 30m, 24h or 7d.");
  }
  return Number(count) * UNIT_MS[unit]!;
}

/** Adds one value of an option that may stand several times. */
export function collect<T>(parse: (text: string) => T): (text: string, previous: T[] | undefined) => T[] {
  return (text, previous = []) => [...previous, parse(text)];
}
