/** Reads blocks for the wire: zero blocks are told apart, because no bytes need to travel for them. */

import type { BlocksPurpose, SourceMessage, VbdIndex } from "../../protocol/messages.ts";
import { BLOCK_SIZE_BYTES, type BlockRun, byteRangeOf } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";

type BlocksMessage = Extract<SourceMessage, { type: "blocks" }>;

const ZERO_BLOCK = Buffer.alloc(BLOCK_SIZE_BYTES);

export async function readBlocks(
  store: BlockStore,
  request: { ticket: number; purpose: BlocksPurpose; vbd: VbdIndex; runs: readonly BlockRun[] },
): Promise<BlocksMessage> {
  const { sizeBytes } = store;
  const length = request.runs.reduce((sum, run) => sum + byteRangeOf(run, sizeBytes).length, 0);
  const data = Buffer.allocUnsafeSlow(length);
  const runs: BlockRun[] = [];
  const zeroes: BlockRun[] = [];
  let filled = 0;
  for (const run of request.runs) {
    const range = byteRangeOf(run, sizeBytes);
    const target = data.subarray(filled, filled + range.length);
    const done = store.read(range.offset, target);
    if (done !== undefined) await done;
    filled += squeeze(run, target, { runs, zeroes });
  }
  return { type: "blocks", ...request, runs, zeroes, data: data.subarray(0, filled) };
}

/** Moves the run's non-zero blocks to the front of `target` and returns their length in bytes. */
function squeeze(run: BlockRun, target: Buffer, into: { runs: BlockRun[]; zeroes: BlockRun[] }): number {
  let kept = 0;
  for (let index = 0; index < run.count; index++) {
    const from = index * BLOCK_SIZE_BYTES;
    const block = target.subarray(from, Math.min(from + BLOCK_SIZE_BYTES, target.length));
    if (block.equals(ZERO_BLOCK.subarray(0, block.length))) {
      append(into.zeroes, run.start + index);
      continue;
    }
    append(into.runs, run.start + index);
    if (kept !== from) target.copyWithin(kept, from, from + block.length);
    kept += block.length;
  }
  return kept;
}

function append(runs: BlockRun[], block: number): void {
  const last = runs[runs.length - 1];
  if (last !== undefined && last.start + last.count === block) {
    runs[runs.length - 1] = { start: last.start, count: last.count + 1 };
  } else {
    runs.push({ start: block, count: 1 });
  }
}
