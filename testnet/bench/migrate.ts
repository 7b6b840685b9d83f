/**
 * `npm run bench -- migrate`: a Linux and its disks, there and back, in three ways on one machine: ours, QEMU's own
 * (`blockdev-mirror` to NBD and `migrate`, both over TLS), and rsync of the image, which moves no guest. The same guest
 * with the same disks each time, one after the other.
 */

import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, writeSync } from "node:fs";
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { Command } from "commander";
import { integer, size } from "../../node/cli/arguments.ts";
import { formatDuration } from "../../node/cli/format.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import { formatSize } from "../../node/sizes.ts";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import type { Cluster, ClusterHost } from "../cluster.ts";
import { processesOf } from "../processes.ts";
import { BeatListener } from "../qemu/beat-listener.ts";
import { GuestConsole } from "../qemu/guest-console.ts";
import { makeFileSystem } from "../qemu/guest-disk.ts";
import { guestConfig } from "../qemu/guest-journey.ts";
import { migrateWhole, tlsArguments } from "../qemu/mirror-migration.ts";
import { PlainGuest } from "../qemu/plain-guest.ts";
import { guestParts, startQemuCluster } from "../qemu/qemu-cluster.ts";
import { pauseOf } from "../qemu/stages.ts";
import { StatusLine } from "../status-line.ts";
import { pause } from "../waiting.ts";
import { ProcessMeter } from "./process-meter.ts";

type Options = { diskSize: number; fill: number; memory: number; blocksPerSecond: number; json?: boolean };

type Row = {
  way: string;
  totalMs: number;
  diskBytes: number;
  memoryBytes: number | undefined;
  pauseMs: number | undefined;
  /** What the guest got done per second during the migration, as a part of what it did before. */
  guestSpeed: number | undefined;
  cpuSeconds: number;
};

const SECOND_BYTES = 64 << 20;
const WORK = { hotMemory: 24 << 20, pagesPerSecond: 1000, filesPerSecond: 5 };
/** How long a guest is watched to know what it does when nobody moves it. */
const WATCH_MS = 4_000;
const DOMAIN = "linux";
/** About as many as a guest of ours writes between its two migrations. */
const CHANGED_BLOCKS = 2_000;

export async function runMigrate(argv: readonly string[]): Promise<boolean> {
  const options = parse(argv);
  const status = new StatusLine(process.stderr);
  const parts = await guestParts((what) => status.update(what));
  const cluster = await startQemuCluster(["A", "B"], parts, { acceleration: "tcg" });
  const netPath = join(cluster.folder, "net");
  const beats = await BeatListener.listen(netPath);
  const bench = new Bench({ cluster, options, netPath, status });
  try {
    const image = await bench.makeImage();
    const rows = [
      ...(await bench.ours(image)),
      ...(await bench.qemusOwn(image, parts.packages.executable)),
      ...(await bench.rsync(image)),
    ];
    status.end();
    if (options.json) process.stdout.write(`${JSON.stringify({ rows, errors: bench.errors })}\n`);
    else process.stdout.write(report(rows, bench.errors));
    return bench.errors.length === 0;
  } finally {
    status.end();
    await bench.end();
    await beats.stop();
    await cluster.stop();
  }
}

class Bench {
  readonly errors: string[] = [];
  readonly #cluster: Cluster;
  readonly #options: Options;
  readonly #netPath: string;
  readonly #status: StatusLine;
  #guest: PlainGuest | undefined;

  constructor({
    cluster,
    options,
    netPath,
    status,
  }: {
    cluster: Cluster;
    options: Options;
    netPath: string;
    status: StatusLine;
  }) {
    this.#cluster = cluster;
    this.#options = options;
    this.#netPath = netPath;
    this.#status = status;
  }

  async makeImage(): Promise<string> {
    this.#status.update("making the guest's file system");
    const path = join(this.#cluster.folder, "root.img");
    await makeFileSystem(path, this.#options.diskSize, { fillBytes: this.#options.fill });
    return path;
  }

  async ours(image: string): Promise<Row[]> {
    const [a, b] = [this.#cluster.host("A"), this.#cluster.host("B")];
    this.#status.update("the guest boots under our daemons");
    const { domain } = await a.call("create", {
      name: DOMAIN,
      hypervisor: "qemu",
      memoryBytes: this.#options.memory,
      vbds: [
        { name: "root", image },
        { name: "second", sizeBytes: SECOND_BYTES },
      ],
      config: JSON.stringify(this.#config()),
    });
    const consoleOf = (host: ClusterHost): string => join(host.runDir, domain, "serial");
    const pids = (): readonly number[] => processesOf(this.#cluster.folder);
    const rows: Row[] = [];
    for (const [from, to, way] of [
      [a, b, "sojourn, first visit"],
      [b, a, "sojourn, back"],
    ] as const) {
      rows.push(
        await this.#measured(way, { pids, before: consoleOf(from), after: consoleOf(to) }, async () => {
          const report = await from.call("migrate", { domain: DOMAIN, to: to.name });
          const { pauseMs } = await pauseOf({ source: from, destination: to, domain });
          const { totalMs, diskBytesSent: diskBytes, memoryBytesSent: memoryBytes } = report;
          return { totalMs, diskBytes, memoryBytes, pauseMs };
        }),
      );
    }
    await this.#verify("sojourn", consoleOf(a));
    await a.call("destroy", { domain: DOMAIN });
    return rows;
  }

  async qemusOwn(image: string, executable: string): Promise<Row[]> {
    const folder = join(this.#cluster.folder, "plain");
    await mkdir(folder);
    const files = (place: string): { name: string; path: string }[] =>
      ["root", "second"].map((name) => ({ name, path: join(folder, `${name}-${place}.img`) }));
    await copyFile(image, files("here")[0]!.path);
    await FileBlockStore.create(files("here")[1]!.path, { sizeBytes: SECOND_BYTES }).close();
    this.#status.update("the guest boots on QEMU alone");
    const guest = await PlainGuest.boot({
      ...{ folder, executable, acceleration: "tcg", memoryBytes: this.#options.memory },
      kernelFolder: join(this.#cluster.host("A").dataDir, "kernels"),
      config: this.#config(),
      vbds: files("here"),
      arguments: await tlsArguments(join(folder, "keys")),
    });
    this.#guest = guest;
    const rows: Row[] = [];
    for (const [place, way] of [
      ["there", "QEMU: mirror over TLS"],
      ["back", "QEMU, back"],
    ] as const) {
      const there = files(place);
      await FileBlockStore.create(there[0]!.path, { sizeBytes: this.#options.diskSize }).close();
      await FileBlockStore.create(there[1]!.path, { sizeBytes: SECOND_BYTES }).close();
      const before = guest.current.serialPath;
      const work = (): Promise<Omit<Row, "way" | "guestSpeed" | "cpuSeconds">> => migrateWhole(guest, there);
      const pids = (): readonly number[] => processesOf(folder);
      rows.push(await this.#measured(way, { pids, before, after: () => guest.current.serialPath }, work));
    }
    await this.#verify("QEMU", guest.current.serialPath);
    guest.rest();
    return rows;
  }

  /** The disk alone, of a guest that stands still: there, and back with changed blocks. Nothing where there is no rsync. */
  async rsync(image: string): Promise<Row[]> {
    const there = join(this.#cluster.folder, "rsync.img");
    const rows: Row[] = [];
    for (const [way, from, to] of [
      ["rsync of the image", image, there],
      ["rsync, back", there, image],
    ] as const) {
      this.#status.update(way);
      const meter = new ProcessMeter(() => processesOf(this.#cluster.folder).filter(isRsync));
      const begunMs = performance.now();
      // Of two local paths it would copy all without a look; between hosts it compares.
      const args = ["--inplace", "--no-whole-file", "--ignore-times", "--stats", from, to];
      const stdout = await outputOf("rsync", args);
      const [totalMs, cpuSeconds] = [performance.now() - begunMs, meter.end()];
      if (stdout === undefined) return [];
      const sent = /Total bytes sent: ([\d,]+)/.exec(stdout)?.[1]?.replaceAll(",", "");
      const none = { memoryBytes: undefined, pauseMs: undefined, guestSpeed: undefined };
      rows.push({ way, totalMs, diskBytes: Number(sent), ...none, cpuSeconds });
      changeBlocks(to, CHANGED_BLOCKS);
    }
    return rows;
  }

  async end(): Promise<void> {
    await this.#guest?.end();
  }

  async #measured(
    way: string,
    {
      pids,
      before,
      after,
    }: { pids: () => readonly number[]; before: string; after: string | (() => string) },
    work: () => Promise<Omit<Row, "way" | "guestSpeed" | "cpuSeconds">>,
  ): Promise<Row> {
    this.#status.update(`${way}: the guest is watched`);
    const usualSpeed = speedOf(...(await workOf(before, WATCH_MS)));
    this.#status.update(way);
    const meter = new ProcessMeter(pids);
    const [start] = await workOf(before, 0);
    const figures = await work();
    const cpuSeconds = meter.end();
    const [end] = await workOf(typeof after === "string" ? after : after(), 0);
    return { way, ...figures, guestSpeed: speedOf(start, end) / usualSpeed, cpuSeconds };
  }

  async #verify(whose: string, path: string): Promise<void> {
    this.#status.update(`${whose}: the guest verifies its disks and memory`);
    const console = await GuestConsole.open(path);
    try {
      console.say("verify");
      const { errors } = await console.next(({ type }) => type === "verified");
      if (errors !== 0) this.errors.push(`${whose}: the guest found ${errors} errors`);
    } finally {
      console.close();
    }
  }

  #config(): Record<string, unknown> {
    return guestConfig({ ...WORK, blocksPerSecond: this.#options.blocksPerSecond }, this.#netPath);
  }
}

function isRsync(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, "latin1").trim() === "rsync";
  } catch {
    return false;
  }
}

/** Undefined where there is no such program. */
async function outputOf(command: string, args: readonly string[]): Promise<string | undefined> {
  try {
    return (await promisify(execFile)(command, args)).stdout;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** As a guest would that writes here and there. */
function changeBlocks(path: string, count: number): void {
  const file = openSync(path, "r+");
  try {
    const blocks = Math.floor(fstatSync(file).size / BLOCK_SIZE_BYTES);
    for (let changed = 0; changed < count; changed++) {
      const at = Math.floor((changed * blocks) / count) * BLOCK_SIZE_BYTES;
      writeSync(file, randomBytes(BLOCK_SIZE_BYTES), 0, BLOCK_SIZE_BYTES, at);
    }
  } finally {
    closeSync(file);
  }
}

type Work = { atMs: number; done: number };

/** What the guest has done by now, and `forMs` later. */
async function workOf(path: string, forMs: number): Promise<[Work, Work]> {
  const console = await GuestConsole.open(path);
  try {
    const now = async (): Promise<Work> => {
      console.say("status");
      const line = await console.next(({ type }) => type === "status");
      const counts = ["blocksWritten", "blocksRead", "filesWritten", "filesRead"].map((name) =>
        Number(line[name]),
      );
      // Of this clock: the guest's own stands still when the guest does.
      return { atMs: performance.now(), done: counts.reduce((sum, count) => sum + count, 0) };
    };
    const first = await now();
    await pause(forMs);
    return [first, await now()];
  } finally {
    console.close();
  }
}

function speedOf(from: Work, to: Work): number {
  return (to.done - from.done) / (to.atMs - from.atMs);
}

const NOTHING = "-";

const COLUMNS: readonly Column<Row>[] = [
  { title: "WAY", cell: ({ way }) => way },
  { title: "TOTAL", align: "right", cell: ({ totalMs }) => formatDuration(totalMs) },
  { title: "DISK SENT", align: "right", cell: ({ diskBytes }) => formatSize(diskBytes) },
  {
    title: "MEMORY SENT",
    align: "right",
    cell: ({ memoryBytes }) => (memoryBytes === undefined ? NOTHING : formatSize(memoryBytes)),
  },
  {
    title: "PAUSE",
    align: "right",
    cell: ({ pauseMs }) => (pauseMs === undefined ? NOTHING : `${pauseMs.toFixed(0)} ms`),
  },
  {
    title: "GUEST'S SPEED",
    align: "right",
    cell: ({ guestSpeed }) => (guestSpeed === undefined ? NOTHING : `${(100 * guestSpeed).toFixed(0)} %`),
  },
  { title: "CPU S", align: "right", cell: ({ cpuSeconds }) => cpuSeconds.toFixed(1) },
  {
    title: "CPU S/GB SENT",
    align: "right",
    cell: ({ cpuSeconds, diskBytes, memoryBytes = 0 }) =>
      ((1e9 * cpuSeconds) / (diskBytes + memoryBytes)).toFixed(1),
  },
];

function report(rows: readonly Row[], errors: readonly string[]): string {
  const hasRsync = rows.some(({ memoryBytes }) => memoryBytes === undefined);
  return [
    formatTable(COLUMNS, rows),
    hasRsync ? "" : "rsync is not installed here (apt-get install rsync): no line of it\n",
    "the threads that run the guest's code are not counted among the processors' seconds\n",
    ...errors.map((error) => `${error}\n`),
  ].join("");
}

function parse(argv: readonly string[]): Options {
  return new Command("migrate")
    .description("a guest with its disks, there and back: ours, QEMU's own way, rsync")
    .option("--disk-size <size>", "of the vbd with the file system", size, 1 << 30)
    .option("--fill <size>", "files that lie on it from the beginning", size, 384 << 20)
    .option("--memory <size>", "of the guest", size, 192 << 20)
    .option("--blocks-per-second <n>", "that the guest reads and writes", integer({ min: 1 }), 200)
    .option("--json", "one JSON object")
    .parse(argv, { from: "user" })
    .opts<Options>();
}
