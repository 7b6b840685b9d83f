/**
 * `npm run bench -- dirty-rate`: a guest that writes faster than the migration may send. Three ways to come to an
 * end, side by side: the stop rules alone; with hot blocks left for post-copy; with the guest's writes slowed.
 */

import { Command } from "commander";
import { integer, size } from "../../node/cli/arguments.ts";
import { formatDuration } from "../../node/cli/format.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import type { HopReport, MigrateOptions } from "../../node/control/api.ts";
import { formatSize } from "../../node/sizes.ts";
import { Cluster } from "../cluster.ts";
import { guestFigures, guestIsFilled } from "../guest.ts";
import { StatusLine } from "../status-line.ts";
import { pause } from "../waiting.ts";

type Options = {
  bandwidth: number;
  fill: number;
  ops: number;
  slow: number;
  seed: number;
  json?: boolean;
};

type Way = { name: string; migrate: MigrateOptions };

type Row = {
  way: string;
  writeRateBefore: number;
  writeRateDuring: number;
  report: HopReport;
};

const VBD_BYTES = 2 ** 30;
const MEMORY_BYTES = 32 << 20;
/** How long the guest's rate is looked at before the migration. */
const BEFORE_MS = 3000;
const NEVER_HOT = 1000;

export async function runDirtyRate(argv: readonly string[]): Promise<boolean> {
  const options = parse(argv);
  const status = new StatusLine(process.stderr);
  status.update("starting 2 daemons");
  const cluster = await Cluster.start({ names: ["A", "B"] });
  const rows: Row[] = [];
  try {
    for (const way of waysOf(options)) {
      status.update(way.name);
      rows.push(await measure(cluster, way, { options, status }));
    }
  } finally {
    status.end();
    await cluster.stop();
  }
  if (options.json) process.stdout.write(`${JSON.stringify({ options, rows })}\n`);
  else process.stdout.write(`${formatTable(COLUMNS, rows)}\n`);
  const kept = rows.at(-1)!.report.writeShare;
  // The bound that was promised to the guest.
  return kept >= 1 - options.slow / 100;
}

function parse(argv: readonly string[]): Options {
  return new Command("dirty-rate")
    .description("a guest that writes faster than the migration may send")
    .option("--bandwidth <size>", "bytes per second that the migration may send", size, 12 << 20)
    .option("--fill <size>", "of the vbd, overwritten again and again", size, 96 << 20)
    .option("--ops <n>", "of 64 KiB that the guest performs in a second", integer({ min: 1, max: 1e6 }), 600)
    .option("--slow <percent>", "of its writes that the guest may lose", integer({ min: 1, max: 95 }), 80)
    .option("--seed <n>", "of the guest's choices", integer({ min: 1, max: 2 ** 31 }), 1)
    .option("--json", "print JSON")
    .parse([...argv], { from: "user" })
    .opts<Options>();
}

function waysOf({ bandwidth, slow }: Options): Way[] {
  const limited = { bandwidthMaxBytesPerSecond: bandwidth };
  return [
    { name: "stop rules", migrate: { ...limited, hotSendsMax: NEVER_HOT } },
    { name: "hot blocks wait", migrate: { ...limited, hotSendsMax: 1 } },
    { name: `writes slowed by up to ${slow} %`, migrate: { ...limited, writeSlowdownMax: slow / 100 } },
  ];
}

async function measure(
  cluster: Cluster,
  { name: way, migrate }: Way,
  { options, status }: { options: Options; status: StatusLine },
): Promise<Row> {
  const [here, there] = [cluster.hosts[0]!, cluster.hosts[1]!];
  const domain = way.replaceAll(/[^a-z]+/g, "-");
  await here.call("create", {
    name: domain,
    hypervisor: "wasm",
    memoryBytes: MEMORY_BYTES,
    vbds: [{ name: "root", sizeBytes: VBD_BYTES }],
    config: JSON.stringify({
      workload: "diabolical",
      seed: options.seed,
      opsPerSecond: options.ops,
      depth: 4,
      memoryPagesPerSecond: 100,
      fillBytes: options.fill,
      workingSetBytes: options.fill,
    }),
  });
  await guestIsFilled(here, { domain, onFigures: () => undefined });
  const first = await guestFigures(here, domain);
  await pause(BEFORE_MS);
  const before = await guestFigures(here, domain);
  const report = await here.call(
    "migrate",
    { domain, to: there.name, options: migrate },
    { onEvent: ({ phase }) => status.update(`${way}: ${phase}`) },
  );
  const after = await guestFigures(there, domain);
  const { ok } = await there.call("verify", { domain });
  if (!ok) throw new Error(`${way}: the guest's verification failed: ${after.firstErrors.join("; ")}`);
  await there.call("destroy", { domain });
  return { way, writeRateBefore: rate(first, before), writeRateDuring: rate(before, after), report };
}

type Written = { bytesWritten: number; uptimeMs: number };

function rate(from: Written, to: Written): number {
  return ((to.bytesWritten - from.bytesWritten) * 1000) / Math.max(1, to.uptimeMs - from.uptimeMs);
}

const COLUMNS: readonly Column<Row>[] = [
  { title: "WAY", cell: ({ way }) => way },
  { title: "GUEST WROTE", align: "right", cell: ({ writeRateBefore }) => `${formatSize(writeRateBefore)}/s` },
  { title: "DURING", align: "right", cell: ({ writeRateDuring }) => `${formatSize(writeRateDuring)}/s` },
  { title: "KEPT", align: "right", cell: ({ report }) => `${Math.round(report.writeShare * 100)} %` },
  { title: "ITERATIONS", align: "right", cell: ({ report }) => `${report.iterations}` },
  { title: "DISK SENT", align: "right", cell: ({ report }) => formatSize(report.diskBytesSent) },
  { title: "SENT AGAIN", align: "right", cell: ({ report }) => formatSize(report.blocksResent * 4096) },
  { title: "LEFT AT FREEZE", align: "right", cell: ({ report }) => formatSize(report.blocksLeft * 4096) },
  { title: "DOWNTIME", align: "right", cell: ({ report }) => formatDuration(report.downtimeMs) },
  { title: "TOTAL", align: "right", cell: ({ report }) => formatDuration(report.totalMs) },
];
