/**
 * Gives memory back to the system whenever this process has been busy and is quiet again: a daemon spends most of its
 * life at rest, and what it maps then should be what it uses then.
 *
 * Two things stay otherwise. Pages of Node's own executable that only the start touched, compiling above all, are
 * counted as resident until the system runs short (measured: 40 of 85 MiB in each process). They are dropped from this
 * process alone, stay in the system's page cache, and the few that are needed again are mapped again from there. And
 * malloc keeps what was freed, in an arena for each thread.
 */

import { readFileSync, readlinkSync } from "node:fs";
import { createRequire } from "node:module";

const MADV_DONTNEED = 4;

/** How often this process is looked at. */
const LOOK_EVERY_MS = 10_000;
/** It is quiet when it used no more CPU time than this since the last look: 5 % of a core. */
const QUIET_CPU_MS = 500;

/** Until the process ends; does not keep it running. Nothing happens where the system's library cannot be called. */
export function returnMemoryAtRest(): void {
  let wasBusy = true;
  let seenMs = cpuTimeMs();
  const timer = setInterval(() => {
    const cpuMs = cpuTimeMs();
    const isQuiet = cpuMs - seenMs <= QUIET_CPU_MS;
    seenMs = cpuMs;
    if (isQuiet && wasBusy) returnMemory();
    wasBusy = !isQuiet;
  }, LOOK_EVERY_MS);
  timer.unref();
}

/** Gives back what can be had now: some milliseconds, and as many over the next moments. */
export function returnMemory(): void {
  const calls = memoryCalls();
  if (calls === undefined) return;
  calls.trim(0);
  for (const { start, size } of executablePages(readFileSync("/proc/self/smaps", "latin1"))) {
    calls.advise(start, size, MADV_DONTNEED);
  }
}

type Mapping = { start: number; size: number };

/**
 * Where this process maps its executable as the file has it: read-only, and without any page that was written to (the
 * linker's relocations, a debugger's breakpoints), which would be lost.
 */
function executablePages(smaps: string): Mapping[] {
  const executable = readlinkSync("/proc/self/exe");
  const found: Mapping[] = [];
  let current: Mapping | undefined;
  for (const line of smaps.split("\n")) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) r-[-x]p \S+ \S+ \d+ +(.*)$/.exec(line);
    if (head !== null) {
      const [, start = "", end = "", path] = head;
      const from = Number.parseInt(start, 16);
      current = path === executable ? { start: from, size: Number.parseInt(end, 16) - from } : undefined;
    } else if (/^[0-9a-f]+-/.test(line)) {
      current = undefined;
    } else if (current !== undefined && /^Anonymous: +0 kB$/.test(line)) {
      found.push(current);
    }
  }
  return found;
}

function cpuTimeMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

type MemoryCalls = {
  /** Both give an errno's sign that nobody needs: what was not given back is kept. */
  trim(pad: number): number;
  advise(start: number, size: number, advice: number): number;
};

let loaded: MemoryCalls | undefined | null = null;

/** Undefined where the native library does not load. */
function memoryCalls(): MemoryCalls | undefined {
  if (loaded !== null) return loaded;
  try {
    loaded = process.platform === "linux" ? load() : undefined;
  } catch {
    loaded = undefined;
  }
  return loaded;
}

function load(): MemoryCalls {
  const koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
  const libc = koffi.load("libc.so.6");
  return {
    trim: libc.func("int malloc_trim(size_t pad)"),
    advise: libc.func("int madvise(uintptr_t addr, size_t length, int advice)"),
  };
}
