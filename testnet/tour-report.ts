/** What a tour says: a line of JSON per hop for programs, a table beside the paper's for people. */

import { formatDuration } from "../node/cli/format.ts";
import { type Column, formatTable } from "../node/cli/output.ts";
import type { HopReport } from "../node/control/api.ts";
import { formatSize } from "../node/sizes.ts";
import { failuresOf, HOP } from "./hop-columns.ts";
import { PAPER_ROWS } from "./paper.ts";
import type { Check } from "./tour-checks.ts";
import type { TourOptions } from "./tour-options.ts";

export type HopResult = HopReport & {
  hop: number;
  verified: boolean;
  isReturn: boolean;
  blocksAllocated: number;
  blocksDiffering?: number;
  linkBytes?: number;
  verifyMs: number;
  checks: readonly Check[];
};

export type TourSummary = {
  ok: boolean;
  failed: readonly string[];
  checks: number;
  route: readonly string[];
  workload: string;
  seed: number;
  diskSizeBytes: number;
  fillBytes: number;
  memoryBytes: number;
  image?: { path: string; sizeBytes: number; sha256: string; identical: boolean };
  guestErrors: number;
  elapsedMs: number;
};

const COLUMNS: readonly Column<HopResult>[] = [
  ...[HOP.hop, HOP.generation, HOP.rung, HOP.diskSent, HOP.changed, HOP.resent, HOP.memory],
  ...[HOP.downtime, HOP.disruption, HOP.total, HOP.postCopy],
  { title: "VERIFIED", cell: ({ verified }) => (verified ? "yes" : "NO") },
];

type Comparison = {
  who: string;
  total: string;
  downtime: string;
  data: string;
  backTime: string;
  backData: string;
  note: string;
};

const COMPARISON_COLUMNS: readonly Column<Comparison>[] = [
  { title: "FIRST MIGRATION", cell: ({ who }) => who },
  { title: "TOTAL", align: "right", cell: ({ total }) => total },
  { title: "DOWNTIME", align: "right", cell: ({ downtime }) => downtime },
  { title: "DATA", align: "right", cell: ({ data }) => data },
  { title: "IM BACK", align: "right", cell: ({ backTime }) => backTime },
  { title: "IM DATA", align: "right", cell: ({ backData }) => backData },
  { title: "", cell: ({ note }) => note },
];

export function formatTour(hops: readonly HopResult[], options: TourOptions): string {
  const comparison = compare(hops, options);
  return [
    formatTable(COLUMNS, hops),
    comparison.length < 2 ? "" : `\n${formatTable(COMPARISON_COLUMNS, comparison)}`,
  ].join("");
}

export function formatFailures(hops: readonly HopResult[], others: readonly Check[]): string {
  return failuresOf(hops, others)
    .map((failure) => `FAILED ${failure}\n`)
    .join("");
}

function compare(hops: readonly HopResult[], { workload, diskSize, fill }: TourOptions): Comparison[] {
  const first = hops.find(({ isReturn }) => !isReturn);
  const back = hops.find(({ isReturn }) => isReturn);
  const paper = PAPER_ROWS[workload];
  if (first === undefined) return [];
  const ours: Comparison = {
    who: `this tour: ${workload}, ${formatSize(fill)} in ${formatSize(diskSize)}`,
    total: formatDuration(first.totalMs),
    downtime: formatDuration(first.downtimeMs),
    data: megabytes(first.diskBytesSent / 1e6),
    backTime: back === undefined ? "-" : formatDuration(back.totalMs),
    backData: back === undefined ? "-" : megabytes(back.diskBytesSent / 1e6),
    note: "times include the memory",
  };
  if (paper === undefined) return [ours];
  const theirs: Comparison = {
    who: `the paper: ${paper.workload}, 39,070 MB disk`,
    total: formatDuration(paper.totalMs),
    downtime: formatDuration(paper.downtimeMs),
    data: megabytes(paper.dataMegabytes),
    backTime: formatDuration(paper.backMs),
    backData: megabytes(paper.backMegabytes),
    note: "reported, unverified",
  };
  return [ours, theirs];
}

function megabytes(value: number): string {
  return `${value.toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
}
