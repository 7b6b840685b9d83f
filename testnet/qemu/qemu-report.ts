/** What `npm run qemu` says: a line of JSON per hop for programs, a table for people. */

import { formatDuration } from "../../node/cli/format.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import type { HopReport } from "../../node/control/api.ts";
import { failuresOf, GUEST_ERRORS, HOP } from "../hop-columns.ts";
import { quantile } from "../statistics.ts";
import type { Check } from "../tour-checks.ts";

export type QemuHop = HopReport & {
  hop: number;
  /** Between QEMU's STOP at the source and its RESUME at the destination. */
  pauseMs: number;
  /** The longest silence of the guest's network during the hop. */
  packetBlackoutMs: number;
  packetsLost: number;
  announcements: number;
  guestErrors: number;
  checks: readonly Check[];
};

export type QemuSummary = {
  ok: boolean;
  failed: readonly string[];
  checks: readonly Check[];
  hops: number;
  pauseMs: { p50: number; p99: number; max: number };
  packetBlackoutMs: { p50: number; max: number };
  /** Of the same guest without vbds, and what the vbds add to its median. */
  memoryOnlyPauseMs?: { p50: number; max: number };
  diskPartMs?: number;
  guestErrors: number;
  fsck: string;
  files: number;
  qemuVersion: string;
  elapsedMs: number;
};

const COLUMNS: readonly Column<QemuHop>[] = [
  ...[HOP.hop, HOP.generation, HOP.rung, HOP.diskSent, HOP.changed, HOP.memory],
  { title: "PAUSE", align: "right", cell: ({ pauseMs }) => formatDuration(pauseMs) },
  { title: "BLACKOUT", align: "right", cell: ({ packetBlackoutMs }) => formatDuration(packetBlackoutMs) },
  ...[HOP.total, HOP.postCopy, GUEST_ERRORS],
];

export function summaryOf(
  hops: readonly QemuHop[],
  {
    baseline,
    ...end
  }: Pick<QemuSummary, "fsck" | "files" | "checks" | "elapsedMs" | "qemuVersion"> & {
    baseline?: readonly QemuHop[];
  },
): QemuSummary {
  const failed = failuresOf(hops, end.checks);
  const pauses = hops.map(({ pauseMs }) => pauseMs);
  const p50 = quantile(pauses, 0.5);
  const without = baseline?.map(({ pauseMs }) => pauseMs);
  const blackouts = hops.map(({ packetBlackoutMs }) => packetBlackoutMs);
  return {
    ...end,
    ok: failed.length === 0,
    failed,
    hops: hops.length,
    pauseMs: { p50, p99: quantile(pauses, 0.99), max: Math.max(...pauses) },
    packetBlackoutMs: { p50: quantile(blackouts, 0.5), max: Math.max(...blackouts) },
    ...(without && {
      memoryOnlyPauseMs: { p50: quantile(without, 0.5), max: Math.max(...without) },
      diskPartMs: p50 - quantile(without, 0.5),
    }),
    guestErrors: hops.at(-1)?.guestErrors ?? Number.NaN,
  };
}

export function formatQemuRun(hops: readonly QemuHop[], summary: QemuSummary): string {
  const { pauseMs, packetBlackoutMs, fsck, files, guestErrors, qemuVersion, memoryOnlyPauseMs } = summary;
  const baseline =
    memoryOnlyPauseMs === undefined ? "" : ` (without disks ${formatDuration(memoryOnlyPauseMs.p50)})`;
  return [
    formatTable(COLUMNS, hops),
    `\nQEMU ${qemuVersion}: pause p50 ${formatDuration(pauseMs.p50)}${baseline}, max ${formatDuration(pauseMs.max)}; `,
    `packet blackout p50 ${formatDuration(packetBlackoutMs.p50)}, max ${formatDuration(packetBlackoutMs.max)}; `,
    `guest errors ${guestErrors}; fsck ${fsck === "" ? "clean" : fsck.split("\n").at(-1)}; ${files} files equal.\n`,
  ].join("");
}
