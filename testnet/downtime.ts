/**
 * `npm run downtime`: what the disk adds to a domain's downtime. The same guest, with the same memory, migrates
 * without disk I/O, and with small and large disks that have few and many dirty blocks left at the freeze. If only
 * the block-bitmap travels while the domain is frozen, all rows look alike.
 *
 * Few or many: the guest writes at the same rate (its I/O passes through its memory, and makes pages dirty), but
 * again and again to a MiB, or to all that it filled.
 */

import { Command } from "commander";
import { integer, size } from "../node/cli/arguments.ts";
import { formatDuration } from "../node/cli/format.ts";
import { type Column, formatTable } from "../node/cli/output.ts";
import type { HopReport } from "../node/control/api.ts";
import { formatSize } from "../node/sizes.ts";
import { Cluster, type ClusterHost } from "./cluster.ts";
import { guestFigures, guestIsFilled } from "./guest.ts";
import { median } from "./statistics.ts";
import { StatusLine } from "./status-line.ts";

type DowntimeOptions = {
  runs: number;
  small: number;
  large: number;
  fill: number;
  memory: number;
  seed: number;
  tolerance: number;
  json?: boolean;
};

/** `writtenBytes`: how much of the disk, spread over all of it, the guest fills and overwrites. */
type Case = { name: string; diskSizeBytes: number; dirty: "none" | "few" | "many"; writtenBytes: number };

type CaseResult = {
  name: string;
  diskSizeBytes: number;
  dirty: Case["dirty"];
  migrations: number;
  /** Medians over the runs. */
  dirtyBlocksAtFreeze: number;
  downtimeMs: number;
  downtimeMsMin: number;
  downtimeMsMax: number;
  /** Against the case without a disk. */
  diskPartMs: number;
  memoryBytesSent: number;
};

/** Of 64 KiB each. */
const OPS_PER_SECOND = 800;
const FEW_BYTES = 1 << 20;
/** Every request has 64 KiB of the guest's memory: two in flight make next to no pages dirty. */
const DEPTH = 2;
/** Few, so that memory's tail does not hide what is measured. */
const MEMORY_PAGES_PER_SECOND = 100;
/** The least a vbd may sensibly be; its guest never writes to it. */
const NO_DISK_BYTES = 1 << 20;

async function main(): Promise<boolean> {
  const options = parseOptions(process.argv.slice(2));
  const isSilent = options.json === true && !process.stderr.isTTY;
  const status = new StatusLine(isSilent ? { write: () => true } : process.stderr);
  status.update("starting 2 daemons");
  const cluster = await Cluster.start({ names: ["A", "B"] });
  try {
    const benches = casesOf(options).map((one) => new Bench(cluster, one, { options, status }));
    for (const bench of benches) await bench.create();
    // One case after the other and all over again: a machine that gets slower meanwhile does so for all of them.
    for (let run = 1; run <= options.runs; run++) {
      for (const bench of benches) await bench.run(run);
    }
    status.end();
    const results = summarise(benches);
    const growth = growthOf(results);
    const isOk = growth <= options.tolerance;
    if (options.json) process.stdout.write(`${JSON.stringify({ results, growthMs: growth, ok: isOk })}\n`);
    else process.stdout.write(`${formatTable(COLUMNS, results)}\n${verdict(growth, options)}\n`);
    return isOk;
  } finally {
    status.end();
    await cluster.stop();
  }
}

function parseOptions(argv: readonly string[]): DowntimeOptions {
  return new Command("downtime")
    .description("what the disk adds to a domain's downtime, by its size and by its dirty blocks")
    .option(
      "--runs <n>",
      "times there and back per case; the medians count",
      integer({ min: 1, max: 1000 }),
      5,
    )
    .option("--small <size>", "size of the small sparse disk", size, 2 ** 30)
    .option("--large <size>", "size of the large sparse disk", size, 64 * 2 ** 30)
    .option(
      "--fill <size>",
      "how much of either is overwritten where many blocks shall be dirty",
      size,
      64 * 2 ** 20,
    )
    .option("--memory <size>", "of the guest", size, 64 * 2 ** 20)
    .option("--seed <n>", "of the guest's choices", integer({ min: 1, max: 2 ** 31 }), 1)
    .option(
      "--tolerance <ms>",
      "how much the medians may grow with size or with dirty blocks",
      integer({ min: 0 }),
      50,
    )
    .option("--json", "print JSON")
    .parse([...argv], { from: "user" })
    .opts<DowntimeOptions>();
}

function casesOf({ small, large, fill }: DowntimeOptions): Case[] {
  const disks = [small, large].flatMap((diskSizeBytes): Case[] => [
    { name: formatSize(diskSizeBytes), diskSizeBytes, dirty: "few", writtenBytes: FEW_BYTES },
    { name: formatSize(diskSizeBytes), diskSizeBytes, dirty: "many", writtenBytes: fill },
  ]);
  return [{ name: "memory alone", diskSizeBytes: NO_DISK_BYTES, dirty: "none", writtenBytes: 0 }, ...disks];
}

type Surroundings = { options: DowntimeOptions; status: StatusLine };

/** One case: a domain that runs only while it is measured, so that none stands in another's way. */
class Bench {
  readonly of: Case;
  readonly reports: HopReport[] = [];
  readonly #hosts: readonly [ClusterHost, ClusterHost];
  readonly #domain: string;
  readonly #options: DowntimeOptions;
  readonly #status: StatusLine;

  constructor(cluster: Cluster, of: Case, { options, status }: Surroundings) {
    this.of = of;
    this.#hosts = [cluster.hosts[0]!, cluster.hosts[1]!];
    this.#domain = `disk-${of.diskSizeBytes}-${of.dirty}`;
    this.#options = options;
    this.#status = status;
  }

  get #title(): string {
    return this.of.dirty === "none" ? this.of.name : `${this.of.name}, ${this.of.dirty} dirty blocks`;
  }

  /** With a first visit, which does not count: all that is measured are returns. */
  async create(): Promise<void> {
    const { dirty, diskSizeBytes, writtenBytes } = this.of;
    const { memory, seed } = this.#options;
    this.#status.update(`${this.#title}: first visit`);
    await this.#hosts[0].call("create", {
      name: this.#domain,
      hypervisor: "wasm",
      memoryBytes: memory,
      vbds: [{ name: "root", sizeBytes: diskSizeBytes }],
      config: JSON.stringify({
        workload: "diabolical",
        seed,
        opsPerSecond: dirty === "none" ? 0 : OPS_PER_SECOND,
        depth: DEPTH,
        memoryPagesPerSecond: MEMORY_PAGES_PER_SECOND,
        fillBytes: writtenBytes,
        workingSetBytes: writtenBytes,
      }),
    });
    await this.#thereAndBack();
  }

  /** Boots the domain anew, and measures it there and back. */
  async run(run: number): Promise<void> {
    this.#status.update(`${this.#title}: run ${run} of ${this.#options.runs}`);
    await this.#hosts[0].call("start", { domain: this.#domain });
    this.reports.push(...(await this.#thereAndBack()));
  }

  async #thereAndBack(): Promise<HopReport[]> {
    const domain = this.#domain;
    const [here, there] = this.#hosts;
    await guestIsFilled(here, { domain, onFigures: () => undefined });
    const reports: HopReport[] = [];
    // One iteration, whatever is dirty after it: the freeze shall find what this case is about.
    for (const [from, to] of [
      [here, there],
      [there, here],
    ] as const) {
      reports.push(await from.call("migrate", { domain, to: to.name, options: { iterationsMax: 1 } }));
    }
    const { ok } = await here.call("verify", { domain });
    const { firstErrors } = await guestFigures(here, domain);
    if (!ok) throw new Error(`${this.#title}: the guest's verification failed: ${firstErrors.join("; ")}`);
    await here.call("destroy", { domain });
    return reports;
  }
}

function summarise(benches: readonly Bench[]): CaseResult[] {
  const downtime = ({ reports }: Bench): number => median(reports.map(({ downtimeMs }) => downtimeMs));
  const memoryAlone = downtime(benches[0]!);
  return benches.map((bench) => {
    const { of, reports } = bench;
    const all = reports.map(({ downtimeMs }) => downtimeMs);
    return {
      name: of.name,
      diskSizeBytes: of.diskSizeBytes,
      dirty: of.dirty,
      migrations: reports.length,
      dirtyBlocksAtFreeze: median(reports.map((report) => report.pushed + report.pulled + report.superseded)),
      downtimeMs: downtime(bench),
      downtimeMsMin: Math.min(...all),
      downtimeMsMax: Math.max(...all),
      diskPartMs: downtime(bench) - memoryAlone,
      memoryBytesSent: median(reports.map(({ memoryBytesSent }) => memoryBytesSent)),
    };
  });
}

/** By how much the worst disk's downtime exceeds that of the small disk with few dirty blocks. */
function growthOf(results: readonly CaseResult[]): number {
  const [, smallest, ...others] = results;
  return Math.max(...others.map(({ downtimeMs }) => downtimeMs - smallest!.downtimeMs));
}

const COLUMNS: readonly Column<CaseResult>[] = [
  { title: "DISK", cell: ({ name }) => name },
  { title: "DIRTY", cell: ({ dirty }) => dirty },
  {
    title: "BLOCKS LEFT AT FREEZE",
    align: "right",
    cell: ({ dirtyBlocksAtFreeze }) => `${dirtyBlocksAtFreeze}`,
  },
  {
    title: "THAT IS",
    align: "right",
    cell: ({ dirtyBlocksAtFreeze }) => formatSize(dirtyBlocksAtFreeze * 4096),
  },
  {
    title: "MEMORY SENT",
    align: "right",
    cell: ({ memoryBytesSent }) => formatSize(memoryBytesSent),
  },
  { title: "DOWNTIME", align: "right", cell: ({ downtimeMs }) => formatDuration(downtimeMs) },
  {
    title: "MIN..MAX",
    align: "right",
    cell: ({ downtimeMsMin, downtimeMsMax }) =>
      `${formatDuration(downtimeMsMin)} .. ${formatDuration(downtimeMsMax)}`,
  },
  { title: "DISK PART", align: "right", cell: ({ diskPartMs }) => `${diskPartMs.toFixed(1)} ms` },
];

function verdict(growth: number, { runs, tolerance, seed }: DowntimeOptions): string {
  const how = growth <= tolerance ? "no more than the tolerance of" : "MORE than the tolerance of";
  return (
    `Medians of ${2 * runs} migrations each, seed ${seed}. From the small disk with few dirty blocks to the worst, ` +
    `the downtime grows by ${growth.toFixed(1)} ms: ${how} ${tolerance} ms.`
  );
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  process.stderr.write(`downtime: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
