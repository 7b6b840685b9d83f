/** What a table of hops says of each, whatever the hypervisor. */

import { formatDuration } from "../node/cli/format.ts";
import type { Column } from "../node/cli/output.ts";
import type { HopReport } from "../node/control/api.ts";
import { formatSize } from "../node/sizes.ts";
import type { Check } from "./tour-checks.ts";

export const HOP = {
  hop: { title: "HOP", cell: ({ from, to }) => `${from} -> ${to}` },
  generation: { title: "GEN", align: "right", cell: ({ generation }) => String(generation) },
  rung: { title: "RUNG", cell: ({ rung }) => rung },
  diskSent: { title: "DISK SENT", align: "right", cell: ({ diskBytesSent }) => formatSize(diskBytesSent) },
  changed: { title: "CHANGED", align: "right", cell: ({ blocksChanged }) => `${blocksChanged}` },
  resent: { title: "RESENT", align: "right", cell: ({ blocksResent }) => `${blocksResent}` },
  memory: { title: "MEMORY", align: "right", cell: ({ memoryBytesSent }) => formatSize(memoryBytesSent) },
  downtime: { title: "DOWNTIME", align: "right", cell: ({ downtimeMs }) => formatDuration(downtimeMs) },
  disruption: {
    title: "DISRUPTION",
    align: "right",
    cell: ({ disruptionMs }) => formatDuration(disruptionMs),
  },
  total: { title: "TOTAL", align: "right", cell: ({ totalMs }) => formatDuration(totalMs) },
  postCopy: {
    title: "PUSHED/PULLED/SUPERSEDED",
    align: "right",
    cell: ({ pushed, pulled, superseded }) => `${pushed}/${pulled}/${superseded}`,
  },
} as const satisfies Record<string, Column<HopReport>>;

/** Of a guest that checks itself. */
export const GUEST_ERRORS: Column<{ guestErrors: number }> = {
  title: "ERRORS",
  align: "right",
  cell: ({ guestErrors }) => `${guestErrors}`,
};

/** What failed, of hops and at the end, each with where that was. */
export function failuresOf(
  hops: readonly Pick<
    HopReport & { hop: number; checks: readonly Check[] },
    "hop" | "from" | "to" | "checks"
  >[],
  end: readonly Check[],
): string[] {
  const of = (where: string, checks: readonly Check[]): string[] =>
    checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${where}: ${name}: ${detail}`);
  return [
    ...hops.flatMap(({ hop, from, to, checks }) => of(`hop ${hop}, ${from} -> ${to}`, checks)),
    ...of("at the end", end),
  ];
}
