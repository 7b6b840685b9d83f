/**
 * What processes use of the processors while something is measured, also those that begin or end meanwhile. The
 * threads in which QEMU runs a guest's code do not count: that is the guest's use.
 */

import { readdirSync, readFileSync } from "node:fs";

/** Linux's USER_HZ, whatever the machine. */
const TICKS_PER_SECOND = 100;
const LOOK_EVERY_MS = 50;
/** As QEMU names them with `debug-threads=on`. */
const GUEST_THREAD = "CPU ";

export class ProcessMeter {
  readonly #pids: () => readonly number[];
  /** Seconds by process: when it was first seen, and last. */
  readonly #seen = new Map<number, { first: number; last: number }>();
  readonly #timer: NodeJS.Timeout;

  /** `pids` is asked again and again. A process that was not there at the beginning counts from its start. */
  constructor(pids: () => readonly number[]) {
    this.#pids = pids;
    this.#look(true);
    this.#timer = setInterval(() => this.#look(false), LOOK_EVERY_MS);
  }

  /** Ends it, and says the seconds of all of them. */
  end(): number {
    clearInterval(this.#timer);
    this.#look(false);
    return [...this.#seen.values()].reduce((sum, { first, last }) => sum + last - first, 0);
  }

  #look(isFirst: boolean): void {
    for (const pid of this.#pids()) {
      const seconds = cpuSecondsOf(pid);
      if (seconds === undefined) continue;
      const known = this.#seen.get(pid);
      if (known === undefined) this.#seen.set(pid, { first: isFirst ? seconds : 0, last: seconds });
      else known.last = seconds;
    }
  }
}

/**
 * How many processors all others use while `pids` and this process work: what a measurement on a machine that does
 * something else suffers from. Guests' threads are their process's here.
 */
export class OthersMeter {
  readonly #pids: readonly number[];
  readonly #begunMs = performance.now();
  readonly #begun: number;

  /** Of processes that do not end meanwhile. */
  constructor(pids: readonly number[]) {
    this.#pids = [process.pid, ...pids];
    this.#begun = this.#seconds();
  }

  /** On average since it began. */
  cores(): number {
    return (1000 * (this.#seconds() - this.#begun)) / (performance.now() - this.#begunMs);
  }

  #seconds(): number {
    const own = this.#pids.reduce((sum, pid) => sum + ticksOf(`/proc/${pid}`), 0);
    return (busyTicks() - own) / TICKS_PER_SECOND;
  }
}

/** Of all processors; time that a hypervisor gave to somebody else is busy, too. */
function busyTicks(): number {
  const [user, nice, system, , , irq, softirq, steal] = readFileSync("/proc/stat", "latin1")
    .split("\n", 1)[0]!
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return user! + nice! + system! + irq! + softirq! + steal!;
}

/** Undefined for one that has ended. */
function cpuSecondsOf(pid: number): number | undefined {
  try {
    const ticks = ticksOf(`/proc/${pid}`);
    const threads = readdirSync(`/proc/${pid}/task`).map((tid) => `/proc/${pid}/task/${tid}`);
    const guests = threads.filter((path) => readFileSync(`${path}/comm`, "latin1").startsWith(GUEST_THREAD));
    return (ticks - guests.reduce((sum, path) => sum + ticksOf(path), 0)) / TICKS_PER_SECOND;
  } catch {
    return undefined;
  }
}

function ticksOf(path: string): number {
  const stat = readFileSync(`${path}/stat`, "latin1");
  // From the third field on: the second may hold anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
