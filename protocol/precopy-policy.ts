/**
 * When pre-copy stops (PROTOCOL.md §9; the rules are Xen's and Clark's): after each iteration, another one or the
 * freeze. Whatever is left at the freeze goes in post-copy, so freezing is always safe: the rules weigh
 * the bytes of another iteration against the blocks that the guest may have to wait for.
 */

import { assert } from "./errors.ts";

/** Of a throttled domain's iterations: at a half, what is left halves with each. */
const DIRTIED_TO_SENT_GOAL = 0.5;

export type IterationStatistics = {
  /** The iteration that has just ended, from 1. */
  readonly iteration: number;
  /** Blocks that the domain wrote during it, and that were sent during it. */
  readonly dirtiedBlocks: number;
  readonly sentBlocks: number;
  readonly elapsedMs: number;
  /** What another iteration would send. */
  readonly remainingBlocks: number;
  /** Sent since the start of the migration, and the size of all its vbds. */
  readonly totalSentBlocks: number;
  readonly diskBlocks: number;
  /** Of its write rate that the domain has: 1 until it is slowed. */
  readonly writeShare: number;
};

export type PrecopyLimits = {
  readonly remainingBlocksToFreeze: number;
  readonly iterationsMax: number;
  /** The total may be this many times the vbds' size. */
  readonly totalSentFactorMax: number;
  /**
   * The part of its write rate, from 0 to 1, that a domain may lose so that pre-copy converges. Without it, and
   * with 0, nothing is ever slowed.
   */
  readonly writeSlowdownMax?: number;
};

/** In the order in which they are asked: the first that holds is the reason. */
export type FreezeReason =
  /** What is left fits the goal. */
  | "little-remains"
  /** The domain writes at least as fast as we send: another iteration leaves no less. */
  | "dirty-rate-too-high"
  | "iteration-cap"
  | "total-sent-cap";

/** Rates are those of the iteration, for reports; undefined when it was too short to have any. */
export type PrecopyVerdict = (
  | { readonly decision: "iterate"; readonly reason: "converging" }
  /** Iterate, with the domain's writes slowed to `share` of the rate they had. */
  | { readonly decision: "throttle"; readonly reason: "dirty-rate-too-high"; readonly share: number }
  | { readonly decision: "freeze"; readonly reason: FreezeReason }
) & { readonly dirtyBlocksPerSecond: number | undefined; readonly sentBlocksPerSecond: number | undefined };

export function precopyPolicy(statistics: IterationStatistics, limits: PrecopyLimits): PrecopyVerdict {
  for (const [name, value] of Object.entries(statistics)) assert(value >= 0, `negative ${name}`);
  const dirtyBlocksPerSecond = perSecond(statistics.dirtiedBlocks, statistics.elapsedMs);
  const sentBlocksPerSecond = perSecond(statistics.sentBlocks, statistics.elapsedMs);
  const rates = { dirtyBlocksPerSecond, sentBlocksPerSecond };
  const reason = reasonToFreeze(statistics, limits);
  const share = reason === "dirty-rate-too-high" ? shareToKeep(statistics, limits) : undefined;
  if (share !== undefined) return { decision: "throttle", reason: "dirty-rate-too-high", share, ...rates };
  if (reason !== undefined) return { decision: "freeze", reason, ...rates };
  return { decision: "iterate", reason: "converging", ...rates };
}

function reasonToFreeze(
  { iteration, dirtiedBlocks, sentBlocks, remainingBlocks, totalSentBlocks, diskBlocks }: IterationStatistics,
  { remainingBlocksToFreeze, iterationsMax, totalSentFactorMax }: PrecopyLimits,
): FreezeReason | undefined {
  if (remainingBlocks <= remainingBlocksToFreeze) return "little-remains";
  // Both were counted over the same time, so the counts compare as the rates do. An iteration that sent nothing
  // has shown nothing about how fast we send.
  if (sentBlocks > 0 && dirtiedBlocks >= sentBlocks) return "dirty-rate-too-high";
  if (iteration >= iterationsMax) return "iteration-cap";
  if (totalSentBlocks >= totalSentFactorMax * diskBlocks) return "total-sent-cap";
  return undefined;
}

/**
 * So slow that an iteration leaves half of what it sent, but no slower than allowed; undefined when that is no slower
 * than now. It may take several steps: a domain that rewrites the same blocks dirties fewer than it writes.
 */
function shareToKeep(
  { dirtiedBlocks, sentBlocks, writeShare }: IterationStatistics,
  { writeSlowdownMax = 0 }: PrecopyLimits,
): number | undefined {
  const share = Math.max(
    1 - writeSlowdownMax,
    (writeShare * DIRTIED_TO_SENT_GOAL * sentBlocks) / dirtiedBlocks,
  );
  return share < writeShare ? share : undefined;
}

function perSecond(blocks: number, elapsedMs: number): number | undefined {
  return elapsedMs > 0 ? (blocks * 1000) / elapsedMs : undefined;
}
