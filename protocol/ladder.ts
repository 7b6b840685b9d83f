/**
 * The ladder of incremental migration: how little has to be sent of one vbd, given what the destination
 * holds of it and what is known of the writes since (PROTOCOL.md §8.6). The reasons are for people; nothing reads
 * them.
 *
 *   bitmaps      a replica, and every write since is in a block-bitmap: send those blocks
 *   hashes       a copy that nobody can compare by bitmaps: send the blocks whose digests differ
 *   allocated    no copy: send what is allocated and not zero
 *   everything   no copy, and nobody can tell what is allocated
 */

import type { BlockBitmap } from "./block-bitmap.ts";
import type { CopyAtDestination, RungChoice } from "./messages.ts";
import type { Generation } from "./units.ts";

export type LadderFacts = {
  readonly copy: CopyAtDestination;
  /** The generation that is open at the source. */
  readonly generation: Generation;
  /** The closed generations' writes since the replica's; undefined when the log cannot tell. */
  readonly since: BlockBitmap | undefined;
  /** Why the open generation's tracker cannot be trusted; undefined when it can. */
  readonly untrusted: string | undefined;
};

/** Never `everything`: that rung is taken when the scan for allocated blocks found out nothing. */
export function chooseRung({ copy, generation, since, untrusted }: LadderFacts): RungChoice {
  if (copy.kind === "none") return { rung: "allocated", reason: "no copy at the destination" };
  if (copy.kind === "unknown") {
    return { rung: "hashes", reason: `nobody vouches for the destination's copy: ${copy.reason}` };
  }
  const replica = `replica of generation ${copy.generation}`;
  if (copy.generation >= generation) {
    return { rung: "hashes", reason: `${replica}, but generation ${generation} is still being written` };
  }
  if (untrusted !== undefined) {
    return {
      rung: "hashes",
      reason: `${replica}, but generation ${generation} was not tracked: ${untrusted}`,
    };
  }
  if (since === undefined) {
    return { rung: "hashes", reason: `${replica}, but the generation log does not reach back to it` };
  }
  const first = copy.generation + 1;
  const written = first === generation ? `generation ${first}` : `generations ${first} to ${generation}`;
  return { rung: "bitmaps", reason: `${replica}, blocks written in ${written}` };
}

/** The last rung: `reason` says why allocation could not be told. */
export function everythingBecause(reason: string): RungChoice {
  return { rung: "everything", reason: `no copy at the destination, and ${reason}` };
}
