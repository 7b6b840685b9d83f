/**
 * `npm run bench -- nbd`: our NBD server beside qemu-nbd and nbdkit on the same file, with fio as the client. The
 * servers take turns in every round, so a machine that gets slower does so for all of them; medians count.
 */

import { type ChildProcess, execFile, type SpawnOptions, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Command } from "commander";
import { integer, size } from "../../node/cli/arguments.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import { median } from "../statistics.ts";
import { StatusLine } from "../status-line.ts";
import { until } from "../waiting.ts";

type Options = { rounds: number; seconds: number; size: number; json?: boolean };

type Peer = { name: string; tool: string; start(file: string, socket: string): ChildProcess };

/** `unit`: what fio's result counts. */
type Job = { name: string; unit: "IOPS" | "MB/s"; fio: readonly string[] };

type Sample = { peer: string; job: string; rate: number; cpuSecondsPerGb: number };

type Row = { peer: string; job: string; unit: string; rate: number; ofQemu: number; cpuSecondsPerGb: number };

const BIN = fileURLToPath(new URL("../../node/bin.ts", import.meta.url));
const QUIET: SpawnOptions = { stdio: ["ignore", "ignore", "inherit"] };
/** Of the kernel's accounting; fixed on Linux for programs. */
const TICKS_PER_SECOND = 100;

const PEERS: readonly Peer[] = [
  {
    name: "sojourn",
    tool: process.execPath,
    start: (file, socket) => spawn(process.execPath, [BIN, "nbd-serve", file, "--unix", socket], QUIET),
  },
  {
    name: "qemu-nbd",
    tool: "qemu-nbd",
    start: (file, socket) =>
      spawn("qemu-nbd", ["-t", "-f", "raw", "-e", "16", "--aio=threads", "-k", socket, file], QUIET),
  },
  {
    name: "nbdkit",
    tool: "nbdkit",
    start: (file, socket) => spawn("nbdkit", ["-f", "-U", socket, "file", file], QUIET),
  },
];

const JOBS: readonly Job[] = [
  { name: "4k random read QD16", unit: "IOPS", fio: ["--rw=randread", "--bs=4k", "--iodepth=16"] },
  { name: "4k random write QD16", unit: "IOPS", fio: ["--rw=randwrite", "--bs=4k", "--iodepth=16"] },
  { name: "1M sequential read QD4", unit: "MB/s", fio: ["--rw=read", "--bs=1M", "--iodepth=4"] },
  { name: "1M sequential write QD4", unit: "MB/s", fio: ["--rw=write", "--bs=1M", "--iodepth=4"] },
];

export async function runNbd(argv: readonly string[]): Promise<boolean> {
  const options = new Command("nbd")
    .description("our NBD server beside others, on the same file, with fio's nbd engine")
    .option("--rounds <n>", "of every job on every server; medians count", integer({ min: 1, max: 100 }), 5)
    .option("--seconds <n>", "of each job", integer({ min: 1, max: 60 }), 3)
    .option("--size <size>", "of the file", size, 256 << 20)
    .option("--json", "print JSON")
    .parse([...argv], { from: "user" })
    .opts<Options>();
  const missing = ["fio", ...PEERS.map(({ tool }) => tool)].filter(
    (tool) => spawnSync(tool, ["--version"]).error !== undefined,
  );
  if (missing.length > 0) {
    process.stderr.write(`not found: ${missing.join(", ")}; install fio, qemu-utils and nbdkit\n`);
    return false;
  }
  const folder = await mkdtemp(join(tmpdir(), "sojourn-bench-"));
  try {
    const rows = rowsOf(await measure(folder, options));
    if (options.json) process.stdout.write(`${JSON.stringify({ options, rows })}\n`);
    else process.stdout.write(`${formatTable(COLUMNS, rows)}\n`);
    return true;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function measure(folder: string, { rounds, seconds, size: sizeBytes }: Options): Promise<Sample[]> {
  const status = new StatusLine(process.stderr);
  const file = join(folder, "disk.img");
  await fillFile(file, sizeBytes);
  const servers: { peer: Peer; child: ChildProcess; socket: string }[] = [];
  const samples: Sample[] = [];
  try {
    for (const peer of PEERS) {
      const socket = join(folder, `${peer.name}.sock`);
      servers.push({ peer, child: peer.start(file, socket), socket });
      await until(`${peer.name} listens`, () => (existsSync(socket) ? true : undefined));
    }
    for (let round = 1; round <= rounds; round++) {
      for (const job of JOBS) {
        for (const { peer, child, socket } of servers) {
          status.update(`round ${round} of ${rounds}: ${job.name}, ${peer.name}`);
          samples.push(await runJob({ peer, job, socket, seconds, sizeBytes, pid: child.pid! }));
        }
      }
    }
  } finally {
    status.end();
    for (const { child } of servers) {
      child.kill();
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    }
  }
  return samples;
}

/** No holes and no zeroes: neither end may have an easy time. */
async function fillFile(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, "w");
  const chunk = Buffer.alloc(1 << 20);
  for (let index = 0; index < chunk.length; index++) chunk[index] = (index * 2_654_435_761) >>> 13;
  for (let offset = 0; offset < sizeBytes; offset += chunk.length)
    await file.write(chunk, 0, chunk.length, offset);
  await file.sync();
  await file.close();
}

async function runJob({
  peer,
  job,
  socket,
  seconds,
  sizeBytes,
  pid,
}: {
  peer: Peer;
  job: Job;
  socket: string;
  seconds: number;
  sizeBytes: number;
  pid: number;
}): Promise<Sample> {
  const cpuBefore = cpuSeconds(pid);
  const { stdout } = await promisify(execFile)(
    "fio",
    [
      ...["--name=bench", "--ioengine=nbd", `--uri=nbd+unix:///?socket=${socket}`, `--size=${sizeBytes}`],
      ...["--time_based", `--runtime=${seconds}`, "--output-format=json", ...job.fio],
    ],
    { maxBuffer: 16 << 20 },
  );
  const { jobs } = JSON.parse(stdout.slice(stdout.indexOf("{"))) as {
    jobs: Record<"read" | "write", { iops: number; bw_bytes: number; io_bytes: number }>[];
  };
  const { read, write } = jobs[0]!;
  const figures = read.io_bytes > 0 ? read : write;
  return {
    peer: peer.name,
    job: job.name,
    rate: job.unit === "IOPS" ? figures.iops : figures.bw_bytes / 1e6,
    cpuSecondsPerGb: (cpuSeconds(pid) - cpuBefore) / (figures.io_bytes / 1e9),
  };
}

/** Of a process with all its threads, user and system. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)!.split(" ");
  // utime and stime are the 14th and 15th of all fields, of which the first two were cut off.
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

function rowsOf(samples: readonly Sample[]): Row[] {
  return JOBS.flatMap(({ name: job, unit }) => {
    const of = (peer: string): Sample[] =>
      samples.filter((sample) => sample.peer === peer && sample.job === job);
    const rate = (peer: string): number => median(of(peer).map((sample) => sample.rate));
    return PEERS.map(({ name: peer }) => ({
      peer,
      job,
      unit,
      rate: rate(peer),
      ofQemu: rate(peer) / rate("qemu-nbd"),
      cpuSecondsPerGb: median(of(peer).map((sample) => sample.cpuSecondsPerGb)),
    }));
  });
}

const COLUMNS: readonly Column<Row>[] = [
  { title: "JOB", cell: ({ job }) => job },
  { title: "SERVER", cell: ({ peer }) => peer },
  { title: "RATE", align: "right", cell: ({ rate, unit }) => `${Math.round(rate)} ${unit}` },
  { title: "OF QEMU-NBD", align: "right", cell: ({ ofQemu }) => `${ofQemu.toFixed(2)}x` },
  {
    title: "SERVER CPU S/GB",
    align: "right",
    cell: ({ cpuSecondsPerGb }) => cpuSecondsPerGb.toFixed(2),
  },
];
