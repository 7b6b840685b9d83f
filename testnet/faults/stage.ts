/** Two hosts with links that can be broken, and what every case does with a domain on them. */

import { closeSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import type { DomainRow, HopReport } from "../../node/control/api.ts";
import type { FaultPoint } from "../../node/fault-points.ts";
import { WasmHypervisor } from "../../node/hypervisor/wasm/wasm-hypervisor.ts";
import { Cluster, type ClusterHost } from "../cluster.ts";
import { type GuestFigures, guestFigures, guestIsFilled } from "../guest.ts";
import { isRunning, processesOf } from "../processes.ts";
import { until, within } from "../waiting.ts";

export const VBD_BYTES = 256 << 20;
export const FILL_BYTES = 24 << 20;
export const MEMORY_BYTES = 8 << 20;
/** Small, so that "what was in flight is sent again" and "it started over" are two things. */
export const IN_FLIGHT_BLOCKS = 1024;

/** `writes`: nothing but writes of whole blocks, at full rate: none of them waits for a missing block. */
export type Workload = "web" | "diabolical" | "idle" | "writes";

const WRITES = { workload: "idle", opsPerSecond: "unlimited", wholeBlocks: true };

/** How a migration that was asked for ended for whoever asked. */
export type Asked = { report: HopReport } | { error: Error };

export type Actor = { name: string; id: string };

export class Stage {
  readonly cluster: Cluster;
  readonly source: ClusterHost;
  readonly destination: ClusterHost;

  private constructor(cluster: Cluster) {
    this.cluster = cluster;
    this.source = cluster.host("alpha");
    this.destination = cluster.host("beta");
  }

  static async start(): Promise<Stage> {
    const cluster = await Cluster.start({
      names: ["alpha", "beta"],
      links: "all",
      config: {
        // No case is about a host that is believed dead because this machine was busy.
        membership: { timings: "wan" },
        migration: {
          inFlightBlocksMax: IN_FLIGHT_BLOCKS,
          // Blocks enough for a post-copy that can be disturbed.
          remainingBlocksToFreeze: 4096,
          reconnectDelayMs: { min: 50, max: 1000 },
        },
      },
    });
    return new Stage(cluster);
  }

  stop(): Promise<void> {
    return this.cluster.stop();
  }

  get hosts(): readonly ClusterHost[] {
    return this.cluster.hosts;
  }

  /** A domain on the source whose guest has filled its vbd and works. */
  async perform(name: string, { workload, seed }: { workload: Workload; seed: number }): Promise<Actor> {
    const { domain } = await this.source.call("create", {
      name,
      hypervisor: "wasm",
      memoryBytes: MEMORY_BYTES,
      vbds: [{ name: "root", sizeBytes: VBD_BYTES }],
      config: JSON.stringify({
        ...(workload === "writes" ? WRITES : { workload }),
        ...{ seed, fillBytes: FILL_BYTES, touchedMemoryBytes: MEMORY_BYTES / 2 },
      }),
    });
    await guestIsFilled(this.source, { domain: name, onFigures: () => {} });
    return { name, id: domain };
  }

  /** Asks for a migration and does not wait for it. */
  async migrate(from: ClusterHost, to: ClusterHost, { name }: Actor): Promise<{ asked: Promise<Asked> }> {
    const asked = from.call("migrate", { domain: name, to: to.name, options: { iterationsMax: 2 } }).then(
      (report) => ({ report }),
      (error: Error) => ({ error }),
    );
    return { asked };
  }

  /** A migration that nothing disturbs, and the guest's verification after it. */
  async hop(from: ClusterHost, to: ClusterHost, actor: Actor): Promise<HopReport> {
    const { asked } = await this.migrate(from, to, actor);
    const ended = await within(`${actor.name} moves from ${from.name} to ${to.name}`, asked);
    if ("error" in ended) throw ended.error;
    await this.settled(actor, { on: to });
    await this.verify(to, actor);
    return ended.report;
  }

  /** The guest reads back all that it ever wrote. Throws when anything is not as it was written. */
  async verify(host: ClusterHost, { name }: Actor): Promise<GuestFigures> {
    const report = await within(`${name} verifies itself`, host.call("verify", { domain: name }));
    const figures = await guestFigures(host, name);
    if (!report.ok || report.errors > 0 || figures.errors > 0) {
      throw new Error(
        `the guest of ${name} found ${figures.errors} errors: ${figures.firstErrors.join("; ")}`,
      );
    }
    if ((report.blocksChecked ?? 0) * 4096 < FILL_BYTES) {
      throw new Error(`the guest of ${name} checked only ${report.blocksChecked} blocks`);
    }
    return figures;
  }

  /** Resolves with the one host that runs the domain, once no migration is under way and no remains are left. */
  async settled(
    actor: Actor,
    { on }: { on?: ClusterHost } = {},
  ): Promise<{ host: ClusterHost; row: DomainRow }> {
    let last = "";
    try {
      return await until("settled", async () => {
        const seen = await Promise.all(this.hosts.map((host) => this.#row(host, actor)));
        const guests = this.guests(actor);
        last = JSON.stringify({
          rows: seen.map((row) => row && `${row.state} ${row.migration?.phase}`),
          guests,
        });
        const running = this.hosts.filter((host, index) => {
          const row = seen[index];
          return row?.host === host.hostId && row.state === "running";
        });
        const [host] = running;
        if (host === undefined || running.length > 1 || (on !== undefined && host !== on)) return undefined;
        if (seen.some((row) => row?.migration !== undefined)) return undefined;
        if (guests.length !== 1 || guests[0] !== host.name) return undefined;
        const row = seen[this.hosts.indexOf(host)]!;
        // The journal and the guest agree; the NBD export is there when the guest answers.
        const { guest } = await host.call("show", { domain: actor.name });
        return guest?.state === "running" ? { host, row } : undefined;
      });
    } catch (cause) {
      throw new Error(`${actor.name} does not settle: ${last}`, { cause });
    }
  }

  /** Names of the hosts where a process of the domain's guest is, each as often as there is one. */
  guests({ id }: Actor): string[] {
    return this.hosts.flatMap((host) =>
      processesOf(host.runDir)
        .filter((pid) => argumentsEndIn(pid, id))
        .map(() => host.name),
    );
  }

  /** Names of the hosts where the guest runs, asked of the guest itself. */
  async running({ id }: Actor): Promise<string[]> {
    const names: string[] = [];
    for (const host of this.hosts) {
      const { state } = await new WasmHypervisor({ runDir: host.runDir }).status(id);
      if (state === "running") names.push(host.name);
    }
    return names;
  }

  /** The domain's row on the host; undefined when the host has none, or does not answer now. */
  async #row(host: ClusterHost, { id }: Actor): Promise<DomainRow | undefined> {
    if (!host.isUp) return undefined;
    const rows = await host.call("list", {}).catch(() => []);
    return rows.find((row) => row.id === id);
  }

  /** Resolves when the source's migration is in `phase`, or in another for which `enough` holds. */
  async inPhase(
    actor: Actor,
    enough: (migration: NonNullable<DomainRow["migration"]>) => boolean,
  ): Promise<void> {
    await until("the migration comes to its phase", async () => {
      const row = await this.#row(this.source, actor);
      return row?.migration !== undefined && enough(row.migration) ? row : undefined;
    });
  }

  /** Ends the domain; its vbds stay as they are. */
  async clear({ name }: Actor, host: ClusterHost): Promise<void> {
    await host.call("destroy", { domain: name });
  }
}

/** What a daemon says of fault points that fire, from now on. */
export class FaultLog {
  readonly #path: string;
  readonly #from: number;

  constructor({ logPath }: ClusterHost) {
    this.#path = logPath;
    this.#from = statSync(logPath).size;
  }

  fired(point: FaultPoint): Promise<true> {
    return until(`fault point ${point} is reached`, () => {
      const isThere = this.#text().includes(`"point":"${point}"`);
      return isThere ? true : undefined;
    });
  }

  #text(): string {
    const size = statSync(this.#path).size - this.#from;
    if (size <= 0) return "";
    const buffer = Buffer.alloc(size);
    const fd = openSync(this.#path, "r");
    try {
      return buffer.toString("latin1", 0, readSync(fd, buffer, 0, size, this.#from));
    } finally {
      closeSync(fd);
    }
  }
}

/** Both of a daemon's processes have ended: the one that dies second still holds its sockets. */
export async function gone(pids: readonly number[]): Promise<void> {
  await until("the killed daemon is gone", () => (pids.some(isRunning) ? undefined : true));
}

function argumentsEndIn(pid: number, id: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1")
      .split("\0")
      .some((argument) => argument.endsWith(`/${id}`));
  } catch {
    return false;
  }
}
