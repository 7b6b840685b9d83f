/** What a guest waits for, in messages of a bounded size. */

import { countOf } from "../../protocol/block-sender.ts";
import type { BlockRun } from "../../protocol/units.ts";

const PULL_BLOCKS_MAX = 1024;

/** A guest's trim of a whole vbd may wait for more blocks than one `pull` may ask for. */
export function pullsOf(runs: readonly BlockRun[]): BlockRun[][] {
  const pulls: BlockRun[][] = [];
  for (const run of runs) {
    for (let start = run.start; start < run.start + run.count; start += PULL_BLOCKS_MAX) {
      const count = Math.min(PULL_BLOCKS_MAX, run.start + run.count - start);
      const last = pulls.at(-1);
      if (last !== undefined && countOf(last) + count <= PULL_BLOCKS_MAX) last.push({ start, count });
      else pulls.push([{ start, count }]);
    }
  }
  return pulls;
}
