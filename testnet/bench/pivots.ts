/**
 * `npm run bench -- pivots`: a Linux under load whose vbds go between their native paths and our exports, again
 * and again. The guest checks what it reads; at the end every block that differs from the beginning must be
 * among those that the tracking calls written.
 */

import { copyFile, mkdir, mkdtemp, open, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import type { NbdVbd } from "../../node/attachment/nbd-attachment.ts";
import { QmpAttachment } from "../../node/attachment/qmp/qmp-attachment.ts";
import { integer } from "../../node/cli/arguments.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import { systemClock } from "../../node/clock.ts";
import { DomainFolder } from "../../node/hypervisor/domain-folder.ts";
import { QemuHypervisor } from "../../node/hypervisor/qemu/qemu-hypervisor.ts";
import { createLog } from "../../node/log.ts";
import { QmpConnections } from "../../node/qmp/qmp-connections.ts";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../protocol/units.ts";
import { FdByteFile } from "../../storage/byte-file.ts";
import { DirtyLog } from "../../storage/dirty-log.ts";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import { ExportRegistry } from "../../storage/nbd/export-registry.ts";
import { NbdServer } from "../../storage/nbd/server.ts";
import { BeatListener } from "../qemu/beat-listener.ts";
import { GuestConsole } from "../qemu/guest-console.ts";
import { makeFileSystem } from "../qemu/guest-disk.ts";
import { guestImage } from "../qemu/guest-image.ts";
import { qemuPackages } from "../qemu/packages.ts";
import { quantile } from "../statistics.ts";
import { StatusLine } from "../status-line.ts";

type Options = { count: number; blocksPerSecond: number; filesPerSecond: number; json?: boolean };

type Direction = { direction: string; ms: number[] };

const DOMAIN = "7d2a1a52-0000-4000-8000-000000000001";
const CACHE = join(import.meta.dirname, "..", "..", ".cache", "qemu");
const ROOT_BYTES = 256 << 20;
const SECOND_BYTES = 64 << 20;
const MEMORY_BYTES = 192 << 20;
const FLAG_EVERY = 10;

export async function runPivots(argv: readonly string[]): Promise<boolean> {
  const options = parse(argv);
  const status = new StatusLine(process.stderr);
  const folder = await mkdtemp(join(tmpdir(), "sojourn-pivots-"));
  const stage = new Stage(folder, options);
  try {
    await stage.begin((what) => status.update(what));
    const figures = await stage.pivot((done) => status.update(`pivot ${done} of ${options.count}`));
    status.update("the guest verifies its disks and memory");
    const checks = await stage.verify();
    status.end();
    const result = { ...figures, ...checks };
    if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    else process.stdout.write(report(result));
    return result.guestErrors === 0 && result.unknownBlocks === 0;
  } finally {
    status.end();
    await stage.end();
    await rm(folder, { recursive: true, force: true });
  }
}

type Figures = { directions: readonly Direction[]; longestSilenceMs: number; beats: number };
type Checks = { guestErrors: number; writtenBlocks: number; changedBlocks: number; unknownBlocks: number };

class Stage {
  readonly #folder: string;
  readonly #options: Options;
  readonly #exports = new ExportRegistry();
  readonly #server = new NbdServer({ exports: this.#exports });
  readonly #qmp = new QmpConnections();
  readonly #vbds: readonly NbdVbd[];
  #beats: BeatListener | undefined;
  #hypervisor: QemuHypervisor | undefined;
  #attachment: QmpAttachment | undefined;
  #console: GuestConsole | undefined;

  constructor(folder: string, options: Options) {
    this.#folder = folder;
    this.#options = options;
    const sizes = { root: ROOT_BYTES, second: SECOND_BYTES };
    this.#vbds = Object.entries(sizes).map(([name, sizeBytes]) => ({
      name,
      sizeBytes,
      path: join(folder, `${name}.raw`),
      exportName: `${name}-1`,
      dirtyLogPath: join(folder, `${name}.written`),
      presenceLogPath: join(folder, `${name}.missing`),
    }));
  }

  async begin(say: (what: string) => void): Promise<void> {
    const packages = await qemuPackages(CACHE, say);
    const image = await guestImage(packages, CACHE);
    const [kernels, runDir] = [join(this.#folder, "kernels"), join(this.#folder, "run")];
    await mkdir(kernels);
    await mkdir(runDir);
    await symlink(image.kernel, join(kernels, "vmlinuz"));
    await symlink(image.initrd, join(kernels, "initrd.img"));
    this.#beats = await BeatListener.listen(join(this.#folder, "net"));
    await this.#makeVbds();
    await this.#server.listen({ unixPath: join(this.#folder, "nbd") });
    this.#hypervisor = new QemuHypervisor({
      runDir,
      host: {
        executable: packages.executable,
        acceleration: "tcg",
        kernelFolder: kernels,
        extraArguments: false,
      },
      qmp: this.#qmp,
    });
    this.#attachment = await this.#attach(runDir);
    say("the guest boots");
    await this.#hypervisor.start({
      id: DOMAIN,
      name: "linux",
      memoryBytes: MEMORY_BYTES,
      config: this.#config(),
      vbds: this.#vbds.map(({ name, sizeBytes, exportName }) => {
        return { name, sizeBytes, exportName, socketPath: join(this.#folder, "nbd") };
      }),
    });
    await this.#attachment.endWindow();
    this.#console = await GuestConsole.open(new DomainFolder({ runDir, id: DOMAIN }).serialPath);
    await this.#console.next(({ type }) => type === "status");
  }

  /** Forth and back, without a rest. */
  async pivot(tell: (done: number) => void): Promise<Figures> {
    const attachment = this.#attachment!;
    const forth: Direction = { direction: "native to export", ms: [] };
    const back: Direction = { direction: "export to native", ms: [] };
    const sinceMs = performance.now();
    for (let done = 0; done < this.#options.count; done += 2) {
      forth.ms.push(await timed(() => attachment.beginWindow()));
      back.ms.push(await timed(() => attachment.endWindow()));
      if (!attachment.isNative) throw new Error("the vbds did not get back to their native paths");
      if (done % FLAG_EVERY === 0) tell(done);
    }
    const { longestMs, beats } = this.#beats!.blackout(sinceMs, performance.now());
    return { directions: [forth, back], longestSilenceMs: longestMs, beats };
  }

  async verify(): Promise<Checks> {
    this.#console!.say("verify");
    const { errors = Number.NaN } = await this.#console!.next(({ type }) => type === "verified");
    await this.#hypervisor!.suspend(DOMAIN);
    await this.#attachment!.beginWindow();
    const checks = { guestErrors: errors, writtenBlocks: 0, changedBlocks: 0, unknownBlocks: 0 };
    for (const [index, written] of this.#attachment!.written().entries()) {
      const changed = await differingBlocks(this.#vbds[index]!);
      checks.writtenBlocks += written.population;
      checks.changedBlocks += changed.population;
      changed.subtract(written);
      checks.unknownBlocks += changed.population;
    }
    return checks;
  }

  async end(): Promise<void> {
    this.#console?.close();
    await this.#hypervisor?.destroy(DOMAIN).catch(() => undefined);
    await this.#attachment?.close();
    await this.#server.stop();
    await this.#beats?.stop();
  }

  async #makeVbds(): Promise<void> {
    const [root, second] = this.#vbds;
    await makeFileSystem(root!.path, ROOT_BYTES);
    await FileBlockStore.create(second!.path, { sizeBytes: SECOND_BYTES }).close();
    for (const vbd of this.#vbds) {
      await copyFile(vbd.path, beginningOf(vbd));
      const blockCount = blockCountOf(vbd.sizeBytes);
      const options = { generation: 1, bootId: "bench", blockCount };
      await (await DirtyLog.create(FdByteFile.create(vbd.dirtyLogPath), options)).close({ clean: true });
    }
  }

  #attach(runDir: string): Promise<QmpAttachment> {
    return QmpAttachment.open({
      vbds: this.#vbds,
      generation: 1,
      bootId: "bench",
      exports: this.#exports,
      clock: systemClock,
      connections: this.#qmp,
      qmpPath: new DomainFolder({ runDir, id: DOMAIN }).controlPath,
      nbdSocketPath: join(this.#folder, "nbd"),
      socketFolder: runDir,
      log: createLog({ level: "warn", sink: (line) => process.stderr.write(line) }),
    });
  }

  #config(): string {
    const { blocksPerSecond, filesPerSecond } = this.#options;
    const append = [
      ...["console=ttyS0", "quiet", "panic=1", "work.memory_mib=24", "work.pages_per_s=500"],
      ...[`work.blocks_per_s=${blocksPerSecond}`, `work.files_per_s=${filesPerSecond}`, "work.files=64"],
    ];
    return JSON.stringify({
      kernel: "vmlinuz",
      initrd: "initrd.img",
      append: append.join(" "),
      nics: [{ mac: "52:54:00:50:4a:02", backend: { type: "stream", path: join(this.#folder, "net") } }],
    });
  }
}

function beginningOf({ path }: NbdVbd): string {
  return `${path}.beginning`;
}

async function differingBlocks(vbd: NbdVbd): Promise<BlockBitmap> {
  const differing = new BlockBitmap(blockCountOf(vbd.sizeBytes));
  const [before, after] = [await open(beginningOf(vbd)), await open(vbd.path)];
  try {
    const [old, now] = [Buffer.alloc(1 << 20), Buffer.alloc(1 << 20)];
    for (let at = 0; at < vbd.sizeBytes; at += now.length) {
      await before.read(old, 0, old.length, at);
      await after.read(now, 0, now.length, at);
      for (let offset = 0; offset < now.length; offset += BLOCK_SIZE_BYTES) {
        const end = offset + BLOCK_SIZE_BYTES;
        if (now.compare(old, offset, end, offset, end) !== 0) differing.add((at + offset) / BLOCK_SIZE_BYTES);
      }
    }
  } finally {
    await before.close();
    await after.close();
  }
  return differing;
}

async function timed(work: () => Promise<void>): Promise<number> {
  const startedAtMs = performance.now();
  await work();
  return performance.now() - startedAtMs;
}

const COLUMNS: readonly Column<Direction>[] = [
  { title: "PIVOT", cell: ({ direction }) => direction },
  { title: "COUNT", align: "right", cell: ({ ms }) => String(ms.length) },
  { title: "P50 MS", align: "right", cell: ({ ms }) => quantile(ms, 0.5).toFixed(1) },
  { title: "P99 MS", align: "right", cell: ({ ms }) => quantile(ms, 0.99).toFixed(1) },
  { title: "MAX MS", align: "right", cell: ({ ms }) => quantile(ms, 1).toFixed(1) },
];

function report(result: Figures & Checks): string {
  const { directions, longestSilenceMs, beats, guestErrors, writtenBlocks, changedBlocks, unknownBlocks } =
    result;
  return [
    formatTable(COLUMNS, directions),
    `the guest's longest silence: ${longestSilenceMs.toFixed(1)} ms in ${beats} beats\n`,
    `errors that the guest found: ${guestErrors}\n`,
    `blocks changed: ${changedBlocks}; called written: ${writtenBlocks}; changed and not known: ${unknownBlocks}\n`,
  ].join("");
}

function parse(argv: readonly string[]): Options {
  return new Command("pivots")
    .description("exchanges what is under a running guest's vbds, and looks for what got lost")
    .option("--count <n>", "pivots, there and back", integer({ min: 2, max: 100_000 }), 1000)
    .option("--blocks-per-second <n>", "that the guest reads and writes", integer({ min: 0 }), 500)
    .option("--files-per-second <n>", "that the guest reads and writes", integer({ min: 0 }), 20)
    .option("--json", "one JSON object")
    .parse(argv, { from: "user" })
    .opts<Options>();
}
