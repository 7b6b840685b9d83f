/**
 * Which blocks were written in which generations: what makes a migration back incremental, to any host that
 * kept a replica. The log travels with the domain (PROTOCOL.md §8).
 *
 *   entries        | 1 | 2   3 | 4 | 5 |        since(3) = 4 with 5
 *   replicas at          1       3              since(2) is unknown: no replica tells 2 from 3
 */

import { BlockBitmap } from "./block-bitmap.ts";
import { assert } from "./errors.ts";
import type { Generation } from "./units.ts";

/** The blocks written in generations `first` to `last`, per vbd in the order of the domain's vbds. */
export type GenerationLogEntry = {
  readonly first: Generation;
  readonly last: Generation;
  readonly written: readonly BlockBitmap[];
};

/**
 * Closed generations, adjacent and in order. A value: every operation returns another log. Bitmaps are shared
 * between logs and with whoever reads them, so nobody changes a bitmap that is in a log; `since` returns copies.
 */
export class GenerationLog {
  /** Blocks of each vbd, in the order of the domain's vbds. */
  readonly blockCounts: readonly number[];
  readonly entries: readonly GenerationLogEntry[];
  /** The last closed generation, also when nobody needs its entry any more; undefined when none is known. */
  readonly latest: Generation | undefined;

  private constructor(
    blockCounts: readonly number[],
    entries: readonly GenerationLogEntry[],
    latest: Generation | undefined,
  ) {
    assert(isGenerationLog(entries), "entries of a generation log that are not adjacent");
    assert(entries.length === 0 || entries.at(-1)!.last === latest, "a log that does not end at its latest");
    for (const { written } of entries) {
      assert(written.length === blockCounts.length, "a generation of another number of vbds");
      assert(
        written.every((bitmap, vbd) => bitmap.blockCount === blockCounts[vbd]),
        "a generation of a vbd of another size",
      );
    }
    this.blockCounts = blockCounts;
    this.entries = entries;
    this.latest = latest;
  }

  /** Nothing is known of generations up to `latest`; without it, the first `append` may be of any. */
  static empty(blockCounts: readonly number[], latest?: Generation): GenerationLog {
    return new GenerationLog(blockCounts, [], latest);
  }

  /**
   * The log of these entries, oldest first, as a journal or a peer gave them: check `isGenerationLog` before.
   * `latest` matters where `entries` is empty, see there.
   */
  static of(
    blockCounts: readonly number[],
    entries: readonly GenerationLogEntry[],
    latest?: Generation,
  ): GenerationLog {
    return new GenerationLog(blockCounts, entries, entries.at(-1)?.last ?? latest);
  }

  /** Memory that the bitmaps take now. */
  get allocatedBytes(): number {
    return this.entries.reduce(
      (sum, { written }) => sum + written.reduce((bytes, bitmap) => bytes + bitmap.allocatedBytes, 0),
      0,
    );
  }

  /** Closes generations: the ones right after `latest`. The bitmaps belong to the log from here on. */
  append(entry: GenerationLogEntry): GenerationLog {
    assert(this.latest === undefined || entry.first === this.latest + 1, "a generation that does not follow");
    return new GenerationLog(this.blockCounts, [...this.entries, entry], entry.last);
  }

  /**
   * The blocks written since the end of generation `g`, per vbd, in bitmaps of the caller's own. Undefined when
   * that cannot be told: the log does not reach back to `g`, it ends before it, or `g` lies inside an entry.
   */
  since(g: Generation): readonly BlockBitmap[] | undefined {
    if (g === this.latest) return unionOf([], this.blockCounts);
    const from = this.entries.findIndex(({ first }) => first === g + 1);
    return from < 0 ? undefined : unionOf(this.entries.slice(from), this.blockCounts);
  }

  /**
   * Forgets what no living replica needs: generations that every replica contains, and the borders between
   * generations that no replica tells apart. `since` stays what it was for each of `replicas`.
   */
  merge(replicas: Iterable<Generation>): GenerationLog {
    const generations = new Set(replicas);
    const groups: GenerationLogEntry[][] = [];
    for (const entry of this.entries) {
      if (generations.has(entry.first - 1)) groups.push([entry]);
      else groups.at(-1)?.push(entry);
    }
    const entries = groups.map((group) => joined(group, this.blockCounts));
    return new GenerationLog(this.blockCounts, entries, this.latest);
  }
}

/** Whether these entries make a log: in order, with neither gaps nor overlaps, counted from generation 1. */
export function isGenerationLog(entries: readonly GenerationLogEntry[]): boolean {
  return entries.every(({ first, last }, index) => {
    const before = entries[index - 1];
    if (!Number.isSafeInteger(first) || !Number.isSafeInteger(last)) return false;
    return first >= 1 && first <= last && (before === undefined || first === before.last + 1);
  });
}

function joined(group: readonly GenerationLogEntry[], blockCounts: readonly number[]): GenerationLogEntry {
  const [first, last] = [group[0]!, group.at(-1)!];
  if (first === last) return first;
  return { first: first.first, last: last.last, written: unionOf(group, blockCounts) };
}

function unionOf(entries: readonly GenerationLogEntry[], blockCounts: readonly number[]): BlockBitmap[] {
  return blockCounts.map((blockCount, vbd) => {
    const union = new BlockBitmap(blockCount);
    for (const { written } of entries) union.union(written[vbd]!);
    return union;
  });
}
