/** One guest's way through a cluster: its boot, each hop with its checks, its end. */

import { join } from "node:path";
import { formatProgress } from "../../node/cli/progress.ts";
import type { Cluster, ClusterHost } from "../cluster.ts";
import { guestProcesses, runningOn } from "../guest.ts";
import { processesOf } from "../processes.ts";
import type { StatusLine } from "../status-line.ts";
import { type Check, check } from "../tour-checks.ts";
import type { Hop } from "../tour-options.ts";
import { pause } from "../waiting.ts";
import type { BeatListener } from "./beat-listener.ts";
import { GuestConsole, type GuestLine } from "./guest-console.ts";
import { checkFileSystem, makeFileSystem, readFileSums } from "./guest-disk.ts";
import type { QemuRunOptions } from "./qemu-options.ts";
import type { QemuHop, QemuSummary } from "./qemu-report.ts";
import { pauseOf } from "./stages.ts";

const MAC = "52:54:00:50:4a:01";
const POLL_MS = 50;
/** Around a hop: the beats before and after, so that the silence in between is seen whole. */
const BEATS_AFTER_MS = 1000;

export class GuestJourney {
  readonly #cluster: Cluster;
  readonly #options: QemuRunOptions;
  readonly #status: StatusLine;
  readonly #beats: BeatListener;
  readonly #name = "linux";
  #console: GuestConsole | undefined;
  #id = "";
  readonly hops: QemuHop[] = [];

  constructor(
    cluster: Cluster,
    { options, status, beats }: { options: QemuRunOptions; status: StatusLine; beats: BeatListener },
  ) {
    this.#cluster = cluster;
    this.#options = options;
    this.#status = status;
    this.#beats = beats;
  }

  async begin(beatPath: string): Promise<void> {
    const { route, memory, diskSize, secondSize } = this.#options;
    const host = this.#cluster.host(route[0]!);
    const image = join(this.#cluster.folder, "root.img");
    this.#status.update("making the guest's file system");
    await makeFileSystem(image, diskSize);
    this.#status.update(`the guest boots on ${host.name}`);
    const vbds = [
      { name: "root", image },
      { name: "second", sizeBytes: secondSize },
    ];
    const { domain } = await host.call("create", {
      name: this.#name,
      hypervisor: "qemu",
      memoryBytes: memory,
      vbds,
      config: JSON.stringify(guestConfig(this.#options, beatPath)),
    });
    this.#id = domain;
    this.#console = await this.#openConsole(host);
    await this.#console.next(({ type }) => type === "status");
  }

  async hop({ from, to }: Hop): Promise<QemuHop> {
    const [source, destination] = [this.#cluster.host(from), this.#cluster.host(to)];
    const hop = this.hops.length + 1;
    const title = `hop ${hop}, ${from} -> ${to}`;
    const sinceMs = performance.now();
    const report = await source.call(
      "migrate",
      { domain: this.#name, to },
      {
        onEvent: (progress) =>
          this.#status.update(
            `${title}: ${progress.phase}`,
            formatProgress(progress).replace(/^[^,]*, /, ""),
          ),
      },
    );
    this.#console?.close();
    this.#console = await this.#openConsole(destination);
    await pause(BEATS_AFTER_MS);
    const blackout = this.#beats.blackout(sinceMs, performance.now());
    const announcements = this.#beats.announcements(sinceMs);
    const pauses = await pauseOf({ source, destination, domain: this.#id });
    this.#status.update(`${title}: the guest verifies its disks and memory`);
    this.#console.say("verify");
    const verified = await this.#console.next(({ type }) => type === "verified");
    const guestErrors = verified.errors ?? Number.NaN;
    const running = await runningOn(this.#cluster, this.#name);
    const guests = await guestProcesses(this.#cluster);
    const result: QemuHop = {
      hop,
      ...report,
      ...pauses,
      packetBlackoutMs: blackout.longestMs,
      packetsLost: blackout.lost,
      announcements,
      guestErrors,
      checks: [
        check("the guest's verification", guestErrors === 0, `${JSON.stringify(verified)}`),
        check(
          "one host runs the domain",
          running.join() === to && guests === 1,
          `on ${running.join(" and ") || "none"}, ${guests} guests`,
        ),
        check("the network hears where the guest is", announcements > 0, `${announcements} announcements`),
        check("the guest was heard before and after", blackout.beats > 10, `${blackout.beats} beats`),
      ],
    };
    this.hops.push(result);
    return result;
  }

  /** The guest ends in order; then the disks are looked at from outside. */
  async finish(last: string): Promise<Pick<QemuSummary, "fsck" | "files"> & { checks: Check[] }> {
    const host = this.#cluster.host(last);
    const guest = this.#console;
    if (guest === undefined) throw new Error("the guest has no console");
    this.#status.update("the guest sums up its files and powers off");
    const said = new Map<string, { size: number; crc32: number }>();
    guest.say("sums");
    await guest.collect(
      ({ type }) => type === "sums",
      (line) => {
        if (line.type === "file") said.set(String(line.name), sumOf(line));
      },
    );
    guest.say("halt");
    const unmounted = await guest.next(({ type }) => type === "unmounted");
    await this.#off(host);
    await host.call("destroy", { domain: this.#name });
    const { vbdFiles = [] } = await host.call("show", { domain: this.#name });
    const path = vbdFiles.find(({ name }) => name === "root")!.path;
    this.#status.update("checking the file system");
    const fsck = await checkFileSystem(path);
    const found = await readFileSums(path);
    const differing = [...said].filter(([name, sum]) => {
      const there = found.get(name);
      return there === undefined || there.size !== sum.size || there.crc32 !== sum.crc32;
    });
    return {
      fsck: fsck.clean ? "clean" : fsck.output,
      files: said.size,
      checks: [
        check("no error in the guest's life", unmounted.errors === 0, JSON.stringify(unmounted)),
        check("e2fsck -fn", fsck.clean, fsck.output),
        check(
          "every file is as the guest summed it up",
          said.size > 0 && differing.length === 0,
          `${said.size} files, ${differing.length} differ: ${differing.map(([name]) => name).join(" ")}`,
        ),
      ],
    };
  }

  close(): void {
    this.#console?.close();
  }

  /** The guest's processors stand still while something else is measured. */
  rest(): void {
    for (const pid of this.#processes()) process.kill(pid, "SIGSTOP");
  }

  wake(): void {
    for (const pid of this.#processes()) process.kill(pid, "SIGCONT");
  }

  #processes(): number[] {
    return this.#cluster.hosts.flatMap(({ runDir }) => processesOf(runDir));
  }

  #openConsole(host: ClusterHost): Promise<GuestConsole> {
    return GuestConsole.open(join(host.runDir, this.#id, "serial"));
  }

  async #off(host: ClusterHost): Promise<void> {
    for (;;) {
      const { state } = await host.call("show", { domain: this.#name });
      if (state === "shutoff") return;
      await pause(POLL_MS);
    }
  }
}

/** The same guest for every run: the machine's settings but for its vbds and its memory. */
export function guestConfig(options: Work, beatPath: string): Record<string, unknown> {
  const { hotMemory, pagesPerSecond, blocksPerSecond, filesPerSecond } = options;
  const append = [
    ...["console=ttyS0", "quiet", "panic=1"],
    ...[`work.memory_mib=${hotMemory >> 20}`, `work.pages_per_s=${pagesPerSecond}`],
    `work.blocks_per_s=${blocksPerSecond}`,
    ...[`work.files_per_s=${filesPerSecond}`, "work.files=64"],
  ];
  return {
    kernel: "vmlinuz",
    initrd: "initrd.img",
    append: append.join(" "),
    nics: [{ mac: MAC, backend: { type: "stream", path: beatPath } }],
  };
}

type Work = Pick<QemuRunOptions, "hotMemory" | "pagesPerSecond" | "blocksPerSecond" | "filesPerSecond">;

function sumOf({ size, crc32 }: GuestLine): { size: number; crc32: number } {
  return { size: Number(size), crc32: Number(crc32) };
}
