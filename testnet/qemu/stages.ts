/**
 * What a guest waits for while it stands still, stage by stage: from QEMU's own events and from the phases of both
 * machines, as the two daemons note them in their logs. All hosts of a testnet share one clock.
 *
 *   source        STOP ▶ held ▶ let ▶ sent ···················· handing over
 *   destination              memory's tail ▶ loaded ▶ prepared ·············· owner ▶ exported ▶ RESUME
 */

import { readFile } from "node:fs/promises";
import { type Column, formatTable } from "../../node/cli/output.ts";
import type { ClusterHost } from "../cluster.ts";
import { quantile } from "../statistics.ts";

type End = "source" | "destination";

/** A line of a log by which a moment is known. */
type Mark = { end: End; event?: string; status?: string; phase?: string; message?: string };

/** `qemu`: its own work, which a migration of the memory alone has too. `ours`: what we add. */
export type StageOwner = "qemu" | "ours";

type StageKind = { name: string; owner: StageOwner; until: Mark };

export type Stage = { name: string; owner: StageOwner; ms: number };

const BEGIN: Mark = { end: "source", event: "STOP" };

/** In order. A moment that came before the one above it (both ends work at once) makes a stage of no length. */
const STAGES: readonly StageKind[] = [
  {
    name: "the source's QEMU drains and flushes",
    owner: "qemu",
    until: { end: "source", event: "MIGRATION", status: "pre-switchover" },
  },
  {
    name: "the vbds are fenced",
    owner: "ours",
    until: { end: "source", event: "MIGRATION", status: "device" },
  },
  {
    name: "the source's QEMU writes the memory's tail",
    owner: "qemu",
    until: { end: "source", event: "MIGRATION", status: "completed" },
  },
  {
    name: "the destination's QEMU loads it",
    owner: "qemu",
    until: { end: "destination", event: "MIGRATION", status: "completed" },
  },
  { name: "and the rest is durable there", owner: "ours", until: { end: "destination", phase: "prepared" } },
  { name: "handed over", owner: "ours", until: { end: "source", phase: "handing-over" } },
  { name: "owned", owner: "ours", until: { end: "destination", phase: "resuming" } },
  { name: "the vbds are exported", owner: "ours", until: { end: "destination", message: "vbds exported" } },
  { name: "and exchanged", owner: "ours", until: { end: "destination", event: "RESUME" } },
];

export type PauseReport = { pauseMs: number; oursMs: number; stages: readonly Stage[] };

type Line = { time: string; message: string; event?: string; status?: string; to?: string; atMs?: number };

/** Of the newest migration of `domain` that the two logs know of. */
export async function pauseOf({
  source,
  destination,
  domain,
}: {
  source: ClusterHost;
  destination: ClusterHost;
  domain: string;
}): Promise<PauseReport> {
  const lines = { source: await linesOf(source, domain), destination: await linesOf(destination, domain) };
  const stopMs = lines.source
    .filter((line) => fits(line, BEGIN))
    .map(timeOf)
    .at(-1);
  if (stopMs === undefined) throw new Error(`no STOP of the domain in the log of ${source.name}`);
  let beforeMs = stopMs;
  const stages = STAGES.map(({ name, owner, until }): Stage => {
    const moments = lines[until.end].filter((line) => fits(line, until)).map(timeOf);
    const atMs = moments.find((time) => time >= stopMs - CLOCK_MS);
    if (atMs === undefined)
      throw new Error(`the logs of ${source.name} and ${destination.name} lack: ${name}`);
    const ms = Math.max(0, atMs - beforeMs);
    beforeMs = Math.max(beforeMs, atMs);
    return { name, owner, ms };
  });
  const oursMs = sum(stages.filter(({ owner }) => owner === "ours").map(({ ms }) => ms));
  return { pauseMs: beforeMs - stopMs, oursMs, stages };
}

/** Our own lines have whole milliseconds, QEMU's events more. */
const CLOCK_MS = 1;

const COLUMNS: readonly Column<{ name: string; owner: StageOwner; ms: readonly number[] }>[] = [
  { title: "STAGE OF THE PAUSE", cell: ({ name }) => name },
  { title: "WHOSE", cell: ({ owner }) => (owner === "qemu" ? "QEMU's" : "ours") },
  { title: "P50 MS", align: "right", cell: ({ ms }) => quantile(ms, 0.5).toFixed(1) },
  { title: "P99 MS", align: "right", cell: ({ ms }) => quantile(ms, 0.99).toFixed(1) },
];

export function formatStages(pauses: readonly PauseReport[]): string {
  const rows = STAGES.map(({ name, owner }, index) => {
    return { name, owner, ms: pauses.map(({ stages }) => stages[index]!.ms) };
  });
  return formatTable(COLUMNS, rows);
}

function fits(line: Line, { event, status, phase, message }: Mark): boolean {
  if (event !== undefined) return line.event === event && (status === undefined || line.status === status);
  if (phase !== undefined) return line.message === "phase changed" && line.to === phase;
  return line.message === message;
}

async function linesOf({ logPath }: ClusterHost, domain: string): Promise<Line[]> {
  const lines = (await readFile(logPath, "utf8")).split("\n");
  const known = /"message":"(?:phase changed|the guest's machine|vbds exported)"/;
  return lines
    .filter((line) => known.test(line) && line.includes(domain))
    .map((line) => JSON.parse(line) as Line);
}

function timeOf({ atMs, time }: Line): number {
  return atMs ?? Date.parse(time);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
