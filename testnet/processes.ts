/**
 * The processes of a cluster, found by its folder: daemons and guests name it on their command lines, and nothing
 * else on the machine does. Guests are meant to outlive their daemons, so nobody's exit ends them.
 */

import { readdirSync, readFileSync } from "node:fs";
import { sep } from "node:path";

export function processesOf(folder: string): number[] {
  const prefix = folder + sep;
  return pids().filter(
    (pid) => pid !== process.pid && argumentsOf(pid).some((argument) => argument.startsWith(prefix)),
  );
}

/** Those whose parent is `pid`. */
export function childrenOf(pid: number): number[] {
  return pids().filter((candidate) => parentOf(candidate) === pid);
}

/** False for a process that has ended, waited for or not. */
export function isRunning(pid: number): boolean {
  const state = statOf(pid)?.[0];
  return state !== undefined && state !== "Z" && state !== "X";
}

/** Kills every process of the cluster, also one that another of them begins meanwhile. Does not wait. */
export function killProcessesOf(folder: string): void {
  // One that was begun while we looked is found by the next look: the kill of its parent is behind us by then.
  for (let left = 100; left > 0; left--) {
    const found = processesOf(folder);
    if (found.length === 0) return;
    for (const pid of found) killQuietly(pid);
  }
}

/** With its group: daemons and guests lead one, and a daemon's data process is in it. */
export function killQuietly(pid: number): void {
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, "SIGKILL");
    } catch {
      // It leads no group, or it ended between our look and now.
    }
  }
}

function pids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Empty for a process that has ended, and for the kernel's own. */
function argumentsOf(pid: number): string[] {
  return read(`/proc/${pid}/cmdline`)?.split("\0") ?? [];
}

function parentOf(pid: number): number | undefined {
  const parent = statOf(pid)?.[1];
  return parent === undefined ? undefined : Number(parent);
}

/** From the third field on: the second is the command in parentheses, and may hold anything. */
function statOf(pid: number): string[] | undefined {
  const stat = read(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
}
