/**
 * A cluster on this machine: daemons as child processes, each with a folder, a key and ports of its own, formed by
 * `init`, `invite` and `join`, and spoken to as a user would: by the executable and by the control socket.
 *
 * Whatever happens to us, nothing stays: daemons, guests (which outlive daemons on purpose) and folders go at
 * `stop`, at our exit and at a signal that ends us. Only what was kept on purpose, by `keep`, stays.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, rmSync, statSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import type { Api, ApiMethod, MemberRow } from "../node/control/api.ts";
import { type CallOptions, ControlClient } from "../node/control/client.ts";
import { type Build, commandLine, environmentOf } from "./executable.ts";
import { editConfig, type HostPlan, initHost, invite, joinHost, type Ports } from "./forming.ts";
import { freePorts } from "./free-ports.ts";
import { LinkProxy } from "./link-proxy.ts";
import { childrenOf, isRunning, killProcessesOf, killQuietly } from "./processes.ts";

export type ClusterOptions = {
  /** The hosts' names, in the order in which they are started. */
  names: readonly string[];
  /** Where the cluster's folder is made; the system's folder for temporary files otherwise. */
  within?: string;
  /** Which connections go through links that can be broken. None: daemons speak to each other directly. */
  links?: "data" | "all";
  /** Settings of every host beside those that the cluster makes; of `migration`, for instance. */
  config?: Record<string, unknown>;
  /** Environment of every daemon, such as SOJOURN_LOG. */
  env?: Record<string, string>;
  /** What the daemons run. */
  build?: Build;
  /** Where a host's daemon runs and listens, in a network namespace for instance; on this machine's loopback otherwise. */
  place?: (name: string) => Place;
  /** Many daemons that start at once take their time. */
  startTimeoutMs?: number;
};

/** `within` goes in front of the daemon's command. */
export type Place = { ip: string; within: readonly string[] };

const LOOPBACK: Place = { ip: "127.0.0.1", within: [] };

/** What `host` is dialled through, by all others: its proxies' addresses are the ones that it announces. */
export type Link = { host: string; data: LinkProxy; control: LinkProxy | undefined };

/** In a cluster's folder: says that it is one, and may be removed as a whole. */
const MARKER = "cluster.json";
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 20_000;
const POLL_MS = 20;
const LOG_TAIL_CHARS = 2000;
/** More daemons that start at a time than this only wait for one another. */
const STARTS_AT_ONCE = 4;
const FORMING_TIMEOUT_MS = 60_000;

export class Cluster {
  readonly folder: string;
  readonly hosts: readonly ClusterHost[];
  readonly links: readonly Link[];
  #gone = false;

  private constructor(parts: { folder: string; hosts: readonly ClusterHost[]; links: readonly Link[] }) {
    this.folder = parts.folder;
    this.hosts = parts.hosts;
    this.links = parts.links;
  }

  /** Forms the cluster; resolves when every host believes every other alive. */
  static async start(options: ClusterOptions): Promise<Cluster> {
    const cluster = await Cluster.launch(options);
    try {
      await cluster.#formed();
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /** The same, and does not wait for what the hosts believe: every one is a member, and its daemon answers. */
  static async launch(options: ClusterOptions): Promise<Cluster> {
    const folder = mkdtempSync(join(resolve(options.within ?? tmpdir()), "sojourn-"));
    doomed.add(folder);
    watchOurEnd();
    try {
      return await form(folder, options);
    } catch (error) {
      removeCluster(folder);
      throw error;
    }
  }

  /** For `form`. */
  static of(parts: { folder: string; hosts: readonly ClusterHost[]; links: readonly Link[] }): Cluster {
    return new Cluster(parts);
  }

  host(name: string): ClusterHost {
    const host = this.hosts.find((candidate) => candidate.name === name);
    if (host === undefined) throw new Error(`there is no host ${name} in this cluster`);
    return host;
  }

  /** Both ways. Throws where there are none, and where a third host is dialled through them, too. */
  linksBetween(one: string, other: string): Link[] {
    const found = this.links.filter(({ host }) => host === one || host === other);
    if (found.length === 0) throw new Error(`no links between ${one} and ${other}: the cluster has none`);
    if (this.links.length > 2) throw new Error(`others dial ${one} and ${other} through the same links`);
    return found;
  }

  /** Cuts, stalls or heals what the two hosts speak through, both ways. */
  async breakLink(one: string, other: string, how: "cut" | "stall" | "heal"): Promise<void> {
    const proxies = this.linksBetween(one, other).flatMap(({ data, control }) => [data, control]);
    await Promise.all(proxies.map((proxy) => proxy?.[how]()));
  }

  async #formed(): Promise<void> {
    const names = this.hosts.map(({ name }) => name);
    for (const deadline = performance.now() + FORMING_TIMEOUT_MS; ; await timeout(POLL_MS)) {
      const answers = await Promise.all(this.hosts.map((host) => host.call("members", {})));
      const isKnown = (name: string, rows: readonly MemberRow[]): boolean =>
        rows.some(({ hostName, state }) => hostName === name && state === "alive");
      if (answers.every((rows) => names.every((name) => isKnown(name, rows)))) return;
      if (performance.now() > deadline) throw new Error("not all hosts of the cluster find each other");
    }
  }

  /** Leaves daemons and guests running when we end; `removeCluster(folder)` ends them. Not with links: those are ours. */
  keep(): void {
    if (this.links.length > 0) throw new Error("links end with us: a cluster with links cannot be kept");
    doomed.delete(this.folder);
    for (const host of this.hosts) host.release();
  }

  /** Ends daemons and guests and removes the folder. Idempotent. */
  async stop(): Promise<void> {
    if (this.#gone) return;
    this.#gone = true;
    await Promise.all(this.hosts.map((host) => host.kill9()));
    await Promise.all(this.links.flatMap(({ data, control }) => [data.stop(), control?.stop()]));
    removeCluster(this.folder);
  }
}

type HostParts = {
  name: string;
  hostId: string;
  dataDir: string;
  ports: Ports;
  env: Record<string, string>;
  within?: readonly string[];
  build?: Build;
  startTimeoutMs?: number;
};

export class ClusterHost {
  readonly name: string;
  readonly hostId: string;
  readonly dataDir: string;
  readonly ports: Readonly<Ports>;
  readonly #env: Record<string, string>;
  readonly #how: { within: readonly string[]; build: Build };
  readonly #startTimeoutMs: number;
  #child: ChildProcess | undefined;

  constructor({
    name,
    hostId,
    dataDir,
    ports,
    env,
    within = [],
    build = "sources",
    startTimeoutMs = START_TIMEOUT_MS,
  }: HostParts) {
    this.name = name;
    this.hostId = hostId;
    this.dataDir = dataDir;
    this.ports = ports;
    this.#env = env;
    this.#how = { within, build };
    this.#startTimeoutMs = startTimeoutMs;
  }

  get socketPath(): string {
    return join(this.dataDir, "api.sock");
  }

  /** Where guests have a folder each. */
  get runDir(): string {
    return join(this.dataDir, "run");
  }

  /** What the daemon's processes wrote to stderr, over all of its starts. */
  get logPath(): string {
    return `${this.dataDir}.log`;
  }

  get isUp(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** The control process first, then the data process. Empty while the daemon is down. */
  pids(): number[] {
    const pid = this.isUp ? this.#child?.pid : undefined;
    return pid === undefined ? [] : [pid, ...childrenOf(pid)];
  }

  /** A client of its own, for many calls or for one that lasts; whoever asked for it closes it. */
  connect(signal?: AbortSignal): Promise<ControlClient> {
    return ControlClient.connect({
      socketPath: this.socketPath,
      ...(signal === undefined ? {} : { signal }),
    });
  }

  /** One call over a connection of its own: right also after a restart. */
  async call<M extends ApiMethod>(
    method: M,
    params: Api[M]["params"],
    options: CallOptions<M> = {},
  ): Promise<Api[M]["result"]> {
    const client = await this.connect(options.signal);
    try {
      return await client.call(method, params, options);
    } finally {
      await client.close();
    }
  }

  /** Resolves when the daemon answers. `env` is for this start alone: SOJOURN_FAULT, for instance. */
  async start(env: Record<string, string> = {}): Promise<void> {
    if (this.isUp) return;
    const log = openSync(this.logPath, "a", 0o600);
    const logStart = statSync(this.logPath).size;
    try {
      const [command = "", ...args] = commandLine(["up", "--data-dir", this.dataDir], this.#how);
      this.#child = spawn(command, args, {
        stdio: ["ignore", log, log],
        // A group of its own: a terminal's Ctrl-C is for us, and a kill of the group takes both processes at once.
        detached: true,
        env: { ...environmentOf(dirname(this.dataDir), this.#how.build), ...this.#env, ...env },
      });
    } finally {
      closeSync(log);
    }
    await this.#answers(this.#child, logStart);
  }

  /** Asks the daemon to end, and waits until it has. Guests run on. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.isUp) return;
    const pids = this.pids();
    child.kill("SIGTERM");
    const ended = await Promise.race([once(child, "exit"), timeout(STOP_TIMEOUT_MS)]);
    if (ended === undefined)
      throw new Error(`the daemon of ${this.name} does not stop: ${await this.#tail()}`);
    await allEnded(pids);
  }

  /** Kills both of the daemon's processes at once, as a power cut would. Guests run on. */
  async kill9(): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.isUp) return;
    const pids = this.pids();
    const exited = once(child, "exit");
    killQuietly(pids[0]!);
    await exited;
    await allEnded(pids);
  }

  /** After `stop`, after `kill9`, or after the daemon died of itself. */
  async restart(env: Record<string, string> = {}): Promise<void> {
    await this.stop();
    await this.start(env);
  }

  /** Resolves when the daemon ends, for whatever reason; at once when it is down. */
  async exited(): Promise<void> {
    if (this.#child !== undefined && this.isUp) await once(this.#child, "exit");
  }

  /** Our own end need not wait for it. */
  release(): void {
    this.#child?.unref();
  }

  /** The log's last lines, for people. */
  async #tail(from = 0): Promise<string> {
    const text = (await readFile(this.logPath, "latin1")).slice(from);
    return text.slice(-LOG_TAIL_CHARS);
  }

  async #answers(child: ChildProcess, logStart: number): Promise<void> {
    const deadline = performance.now() + this.#startTimeoutMs;
    const died = new Promise<"died">((settle) => {
      child.once("exit", () => settle("died"));
      child.once("error", () => settle("died"));
    });
    while (performance.now() < deadline) {
      const answer = await Promise.race([this.call("info", {}).catch(() => undefined), died]);
      if (answer === "died") {
        throw new Error(`the daemon of ${this.name} ended at its start:\n${await this.#tail(logStart)}`);
      }
      // A daemon that was killed may have left its socket, and another may have been quicker than we.
      if (answer?.pid === child.pid) return;
      await Promise.race([timeout(POLL_MS), died]);
    }
    throw new Error(`the daemon of ${this.name} does not answer:\n${await this.#tail(logStart)}`);
  }
}

// Forming.

async function form(folder: string, options: ClusterOptions): Promise<Cluster> {
  const { names, links: linked, config = {}, env = {}, build = "sources", startTimeoutMs } = options;
  await writeFile(join(folder, MARKER), `${JSON.stringify({ names })}\n`);
  const ports = await freePorts((linked === undefined ? 2 : 4) * names.length);
  const links: Link[] = [];
  const plans: HostPlan[] = [];
  for (const name of names) {
    const own = { control: ports.pop()!, data: ports.pop()! };
    const link = linked === undefined ? undefined : await startLink(name, { own, linked, ports });
    if (link !== undefined) links.push(link);
    const announced = {
      ...(link === undefined ? {} : { data: link.data.port }),
      ...(link?.control === undefined ? {} : { control: link.control.port }),
    };
    const place = options.place?.(name) ?? LOOPBACK;
    plans.push({ name, dataDir: join(folder, name), ports: own, announced, build, ...place });
  }
  const up = async (plan: HostPlan, hostId: string): Promise<ClusterHost> => {
    await editConfig(plan, { ...config, faults: true });
    const host = new ClusterHost({ ...plan, hostId, env, ...(startTimeoutMs && { startTimeoutMs }) });
    await host.start();
    return host;
  };
  const [first, ...others] = plans as [HostPlan, ...HostPlan[]];
  const founder = await up(first, await initHost(first));
  if (others.length === 0) return Cluster.of({ folder, hosts: [founder], links });
  const token = await invite(first, { socketPath: founder.socketPath, uses: others.length });
  const hosts = new Map([[first.name, founder]]);
  const queue = [...others];
  const work = async (): Promise<void> => {
    for (let plan = queue.shift(); plan !== undefined; plan = queue.shift()) {
      hosts.set(plan.name, await up(plan, await joinHost(plan, token)));
    }
  };
  await Promise.all(Array.from({ length: STARTS_AT_ONCE }, work));
  return Cluster.of({ folder, hosts: names.map((name) => hosts.get(name)!), links });
}

async function startLink(
  host: string,
  { own, linked, ports }: { own: Ports; linked: "data" | "all"; ports: number[] },
): Promise<Link> {
  const data = new LinkProxy({ port: ports.pop()!, targetPort: own.data });
  const control =
    linked === "all" ? new LinkProxy({ port: ports.pop()!, targetPort: own.control }) : undefined;
  await Promise.all([data.start(), control?.start()]);
  return { host, data, control };
}

// The end.

/** Folders of clusters that end with us. */
const doomed = new Set<string>();
let isWatching = false;

/** Kills what runs in a cluster's folder, and removes it. Throws when the folder is none. */
export function removeCluster(folder: string): void {
  statSync(join(folder, MARKER));
  killProcessesOf(folder);
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  doomed.delete(folder);
}

function watchOurEnd(): void {
  if (isWatching) return;
  isWatching = true;
  process.on("exit", () => {
    for (const folder of doomed) removeCluster(folder);
  });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => process.exit(128 + constants.signals[signal]));
  }
}

async function allEnded(pids: readonly number[]): Promise<void> {
  const deadline = performance.now() + STOP_TIMEOUT_MS;
  while (pids.some(isRunning)) {
    if (performance.now() > deadline) throw new Error(`processes ${pids.join(", ")} do not end`);
    await timeout(POLL_MS);
  }
}

function timeout(ms: number): Promise<undefined> {
  return new Promise((settle) => setTimeout(() => settle(undefined), ms));
}
