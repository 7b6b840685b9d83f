/** What `npm run qemu` says: a line of JSON per hop for programs, a table for people. */

import { formatDuration } from "../../node/cli/format.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import type { HopReport } from "../../node/control/api.ts";
import { failuresOf, GUEST_ERRORS, HOP } from "../hop-columns.ts";
import { quantile } from "../statistics.ts";
import type { Check } from "../tour-checks.ts";
import type { MemoryHop } from "./plain-guest.ts";
import { formatStages, type PauseReport } from "./stages.ts";

/** `pauseMs`: between QEMU's STOP at the source and its RESUME at the destination. */
export type QemuHop = HopReport &
  PauseReport & {
    hop: number;
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
  /** What of the pause is our own, and not QEMU's. */
  oursMs: { p50: number; p99: number };
  /** Of another such guest whose memory QEMU migrates alone, and how much longer ours pauses in the median. */
  memoryOnlyPauseMs?: { p50: number; p99: number; max: number };
  beyondMemoryMs?: number;
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
    baseline?: readonly MemoryHop[];
  },
): QemuSummary {
  const failed = failuresOf(hops, end.checks);
  const pauses = hops.map(({ pauseMs }) => pauseMs);
  const p50 = quantile(pauses, 0.5);
  const ours = hops.map(({ oursMs }) => oursMs);
  const without = baseline?.map(({ pauseMs }) => pauseMs);
  const blackouts = hops.map(({ packetBlackoutMs }) => packetBlackoutMs);
  return {
    ...end,
    ok: failed.length === 0,
    failed,
    hops: hops.length,
    pauseMs: { p50, p99: quantile(pauses, 0.99), max: Math.max(...pauses) },
    oursMs: { p50: quantile(ours, 0.5), p99: quantile(ours, 0.99) },
    packetBlackoutMs: { p50: quantile(blackouts, 0.5), max: Math.max(...blackouts) },
    ...(without && {
      memoryOnlyPauseMs: {
        p50: quantile(without, 0.5),
        p99: quantile(without, 0.99),
        max: Math.max(...without),
      },
      beyondMemoryMs: p50 - quantile(without, 0.5),
    }),
    guestErrors: hops.at(-1)?.guestErrors ?? Number.NaN,
  };
}

export function formatQemuRun(hops: readonly QemuHop[], summary: QemuSummary): string {
  const { pauseMs, oursMs, packetBlackoutMs, fsck, files, guestErrors, qemuVersion } = summary;
  const { memoryOnlyPauseMs: memory, beyondMemoryMs = 0 } = summary;
  const baseline =
    memory === undefined
      ? ""
      : `memory alone, by QEMU alone: pause p50 ${ms(memory.p50)}, p99 ${ms(memory.p99)}, max ${ms(memory.max)}; ours is ${ms(beyondMemoryMs)} longer\n`;
  return [
    formatTable(COLUMNS, hops),
    `\n${formatStages(hops)}\n`,
    `QEMU ${qemuVersion}: pause p50 ${ms(pauseMs.p50)}, p99 ${ms(pauseMs.p99)}, max ${ms(pauseMs.max)}; `,
    `of it ours p50 ${ms(oursMs.p50)}, p99 ${ms(oursMs.p99)}\n`,
    baseline,
    `packet blackout p50 ${formatDuration(packetBlackoutMs.p50)}, max ${formatDuration(packetBlackoutMs.max)}; `,
    `guest errors ${guestErrors}; fsck ${fsck === "" ? "clean" : fsck.split("\n").at(-1)}; ${files} files equal.\n`,
  ].join("");
}

function ms(value: number): string {
  return `${value.toFixed(1)} ms`;
}
