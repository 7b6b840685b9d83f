/**
 * A nested Xen host: QEMU emulates a machine (no hardware virtualisation is needed), Xen's hypervisor boots in it,
 * and dom0 is a small Debian that runs our daemon as it would run on a host of iron.
 *
 * Every argument that looks odd is there because without it something breaks, reference words: SMAP kills dom0 at
 * its boot under TCG; lazy FPU switching together with AVX corrupts user land silently.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { openSync } from "node:fs";
import { mkdir, readFile, truncate, writeFile } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import type { Api, ApiMethod } from "../../node/control/api.ts";
import { type CallOptions, ControlClient } from "../../node/control/client.ts";
import { pause } from "../waiting.ts";
import { ext4, type XenImages } from "./dom0-image.ts";

export type XenHostOptions = {
  name: string;
  /** Position in the cluster, from 1: its address is 192.168.77.<number>. */
  number: number;
  folder: string;
  images: XenImages;
  /** Unix socket of the network between the hosts. */
  network: string;
  /** On this machine's loopback: where the host is told what to do. */
  controlPort: number;
  /** Likewise: where its daemon's API is reached. */
  apiPort: number;
  qemu: string;
  memoryMib: number;
  dom0MemoryMib: number;
  diskBytes: number;
};

export type Answer = { code: number; output: string };

const BOOT_TIMEOUT_MS = 400_000;
const POLL_MS = 250;
/** The last line of what a command said: how it ended. */
const END = /^([\s\S]*?)\n?=(\d+)\n$/;
const CPU = "max,-smap,-xsave,-xsaveopt,-avx,-avx2,-f16c,-pku,-mpx";

export class XenHost {
  readonly name: string;
  readonly address: string;
  readonly #options: XenHostOptions;
  #qemu: ChildProcess | undefined;
  #api: Server | undefined;

  constructor(options: XenHostOptions) {
    this.#options = options;
    this.name = options.name;
    this.address = `192.168.77.${options.number}`;
  }

  get serialPath(): string {
    return join(this.#options.folder, `${this.name}.serial`);
  }

  get pid(): number | undefined {
    return this.#qemu?.pid;
  }

  /** Resolves when dom0 takes commands. */
  async start(): Promise<void> {
    const { folder, diskBytes } = this.#options;
    await mkdir(folder, { recursive: true });
    const disk = join(folder, `${this.name}.ext4`);
    await writeFile(disk, "");
    await truncate(disk, diskBytes);
    await ext4(["-q", "-t", "ext4", "-m", "0", disk]);
    await writeFile(this.serialPath, "");
    await this.#boot(disk);
  }

  /** Runs a script in dom0's shell. Rejects when it does not answer, not when the script fails. */
  async run(script: string, { timeoutMs = 600_000 }: { timeoutMs?: number } = {}): Promise<Answer> {
    const output = await this.#exchange(
      `{ ${script}\n} 2>&1 </dev/null\nprintf "\\n=%d\\n" $?\nexit\n`,
      timeoutMs,
    );
    const end = END.exec(output);
    if (end === null) throw new Error(`${this.name} did not end a command in order: ${output.slice(-500)}`);
    return { code: Number(end[2]), output: end[1]! };
  }

  /** The same for what must not fail. */
  async must(script: string, options?: { timeoutMs?: number }): Promise<string> {
    const { code, output } = await this.run(script, options);
    if (code !== 0) throw new Error(`${this.name}: \`${script}\` ended with ${code}: ${output.slice(-2000)}`);
    return output;
  }

  /** One call of its daemon's API, as the command line makes it. */
  async call<M extends ApiMethod>(
    method: M,
    params: Api[M]["params"],
    options: CallOptions<M> = {},
  ): Promise<Api[M]["result"]> {
    const relay = await this.#relay();
    const client = await ControlClient.connect({ socketPath: relay });
    try {
      return await client.call(method, params, options);
    } finally {
      await client.close();
    }
  }

  /** As pulling its plug. */
  async stop(): Promise<void> {
    const qemu = this.#qemu;
    this.#qemu = undefined;
    this.#api?.close();
    this.#api = undefined;
    if (qemu === undefined || qemu.exitCode !== null || qemu.signalCode !== null) return;
    const exited = once(qemu, "exit");
    qemu.kill("SIGKILL");
    await exited;
  }

  async #boot(disk: string): Promise<void> {
    const { qemu, folder } = this.#options;
    const log = openSync(join(folder, `${this.name}.qemu.log`), "a");
    const child = spawn(qemu, this.#arguments(disk), { stdio: ["ignore", log, log] });
    this.#qemu = child;
    process.once("exit", () => child.kill("SIGKILL"));
    const deadline = performance.now() + BOOT_TIMEOUT_MS;
    for (;;) {
      const serial = await readFile(this.serialPath, "latin1");
      const died = child.exitCode !== null || child.signalCode !== null;
      if (died || /Dom0 crashed|Kernel panic|FATAL/.test(serial) || performance.now() > deadline) {
        await this.stop();
        throw new Error(`${this.name} does not boot: ${serial.slice(-1500)}`);
      }
      if (serial.includes("XEN-HOST-READY")) break;
      await pause(POLL_MS);
    }
    // The clock of an emulated machine starts where it likes.
    while (
      (await this.run(`date -s @${Date.now() / 1000} >/dev/null`).catch(() => undefined)) === undefined
    ) {
      if (performance.now() > deadline) throw new Error(`${this.name} takes no commands`);
      await pause(POLL_MS);
    }
  }

  #arguments(disk: string): string[] {
    const { name, images, number, network, controlPort, apiPort, memoryMib, dom0MemoryMib } = this.#options;
    const mac = (kind: string): string => `52:54:00:${kind}:00:0${number}`;
    const xen = [
      ...[
        "console=com1",
        "com1=115200,8n1",
        `dom0_mem=${dom0MemoryMib}M,max:${dom0MemoryMib}M`,
        "dom0_max_vcpus=1",
      ],
      ...[
        "loglvl=warning",
        "bootscrub=0",
        "spec-ctrl=no,eager-fpu=1",
        "xpti=off",
        "pv-l1tf=off",
        "cpufreq=none",
        "noreboot",
      ],
    ];
    const linux = [
      ...["console=hvc0", "quiet", "mitigations=off", "nokaslr", "random.trust_cpu=on", "panic=5"],
      ...[`host=${name}`, `address=${this.address}`],
    ];
    const drive = (id: string, file: string, more: string): string[] => [
      ...["-drive", `if=none,id=${id},file=${file},format=raw${more}`],
      ...["-device", `virtio-blk-pci,drive=${id}`],
    ];
    return [
      ...["-name", `xen-${name}`, "-accel", "tcg,thread=multi,tb-size=256", "-cpu", CPU, "-smp", "1"],
      ...["-m", `${memoryMib}`, "-display", "none", "-no-reboot", "-nodefaults"],
      ...["-serial", `file:${this.serialPath}`],
      ...["-kernel", images.hypervisor, "-append", xen.join(" ")],
      ...["-initrd", `${images.kernel} ${linux.join(" ")},${images.initrd}`],
      ...drive("root", images.root, ",readonly=on"),
      ...drive("product", images.product, ",readonly=on"),
      ...drive("data", disk, ",cache=unsafe"),
      ...[
        "-netdev",
        `user,id=control,hostfwd=tcp:127.0.0.1:${controlPort}-:2222,hostfwd=tcp:127.0.0.1:${apiPort}-:2223`,
      ],
      ...["-device", `virtio-net-pci,netdev=control,mac=${mac("aa")},romfile=`],
      ...["-netdev", `stream,id=hosts,server=off,addr.type=unix,addr.path=${network}`],
      ...["-device", `virtio-net-pci,netdev=hosts,mac=${mac("bb")},romfile=`],
    ];
  }

  /** A socket of the name that a client wants, in front of a port of the host. */
  async #relay(): Promise<string> {
    const path = join(this.#options.folder, `${this.name}.sock`);
    if (this.#api !== undefined) return path;
    const server = createServer((socket) => {
      const onwards = connect({ host: "127.0.0.1", port: this.#options.apiPort });
      for (const end of [socket, onwards]) end.on("error", () => {});
      socket.pipe(onwards).pipe(socket);
    });
    this.#api = server;
    server.unref();
    server.listen(path);
    await once(server, "listening");
    return path;
  }

  #exchange(script: string, timeoutMs: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: "127.0.0.1", port: this.#options.controlPort });
      const timer = setTimeout(() => socket.destroy(new Error(`${this.name} does not answer`)), timeoutMs);
      let output = "";
      socket.setEncoding("utf8");
      socket.on("connect", () => socket.write(script));
      socket.on("data", (text: string) => {
        output += text;
        // What it left behind in the background may hold the connection open.
        if (END.test(output)) socket.destroy();
      });
      socket.on("error", reject);
      socket.on("close", () => {
        clearTimeout(timer);
        resolve(output);
      });
    });
  }
}
