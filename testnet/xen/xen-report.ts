/** What `npm run xen` says: a line of JSON per hop for programs, a table for people. */

import { formatDuration } from "../../node/cli/format.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import type { HopReport } from "../../node/control/api.ts";
import { formatSize } from "../../node/sizes.ts";
import { bytesMax, type Check } from "../tour-checks.ts";

export type XenHop = HopReport & {
  hop: number;
  guestErrors: number;
  /** Of xl's stream at the source: passes over memory, and how long it took from the freeze to its end. */
  xen: Record<string, unknown>;
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
  { title: "HOP", cell: ({ from, to }) => `${from} -> ${to}` },
  { title: "GEN", align: "right", cell: ({ generation }) => String(generation) },
  { title: "RUNG", cell: ({ rung }) => rung },
  { title: "DISK SENT", align: "right", cell: ({ diskBytesSent }) => formatSize(diskBytesSent) },
  { title: "CHANGED", align: "right", cell: ({ blocksChanged }) => `${blocksChanged}` },
  { title: "MEMORY", align: "right", cell: ({ memoryBytesSent }) => formatSize(memoryBytesSent) },
  { title: "DOWNTIME", align: "right", cell: ({ downtimeMs }) => formatDuration(downtimeMs) },
  { title: "TOTAL", align: "right", cell: ({ totalMs }) => formatDuration(totalMs) },
  { title: "ERRORS", align: "right", cell: ({ guestErrors }) => `${guestErrors}` },
];

/** What a return may send of the disks. */
export function bytesAllowed({ blocksChanged, blocksResent }: HopReport): number {
  return bytesMax(blocksChanged, blocksResent);
}

export function summaryOf(
  hops: readonly XenHop[],
  end: Pick<XenSummary, "fsck" | "checks" | "elapsedMs" | "xenVersion">,
): XenSummary {
  const failed = [
    ...hops.flatMap(({ hop, from, to, checks }) => failuresOf(`hop ${hop}, ${from} -> ${to}`, checks)),
    ...failuresOf("at the end", end.checks),
  ];
  const guestErrors = hops.at(-1)?.guestErrors ?? Number.NaN;
  return { ...end, ok: failed.length === 0, failed, hops: hops.length, guestErrors };
}

export function formatXenRun(hops: readonly XenHop[], { xenVersion, guestErrors, fsck }: XenSummary): string {
  return `${formatTable(COLUMNS, hops)}\nXen ${xenVersion}, nested: guest errors ${guestErrors}; fsck ${fsck}.\n`;
}

function failuresOf(where: string, checks: readonly Check[]): string[] {
  return checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${where}: ${name}: ${detail}`);
}
