/** Allocation of a vbd some of whose blocks are still elsewhere. */

import { BLOCK_SIZE_BYTES, type BlockRun } from "../protocol/units.ts";
import { type Extent, pushExtent } from "./block-store.ts";

/** `extents` with the missing runs, which are in order, as data: what is here of them says nothing. */
export function withMissing(extents: readonly Extent[], missing: readonly BlockRun[]): readonly Extent[] {
  const merged: Extent[] = [];
  let index = 0;
  for (const extent of extents) {
    const end = extent.offset + extent.length;
    for (let at = extent.offset; at < end; ) {
      while (index < missing.length && runEnd(missing[index]!) <= at) index++;
      const run = missing[index];
      const runStart = run === undefined ? end : Math.min(end, run.start * BLOCK_SIZE_BYTES);
      if (at < runStart) {
        pushExtent(merged, { ...extent, offset: at, length: runStart - at });
        at = runStart;
      } else {
        const stop = Math.min(end, runEnd(run!));
        pushExtent(merged, { offset: at, length: stop - at, hole: false, zero: false });
        at = stop;
      }
    }
  }
  return merged;
}

function runEnd(run: BlockRun): number {
  return (run.start + run.count) * BLOCK_SIZE_BYTES;
}
