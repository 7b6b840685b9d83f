/** What a daemon's processes cost, as the kernel counts it. */

import { readFileSync } from "node:fs";
import { pause } from "../waiting.ts";

/** Linux's USER_HZ, whatever the machine. */
const TICKS_PER_SECOND = 100;

export type Cost = {
  cpuSeconds: number;
  /** Every page that the process maps, whoever else does. */
  rssBytes: number;
  /** Its share: a page that n processes map counts as an n-th. */
  pssBytes: number;
};

export function costOf(pid: number): Cost {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // From the third field on: the second may hold anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = Number(fields[11]) + Number(fields[12]);
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(rollup)?.[1] ?? 0) * 1024;
  return { cpuSeconds: ticks / TICKS_PER_SECOND, rssBytes: bytes("Rss"), pssBytes: bytes("Pss") };
}

export type Rest = { cpuPercent: number; rssMiB: number; pssMiB: number };

/** Of each process, over `seconds` of rest. */
export async function atRest(pids: readonly number[], seconds: number): Promise<Rest[]> {
  const startMs = performance.now();
  const before = pids.map(costOf);
  await pause(seconds * 1000);
  const elapsed = (performance.now() - startMs) / 1000;
  return pids.map((pid, index) => {
    const { cpuSeconds, rssBytes, pssBytes } = costOf(pid);
    return {
      cpuPercent: (100 * (cpuSeconds - before[index]!.cpuSeconds)) / elapsed,
      rssMiB: rssBytes / 2 ** 20,
      pssMiB: pssBytes / 2 ** 20,
    };
  });
}
