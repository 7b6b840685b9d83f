/**
 * Whether daemons that do the same thing again and again come to hold more and more: descriptors, memory, and room on
 * the disk beside the vbds themselves.
 */

import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { formatSize } from "../node/sizes.ts";
import { costOf } from "./cluster/resources.ts";
import type { ClusterHost } from "./cluster.ts";
import { median } from "./statistics.ts";
import { type Check, check } from "./tour-checks.ts";

/** Of a daemon's processes together, at rest. */
export type Held = { descriptors: number; rssBytes: number; diskBytes: number };

/** Fewer looks do not tell a growth from a beginning. */
export const LOOKS_MIN = 9;

type Kind = {
  name: string;
  of(held: Held): number;
  /** What may lie between two thirds of a run and not be a growth: a heap is not always collected when we look. */
  slack(before: number): number;
  format(value: number): string;
};

const KINDS: readonly Kind[] = [
  { name: "descriptors", of: (held) => held.descriptors, slack: () => 2, format: (value) => `${value}` },
  {
    name: "memory",
    of: (held) => held.rssBytes,
    slack: (before) => before / 10,
    format: (value) => formatSize(Math.round(value)),
  },
  {
    // A LevelDB log file is 4 MiB before it is merged into the tables.
    name: "disk",
    of: (held) => held.diskBytes,
    slack: () => 5 << 20,
    format: (value) => formatSize(Math.round(value)),
  },
];

export class GrowthWatch {
  readonly #hosts: readonly ClusterHost[];
  readonly #looks: Held[][];

  constructor(hosts: readonly ClusterHost[]) {
    this.#hosts = hosts;
    this.#looks = hosts.map(() => []);
  }

  /** To be called again and again at the same point of what is repeated. */
  look(): void {
    for (const [index, host] of this.#hosts.entries()) this.#looks[index]!.push(heldBy(host));
  }

  /** The last third of the looks beside the third before it. None when there are too few. */
  checks(): Check[] {
    return this.#hosts.flatMap(({ name }, index) => growthChecks(name, this.#looks[index]!));
  }
}

export function growthChecks(host: string, looks: readonly Held[]): Check[] {
  if (looks.length < LOOKS_MIN) return [];
  const third = Math.floor(looks.length / 3);
  return KINDS.map(({ name, of, slack, format }) => {
    const before = median(looks.slice(-2 * third, -third).map(of));
    const after = median(looks.slice(-third).map(of));
    const first = of(looks[0]!);
    return check(
      `no growth of ${name} at ${host}`,
      after <= before + slack(before),
      `${format(first)} first, then ${format(before)}, at last ${format(after)}, over ${looks.length} looks`,
    );
  });
}

function heldBy(host: ClusterHost): Held {
  const pids = host.pids();
  return {
    descriptors: sum(pids.map((pid) => readdirSync(`/proc/${pid}/fd`).length)),
    rssBytes: sum(pids.map((pid) => costOf(pid).rssBytes)),
    diskBytes: diskBytesOf(host.dataDir, { except: "vbds" }),
  };
}

function diskBytesOf(folder: string, { except }: { except?: string } = {}): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.name === except) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) bytes += diskBytesOf(path);
    else bytes += (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512;
  }
  return bytes;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
