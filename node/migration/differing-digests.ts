import { DIGEST_SIZE_BYTES } from "../../protocol/limits.ts";

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
