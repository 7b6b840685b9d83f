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
import { Cluster } from "./cluster.ts";
import { guestFigures, guestIsFilled } from "./guest.ts";
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
  runs: number;
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
const OPS_PER_SECOND = 400;
const FEW_BYTES = 1 << 20;
const MEMORY_PAGES_PER_SECOND = 500;
/** The least a vbd may sensibly be; its guest never writes to it. */
const NO_DISK_BYTES = 1 << 20;

async function main(): Promise<boolean> {
  const options = parseOptions(process.argv.slice(2));
  const isSilent = options.json === true && !process.stderr.isTTY;
  const status = new StatusLine(isSilent ? { write: () => true } : process.stderr);
  status.update("starting 2 daemons");
  const cluster = await Cluster.start({ names: ["A", "B"] });
  try {
    const measured: { of: Case; reports: readonly HopReport[] }[] = [];
    for (const one of casesOf(options)) {
      measured.push({ of: one, reports: await measure(cluster, one, { options, status }) });
    }
    status.end();
    const results = summarise(measured);
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
    .option("--runs <n>", "migrations per case; the median counts", integer({ min: 1, max: 1000 }), 5)
    .option("--small <size>", "size of the small sparse disk", size, 2 ** 30)
    .option("--large <size>", "size of the large sparse disk", size, 64 * 2 ** 30)
    .option(
      "--fill <size>",
      "how much of either is overwritten where many blocks shall be dirty",
      size,
      256 * 2 ** 20,
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

/** Back and forth with one domain, which is destroyed afterwards. */
async function measure(
  cluster: Cluster,
  { name, diskSizeBytes, dirty, writtenBytes }: Case,
  { options, status }: Surroundings,
): Promise<HopReport[]> {
  const { memory, seed, runs } = options;
  const title = dirty === "none" ? name : `${name}, ${dirty} dirty blocks`;
  const domain = `d-${diskSizeBytes}-${dirty}`;
  let [here, there] = [cluster.hosts[0]!, cluster.hosts[1]!];
  await here.call("create", {
    name: domain,
    hypervisor: "wasm",
    memoryBytes: memory,
    vbds: [{ name: "root", sizeBytes: diskSizeBytes }],
    config: JSON.stringify({
      workload: "diabolical",
      seed,
      opsPerSecond: dirty === "none" ? 0 : OPS_PER_SECOND,
      memoryPagesPerSecond: MEMORY_PAGES_PER_SECOND,
      fillBytes: writtenBytes,
      workingSetBytes: writtenBytes,
    }),
  });
  await guestIsFilled(here, { domain, onFigures: () => status.update(`${title}: filling`) });
  const reports: HopReport[] = [];
  // The first one is a first visit, and warms up both hosts: it does not count.
  for (let run = 0; run <= runs; run++) {
    status.update(`${title}: run ${run} of ${runs}`);
    // One iteration, whatever is dirty after it: the freeze shall find what this case is about.
    const call = { domain, to: there.name, options: { iterationsMax: 1 } };
    const report = await here.call("migrate", call);
    if (run > 0) reports.push(report);
    [here, there] = [there, here];
  }
  status.update(`${title}: verifying`);
  const { ok } = await here.call("verify", { domain });
  const { firstErrors } = await guestFigures(here, domain);
  await here.call("destroy", { domain });
  if (!ok) throw new Error(`${title}: the guest's verification failed: ${firstErrors.join("; ")}`);
  return reports;
}

function summarise(measured: readonly { of: Case; reports: readonly HopReport[] }[]): CaseResult[] {
  const downtime = ({ reports }: (typeof measured)[number]): number =>
    median(reports.map(({ downtimeMs }) => downtimeMs));
  const memoryAlone = downtime(measured[0]!);
  return measured.map((entry) => {
    const { of, reports } = entry;
    const all = reports.map(({ downtimeMs }) => downtimeMs);
    return {
      name: of.name,
      diskSizeBytes: of.diskSizeBytes,
      dirty: of.dirty,
      runs: reports.length,
      dirtyBlocksAtFreeze: median(reports.map((report) => report.pushed + report.pulled + report.superseded)),
      downtimeMs: downtime(entry),
      downtimeMsMin: Math.min(...all),
      downtimeMsMax: Math.max(...all),
      diskPartMs: downtime(entry) - memoryAlone,
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
    `Medians of ${runs} runs each, seed ${seed}. From the small disk with few dirty blocks to the worst, ` +
    `the downtime grows by ${growth.toFixed(1)} ms: ${how} ${tolerance} ms.`
  );
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  process.stderr.write(`downtime: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
