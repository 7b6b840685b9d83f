/** Bits in an array of 32-bit words: bit `i` is bit `i % 32` of word `i / 32`. Ranges end before `end`. */

export function popcount(word: number): number {
  word -= (word >>> 1) & 0x5555_5555;
  word = (word & 0x3333_3333) + ((word >>> 2) & 0x3333_3333);
  return Math.imul((word + (word >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

/** Sets (or clears) the bits from `from` to before `end`; returns how many changed. */
export function assignBits(words: Uint32Array, from: number, end: number, value: boolean): number {
  let changed = 0;
  for (let index = from >>> 5; index << 5 < end; index++) {
    const mask = maskOf(index, from, end);
    const before = words[index]!;
    const after = value ? before | mask : before & ~mask;
    if (after === before) continue;
    changed += popcount(before ^ after);
    words[index] = after;
  }
  return changed;
}

/** The first bit at or after `from` that is set, or `end`. */
export function nextSetBit(words: Uint32Array, from: number, end: number): number {
  return nextBit(words, from, end, 0);
}

/** The first bit at or after `from` that is clear, or `end`. */
export function nextClearBit(words: Uint32Array, from: number, end: number): number {
  return nextBit(words, from, end, -1);
}

/** How many bits are set. */
export function countBits(words: Uint32Array): number {
  let count = 0;
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    if (word !== 0) count += popcount(word);
  }
  return count;
}

/** How many runs of set bits there are. */
export function countRuns(words: Uint32Array): number {
  let runs = 0;
  let carry = 0;
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    if (word !== 0) runs += popcount(word & ~((word << 1) | carry));
    carry = word >>> 31;
  }
  return runs;
}

function nextBit(words: Uint32Array, from: number, end: number, invert: 0 | -1): number {
  if (from >= end) return end;
  let index = from >>> 5;
  let word = (words[index]! ^ invert) & (-1 << (from & 31));
  while (word === 0) {
    index += 1;
    if (index << 5 >= end) return end;
    word = words[index]! ^ invert;
  }
  return Math.min((index << 5) + (31 - Math.clz32(word & -word)), end);
}

/** The bits of word `index` that lie in the range. */
function maskOf(index: number, from: number, end: number): number {
  const first = index << 5;
  const low = from > first ? -1 << (from - first) : -1;
  const high = end < first + 32 ? ~(-1 << (end - first)) : -1;
  return low & high;
}
