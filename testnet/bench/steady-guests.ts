/**
 * The two guests of `npm run bench -- steady`: one on QEMU alone and one that our daemons manage, the same machine
 * with the same disks. While one is measured the other stands still, and beside the plain one the daemons do too.
 */

import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { QmpClient } from "../../node/qmp/qmp-client.ts";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import type { Cluster, ClusterHost } from "../cluster.ts";
import { processesOf } from "../processes.ts";
import { GuestConsole } from "../qemu/guest-console.ts";
import { makeFileSystem } from "../qemu/guest-disk.ts";
import { FIO_MEMORY_BYTES, type FioFigures, runFio } from "../qemu/guest-fio.ts";
import { guestConfig } from "../qemu/guest-journey.ts";
import { PlainGuest } from "../qemu/plain-guest.ts";
import { until } from "../waiting.ts";
import { OthersMeter, ProcessMeter } from "./process-meter.ts";

/** `on`: as a domain usually is. `off`: its dirty bitmaps are disabled. `window`: it migrates, and goes nowhere. */
export type Way = "plain" | "on" | "off" | "window";

/**
 * `cpuSeconds`: of QEMU and the daemons, without the threads that run the guest's code, fio's own start included.
 * `othersCores`: what the rest of the machine had of the processors meanwhile.
 */
export type Figures = FioFigures & { cpuSeconds: number; othersCores: number };

export type GuestsOptions = { seconds: number; size: number; depth: number };

type Parts = { cluster: Cluster; executable: string; options: GuestsOptions };

const DOMAIN = "linux";
const ROOT_BYTES = 64 << 20;
const DEVICE = "/dev/vdb";
const RAMP_SECONDS = 2;
/** For fio to be loaded, and for all that is not fio. */
const MARGIN_SECONDS = 15;
/** Harvests are far apart: two measurements in a row do not meet one. */
const TRIES = 3;

export class SteadyGuests {
  readonly #cluster: Cluster;
  readonly #options: GuestsOptions;
  readonly #executable: string;
  #plain: { guest: PlainGuest; console: GuestConsole } | undefined;
  #managed: { id: string; console: GuestConsole; qmp: QmpClient } | undefined;

  constructor({ cluster, executable, options }: Parts) {
    this.#cluster = cluster;
    this.#executable = executable;
    this.#options = options;
  }

  /** Boots both, one after the other, and fills their second vbds: no write allocates any more. */
  async boot(say: (what: string) => void): Promise<void> {
    say("making the guests' file system");
    const image = join(this.#cluster.folder, "root.img");
    await makeFileSystem(image, ROOT_BYTES);
    say("the guest boots on QEMU alone");
    this.#plain = await this.#bootPlain(image);
    say("fio fills its vbd");
    await this.#alone("plain", () => this.#fill(this.#plain!.console));
    say("the guest boots under our daemons");
    await this.#alone("on", async () => {
      this.#managed = await this.#bootManaged(image);
      say("fio fills its vbd, too");
      await this.#fill(this.#managed.console);
    });
  }

  measure(way: Way): Promise<Figures> {
    return this.#alone(way, () => {
      switch (way) {
        case "plain":
          return this.#measure(this.#plain!.console);
        case "on":
          return this.#tracked(() => this.#measure(this.#managed!.console));
        case "off":
          return this.#untracked(() => this.#measure(this.#managed!.console));
        case "window":
          return this.#migrating(() => this.#measure(this.#managed!.console));
      }
    });
  }

  async end(): Promise<void> {
    this.#wake([...this.#plainPids(), ...this.#managedPids()]);
    this.#plain?.console.close();
    this.#managed?.console.close();
    this.#managed?.qmp.close();
    await this.#plain?.guest.end();
  }

  // The guests.

  get #plainFolder(): string {
    return join(this.#cluster.folder, "plain");
  }

  async #bootPlain(image: string): Promise<{ guest: PlainGuest; console: GuestConsole }> {
    await mkdir(this.#plainFolder);
    const vbds = ["root", "second"].map((name) => ({ name, path: join(this.#plainFolder, `${name}.img`) }));
    await copyFile(image, vbds[0]!.path);
    await FileBlockStore.create(vbds[1]!.path, { sizeBytes: this.#options.size }).close();
    const guest = await PlainGuest.boot({
      ...{ folder: this.#plainFolder, executable: this.#executable, acceleration: "tcg", vbds },
      kernelFolder: join(this.#host.dataDir, "kernels"),
      memoryBytes: FIO_MEMORY_BYTES,
      config: configOf(),
      arguments: monitorArguments(join(this.#plainFolder, "monitor")),
    });
    return { guest, console: await GuestConsole.open(guest.current.serialPath) };
  }

  async #bootManaged(image: string): Promise<{ id: string; console: GuestConsole; qmp: QmpClient }> {
    // The daemon has the machine's own QMP socket.
    const monitor = join(this.#cluster.folder, "monitor");
    const { domain: id } = await this.#host.call("create", {
      ...{ name: DOMAIN, hypervisor: "qemu", memoryBytes: FIO_MEMORY_BYTES },
      vbds: [
        { name: "root", image },
        { name: "second", sizeBytes: this.#options.size },
      ],
      config: JSON.stringify({ ...configOf(), arguments: monitorArguments(monitor) }),
    });
    const console = await GuestConsole.open(join(this.#host.runDir, id, "serial"));
    await console.next(({ type }) => type === "status");
    return { id, console, qmp: await QmpClient.connect(monitor) };
  }

  get #host(): ClusterHost {
    return this.#cluster.host("A");
  }

  // Who has the machine.

  async #alone<T>(way: Way, work: () => Promise<T>): Promise<T> {
    this.#rest(way === "plain" ? this.#managedPids() : this.#plainPids());
    this.#wake(way === "plain" ? this.#plainPids() : this.#managedPids());
    return work();
  }

  #plainPids(): number[] {
    return processesOf(this.#plainFolder);
  }

  /** With the daemons. */
  #managedPids(): number[] {
    const plain = new Set(this.#plainPids());
    const daemons = this.#cluster.hosts.flatMap((host) => host.pids());
    const all = new Set([...daemons, ...processesOf(this.#cluster.folder)]);
    return [...all].filter((pid) => !plain.has(pid));
  }

  #rest(pids: readonly number[]): void {
    for (const pid of pids) process.kill(pid, "SIGSTOP");
  }

  #wake(pids: readonly number[]): void {
    for (const pid of pids) process.kill(pid, "SIGCONT");
  }

  // fio.

  async #fill(console: GuestConsole): Promise<void> {
    await runFio(console, [`--filename=${DEVICE}`, "--rw=write", "--bs=1M", "--iodepth=4"]);
  }

  async #measure(console: GuestConsole): Promise<Figures> {
    const { seconds, depth } = this.#options;
    const pids = console === this.#plain?.console ? this.#plainPids() : this.#managedPids();
    const [meter, others] = [new ProcessMeter(() => pids), new OthersMeter(pids)];
    try {
      const figures = await runFio(console, [
        ...[`--filename=${DEVICE}`, "--rw=randrw", "--bs=4k", `--iodepth=${depth}`, "--norandommap"],
        ...["--time_based", `--ramp_time=${RAMP_SECONDS}`, `--runtime=${seconds}`],
      ]);
      return { ...figures, cpuSeconds: meter.end(), othersCores: others.cores() };
    } finally {
      meter.end();
    }
  }

  // The ways of the managed guest.

  async #tracked<T>(work: () => Promise<T>): Promise<T> {
    await this.#isNative();
    const nodes = new Set((await this.#recording()).map(({ node }) => node));
    if (nodes.size !== 2) throw new Error(`QEMU tracks ${[...nodes].join(", ") || "nothing"}`);
    return work();
  }

  async #untracked<T>(work: () => Promise<T>): Promise<T> {
    const { qmp } = this.#managed!;
    for (let tries = TRIES; tries > 0; tries--) {
      await this.#isNative();
      const disabled = await this.#recording();
      await qmp.execute("transaction", {
        actions: disabled.map((data) => ({ type: "block-dirty-bitmap-disable", data })),
      });
      const result = await work();
      // The daemon harvests now and then, and begins anew where it finds nothing that records.
      if ((await this.#recording()).length > 0) continue;
      // What was written meanwhile nobody knows: this domain is never to be migrated to an end.
      await qmp.execute("transaction", {
        actions: disabled.map((data) => ({ type: "block-dirty-bitmap-enable", data })),
      });
      return result;
    }
    throw new Error(`the daemon tracked again in ${TRIES} measurements`);
  }

  async #migrating<T>(work: () => Promise<T>): Promise<T> {
    await this.#isNative();
    const { seconds, size } = this.#options;
    // The first iteration alone takes twice as long as the measurement.
    const bandwidthMaxBytesPerSecond = Math.ceil(size / (2 * (RAMP_SECONDS + seconds + MARGIN_SECONDS)));
    let phase = "";
    const copying = Promise.withResolvers<void>();
    const migration = this.#host.call(
      "migrate",
      { domain: DOMAIN, to: "B", options: { bandwidthMaxBytesPerSecond } },
      {
        onEvent: (progress) => {
          phase = progress.phase;
          if (phase === "pre-copy") copying.resolve();
        },
      },
    );
    const ended = migration.then(
      () => new Error("the migration ended while fio ran"),
      (error: unknown) => error,
    );
    await Promise.race([copying.promise, ended.then((error) => Promise.reject(error))]);
    const result = await work();
    const ways = await this.#ways();
    if (phase !== "pre-copy" || !ways.every((way) => way.includes("window"))) {
      throw new Error(`the migration was in ${phase}, the vbds ${ways.join(" and ")}, when fio ended`);
    }
    await this.#host.call("cancel", { domain: DOMAIN });
    await ended;
    await this.#isNative();
    return result;
  }

  async #isNative(): Promise<void> {
    await until("the vbds are native", async () => {
      const ways = await this.#ways();
      return ways.every((way) => way.includes("native")) ? true : undefined;
    });
  }

  async #ways(): Promise<string[]> {
    const { vbdFiles = [] } = await this.#host.call("show", { domain: DOMAIN });
    return vbdFiles.map(({ attachment }) => attachment);
  }

  async #recording(): Promise<{ node: string; name: string }[]> {
    const nodes = await this.#managed!.qmp.execute("query-named-block-nodes", { flat: true });
    return nodes.flatMap(({ "node-name": node = "", "dirty-bitmaps": bitmaps = [] }) =>
      bitmaps.flatMap(({ name, recording }) => (recording && name !== undefined ? [{ node, name }] : [])),
    );
  }
}

/** It does nothing but what fio does. */
function configOf(): Record<string, unknown> {
  const idle = { hotMemory: 1 << 20, pagesPerSecond: 0, blocksPerSecond: 0, filesPerSecond: 0 };
  const { append, ...config } = guestConfig(idle, "");
  return { ...config, nics: [], append: `${append} work.beat_ms=0` };
}

function monitorArguments(path: string): string[] {
  return ["-qmp", `unix:${path},server=on,wait=off`];
}
