/** What a daemon's processes cost, as the kernel counts it. */

import { readFileSync } from "node:fs";

/** Linux's USER_HZ, whatever the machine. */
const TICKS_PER_SECOND = 100;

export type Cost = { cpuSeconds: number; rssBytes: number };

export function costOf(pid: number): Cost {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // From the third field on: the second may hold anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = Number(fields[11]) + Number(fields[12]);
  const rss = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1];
  return { cpuSeconds: ticks / TICKS_PER_SECOND, rssBytes: Number(rss ?? 0) * 1024 };
}

export type Rest = { cpuPercent: number; rssMiB: number };

/** Of each process, over `seconds` of rest. */
export async function atRest(pids: readonly number[], seconds: number): Promise<Rest[]> {
  const startMs = performance.now();
  const before = pids.map(costOf);
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const elapsed = (performance.now() - startMs) / 1000;
  return pids.map((pid, index) => {
    const { cpuSeconds, rssBytes } = costOf(pid);
    return {
      cpuPercent: (100 * (cpuSeconds - before[index]!.cpuSeconds)) / elapsed,
      rssMiB: rssBytes / 2 ** 20,
    };
  });
}
