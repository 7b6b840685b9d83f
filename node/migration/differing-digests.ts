import { DIGEST_SIZE_BYTES } from "../../protocol/limits.ts";
import type { SourceEffect, SourceEvent } from "../../protocol/source.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import { digestsOf } from "../../storage/digests.ts";

/** Digests our own blocks, and says which of the peer's differ from them. */
export async function compareDigests(
  store: BlockStore,
  { attempt, vbd, level, start, count, digests }: Extract<SourceEffect, { type: "compare-digests" }>,
): Promise<SourceEvent> {
  const ours = await digestsOf(store, { level, start, count });
  const differing = differingDigests(ours, digests, start);
  return { type: "compared", attempt, vbd, level, start, count, differing };
}

/** Indexes, from `start` on, at which two lists of digests differ. A list that is short differs in the rest. */
export function differingDigests(ours: Uint8Array, theirs: Uint8Array, start: number): number[] {
  const differing: number[] = [];
  for (let index = 0; index * DIGEST_SIZE_BYTES < ours.length; index++) {
    const from = index * DIGEST_SIZE_BYTES;
    const to = from + DIGEST_SIZE_BYTES;
    if (Buffer.compare(ours.subarray(from, to), theirs.subarray(from, to)) !== 0)
      differing.push(start + index);
  }
  return differing;
}
