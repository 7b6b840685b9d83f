/** Nested Xen hosts with our daemon on each, formed into a cluster by the commands that an operator uses. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePorts } from "../free-ports.ts";
import { pause } from "../waiting.ts";
import type { XenImages } from "./dom0-image.ts";
import { Switch } from "./switch.ts";
import { type Answer, XenHost } from "./xen-host.ts";

const DATA_DIR = "/var/lib/sojourn/data";
/** What a daemon loads: the others read and compile it while the first host founds the cluster. */
const LOAD_DAEMON = `node -e 'import(process.argv[1])' /opt/sojourn/dist/node/daemon-*.js`;
const DAEMON_LOG = "/var/log/sojourn.log";
/** Emulated hosts are some fifty times slower than those of iron: what waits for them has to be patient. */
const PATIENCE = [
  ...["--migration-freeze-timeout-ms", "240000"],
  ...["--migration-stall-timeout-ms", "60000"],
  ...["--membership-timings", "wan"],
  // They are killed on purpose.
  "--faults",
];
const GUEST_MEMORY_MIB = 220;
const DOM0_MEMORY_MIB = 760;
const XEN_MEMORY_MIB = 160;
const DATA_DISK_BYTES = 1 << 30;
const UP_TIMEOUT_MS = 900_000;
const POLL_MS = 500;
const JOIN_TRIES = 10;

export class XenCluster {
  readonly folder: string;
  readonly hosts: readonly XenHost[];
  readonly network: Switch;

  constructor(folder: string, hosts: readonly XenHost[], network: Switch) {
    this.folder = folder;
    this.hosts = hosts;
    this.network = network;
  }

  static async start(
    names: readonly string[],
    { images, qemu, say }: { images: XenImages; qemu: string; say: (what: string) => void },
  ): Promise<XenCluster> {
    const folder = await mkdtemp(join(tmpdir(), "sojourn-xen-"));
    const socket = join(folder, "network");
    const network = await Switch.listen(socket);
    const ports = await freePorts(2 * names.length);
    const memoryMib = DOM0_MEMORY_MIB + GUEST_MEMORY_MIB + XEN_MEMORY_MIB;
    const hosts = names.map(
      (name, index) =>
        new XenHost({
          ...{ name, number: index + 1, folder, images, qemu, network: socket },
          ...{
            controlPort: ports[2 * index]!,
            apiPort: ports[2 * index + 1]!,
            memoryMib,
            dom0MemoryMib: DOM0_MEMORY_MIB,
            diskBytes: DATA_DISK_BYTES,
          },
        }),
    );
    const cluster = new XenCluster(folder, hosts, network);
    try {
      say("the Xen hosts boot");
      await Promise.all(hosts.map((host) => host.start()));
      say("the hosts form a cluster");
      await cluster.form();
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  host(name: string): XenHost {
    const host = this.hosts.find((candidate) => candidate.name === name);
    if (host === undefined) throw new Error(`there is no host ${name}`);
    return host;
  }

  async stop(): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.stop()));
    await this.network.stop();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** By `init`, `invite` and `join`; resolves when every host believes every other alive. */
  async form(): Promise<void> {
    const [first, ...others] = this.hosts as [XenHost, ...XenHost[]];
    const warm = Promise.all(others.map((host) => host.run(LOAD_DAEMON)));
    await first.must(`sojourn init ${optionsOf(first)} --json`);
    await this.up(first);
    await warm;
    if (others.length === 0) return;
    const { token } = await first.call("invite", { uses: others.length });
    await Promise.all(
      others.map(async (host) => {
        await enter(host, token);
        await this.up(host);
      }),
    );
    const deadline = performance.now() + UP_TIMEOUT_MS;
    for (const host of this.hosts) {
      for (;;) {
        const rows = await host.call("members", {});
        if (rows.filter(({ state }) => state === "alive").length >= this.hosts.length) break;
        if (performance.now() > deadline) throw new Error(`${host.name} does not find the others`);
        await pause(POLL_MS);
      }
    }
  }

  /** Resolves when the host's daemon answers; also for one that died. */
  async up(host: XenHost): Promise<void> {
    await host.must(
      `mkdir -p ${DATA_DIR}/kernels; ln -sf /lab/vmlinuz /lab/guest-initrd.gz ${DATA_DIR}/kernels/`,
    );
    const ups = `grep -c '"daemon is up"' ${DAEMON_LOG} 2>/dev/null || true`;
    const before = Number(await host.must(ups));
    await host.must(
      `setsid sojourn up --data-dir ${DATA_DIR} ${PATIENCE.join(" ")} >>${DAEMON_LOG} 2>&1 & disown`,
    );
    const deadline = performance.now() + UP_TIMEOUT_MS;
    while (!(Number(await host.must(ups)) > before)) {
      if (!(await this.isUp(host)) || performance.now() > deadline)
        throw new Error(`the daemon of ${host.name}: ${await daemonLog(host, 10)}`);
      await pause(POLL_MS);
    }
  }

  /** Whether there is a process of its daemon. */
  async isUp(host: XenHost): Promise<boolean> {
    return (await host.run("pgrep -f 'sojourn.* up --data-dir'")).code === 0;
  }
}

/** What the daemon of a host said, the last lines of it. */
export async function daemonLog(host: XenHost, lines: number): Promise<string> {
  const { output }: Answer = await host.run(`tail -n ${lines} ${DAEMON_LOG}`);
  return output;
}

/** An emulated host may take longer to answer than a host of iron is given. */
async function enter(host: XenHost, token: string): Promise<void> {
  for (let left = JOIN_TRIES; ; left--) {
    const { code, output } = await host.run(`sojourn join '${token}' ${optionsOf(host)} --json`);
    if (code === 0) return;
    if (left === 0 || !output.includes("PEER_UNREACHABLE"))
      throw new Error(`${host.name} cannot join: ${output}`);
    await pause(POLL_MS);
  }
}

function optionsOf({ name, address }: XenHost): string {
  return [
    ...["--data-dir", DATA_DIR, "--name", name],
    ...["--listen", `${address}:4701`, "--data-listen", `${address}:4702`],
  ].join(" ");
}
