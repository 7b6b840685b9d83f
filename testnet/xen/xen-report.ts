/** What `npm run xen` says: a line of JSON per hop for programs, a table for people. */

import { type Column, formatTable } from "../../node/cli/output.ts";
import type { HopReport } from "../../node/control/api.ts";
import { failuresOf, GUEST_ERRORS, HOP } from "../hop-columns.ts";
import { bytesMax, type Check } from "../tour-checks.ts";

export type XenHop = HopReport & {
  hop: number;
  guestErrors: number;
  /** Of xl's stream at the source: passes over memory, and how long it took from the freeze to its end. */
  xen: Record<string, unknown>;
  checks: readonly Check[];
};

/** What became of a migration that was broken. */
export type XenBreak = {
  break: string;
  what: string;
  from: string;
  to: string;
  /** Where it runs now, and for how long the guest's host was not settled. */
  runsOn: string;
  settledMs: number;
  guestErrors: number;
  /** What `show` said of it on each host, while it was not settled: every answer once. */
  said: readonly string[];
  checks: readonly Check[];
};

export type XenSummary = {
  ok: boolean;
  failed: readonly string[];
  checks: readonly Check[];
  hops: number;
  guestErrors: number;
  fsck: string;
  xenVersion: string;
  elapsedMs: number;
};

const COLUMNS: readonly Column<XenHop>[] = [
  ...[HOP.hop, HOP.generation, HOP.rung, HOP.diskSent, HOP.changed, HOP.memory],
  ...[HOP.downtime, HOP.total, GUEST_ERRORS],
];

/** What a return may send of the disks. */
export function bytesAllowed({ blocksChanged, blocksResent }: HopReport): number {
  return bytesMax(blocksChanged, blocksResent);
}

export function summaryOf(
  hops: readonly XenHop[],
  end: Pick<XenSummary, "fsck" | "checks" | "elapsedMs" | "xenVersion">,
): XenSummary {
  const failed = failuresOf(hops, end.checks);
  const guestErrors = hops.at(-1)?.guestErrors ?? Number.NaN;
  return { ...end, ok: failed.length === 0, failed, hops: hops.length, guestErrors };
}

export function formatXenRun(hops: readonly XenHop[], { xenVersion, guestErrors, fsck }: XenSummary): string {
  return `${formatTable(COLUMNS, hops)}\nXen ${xenVersion}, nested: guest errors ${guestErrors}; fsck ${fsck}.\n`;
}
