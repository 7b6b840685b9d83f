/**
 * A cluster on this machine: daemons as child processes, each with a folder, a key and ports of its own, and
 * spoken to as a user would: by the executable and by the control socket.
 *
 * Whatever happens to us, nothing stays: daemons, guests (which outlive daemons on purpose) and folders go at
 * `stop`, at our exit and at a signal that ends us. Only what was kept on purpose, by `keep`, stays.
 */

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, rmSync, statSync } from "node:fs";
import { open, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { constants, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import type { Api, ApiMethod } from "../node/control/api.ts";
import { type CallOptions, ControlClient } from "../node/control/client.ts";
import { configFile } from "../node/data-folder.ts";
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
  /** `none`: the hosts do not know of each other; a test joins them. Otherwise each has all others as its peers. */
  peers?: "all" | "none";
  /** Where a host's daemon runs and listens, in a network namespace for instance; on this machine's loopback otherwise. */
  place?: (name: string) => Place;
  /** Many daemons that start at once take their time. */
  startTimeoutMs?: number;
};

/** `within` goes in front of the daemon's command. */
export type Place = { ip: string; within: readonly string[] };

const LOOPBACK: Place = { ip: "127.0.0.1", within: [] };

/** The links that `from` dials `to` through. */
export type Link = { from: string; to: string; data: LinkProxy; control: LinkProxy | undefined };

/** In a cluster's folder: says that it is one, and may be removed as a whole. */
const MARKER = "cluster.json";
const EXECUTABLE = join(import.meta.dirname, "..", "node", "bin.ts");
const NODE_MAJOR_MIN = 24;
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 20_000;
const POLL_MS = 20;
const LOG_TAIL_CHARS = 2000;

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

  /** Resolves when every daemon answers on its control socket. */
  static async start(options: ClusterOptions): Promise<Cluster> {
    const folder = mkdtempSync(join(resolve(options.within ?? tmpdir()), "sojourn-"));
    doomed.add(folder);
    watchOurEnd();
    try {
      const cluster = await build(folder, options);
      await Promise.all(cluster.hosts.map((host) => host.start()));
      return cluster;
    } catch (error) {
      removeCluster(folder);
      throw error;
    }
  }

  /** For `build`. */
  static of(parts: { folder: string; hosts: readonly ClusterHost[]; links: readonly Link[] }): Cluster {
    return new Cluster(parts);
  }

  host(name: string): ClusterHost {
    const host = this.hosts.find((candidate) => candidate.name === name);
    if (host === undefined) throw new Error(`there is no host ${name} in this cluster`);
    return host;
  }

  /** Both ways; throws where there are none between the two. */
  linksBetween(one: string, other: string): Link[] {
    const found = this.links.filter(
      ({ from, to }) => (from === one && to === other) || (from === other && to === one),
    );
    if (found.length === 0) throw new Error(`no links between ${one} and ${other}: the cluster has none`);
    return found;
  }

  /** Cuts, stalls or heals what the two hosts speak through, both ways. */
  async breakLink(one: string, other: string, how: "cut" | "stall" | "heal"): Promise<void> {
    const proxies = this.linksBetween(one, other).flatMap(({ data, control }) => [data, control]);
    await Promise.all(proxies.map((proxy) => proxy?.[how]()));
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
  ports: { control: number; data: number };
  env: Record<string, string>;
  within?: readonly string[];
  startTimeoutMs?: number;
};

export class ClusterHost {
  readonly name: string;
  readonly hostId: string;
  readonly dataDir: string;
  readonly ports: { readonly control: number; readonly data: number };
  readonly #env: Record<string, string>;
  readonly #within: readonly string[];
  readonly #startTimeoutMs: number;
  #child: ChildProcess | undefined;

  constructor({
    name,
    hostId,
    dataDir,
    ports,
    env,
    within = [],
    startTimeoutMs = START_TIMEOUT_MS,
  }: HostParts) {
    this.name = name;
    this.hostId = hostId;
    this.dataDir = dataDir;
    this.ports = ports;
    this.#env = env;
    this.#within = within;
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
      const [command = "", ...args] = [
        ...[...this.#within, nodeExecutable(), EXECUTABLE],
        ...["up", "--data-dir", this.dataDir],
      ];
      this.#child = spawn(command, args, {
        stdio: ["ignore", log, log],
        // A group of its own: a terminal's Ctrl-C is for us, and a kill of the group takes both processes at once.
        detached: true,
        env: { ...environmentOf(dirname(this.dataDir)), ...this.#env, ...env },
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

// Building.

type Made = {
  name: string;
  hostId: string;
  dataDir: string;
  ports: { control: number; data: number };
  ip: string;
  within: readonly string[];
};

async function build(folder: string, options: ClusterOptions): Promise<Cluster> {
  const { names, links: linked, config = {}, env = {}, startTimeoutMs } = options;
  await writeFile(join(folder, MARKER), `${JSON.stringify({ names })}\n`);
  const pairs = names.flatMap((from) => names.filter((to) => to !== from).map((to) => ({ from, to })));
  const ports = await freePorts(2 * names.length + (linked === undefined ? 0 : 2 * pairs.length));
  const next = (): number => ports.pop()!;
  const made = await Promise.all(
    names.map((name) => {
      const ports = { control: next(), data: next() };
      return initHost(join(folder, name), { name, ports, ...(options.place?.(name) ?? LOOPBACK) });
    }),
  );
  const links: Link[] = [];
  for (const { from, to } of linked === undefined ? [] : pairs) {
    const target = made.find(({ name }) => name === to)!.ports;
    const data = new LinkProxy({ port: next(), targetPort: target.data });
    const control =
      linked === "all" ? new LinkProxy({ port: next(), targetPort: target.control }) : undefined;
    await Promise.all([data.start(), control?.start()]);
    links.push({ from, to, data, control });
  }
  const known = options.peers === "none" ? [] : made;
  for (const host of made) await configure(host, { made: known, links, config });
  const hosts = made.map(
    (host) => new ClusterHost({ ...host, env, ...(startTimeoutMs && { startTimeoutMs }) }),
  );
  return Cluster.of({ folder, hosts, links });
}

async function initHost(
  dataDir: string,
  { name, ports, ip, within }: Omit<Made, "hostId" | "dataDir">,
): Promise<Made> {
  const args = [
    ...["init", "--json", "--data-dir", dataDir, "--name", name],
    ...["--listen", `${ip}:${ports.control}`, "--data-listen", `${ip}:${ports.data}`],
  ];
  const { stdout } = await promisify(execFile)(nodeExecutable(), [EXECUTABLE, ...args], {
    env: environmentOf(dirname(dataDir)),
  });
  const { host } = JSON.parse(stdout) as { host: string };
  return { name, hostId: host, dataDir, ports, ip, within };
}

type Surroundings = { made: readonly Made[]; links: readonly Link[]; config: Record<string, unknown> };

/** Hosts know each other by their keys, so the list of peers can only be written when every key is there. */
async function configure(host: Made, { made, links, config }: Surroundings): Promise<void> {
  const peers = made
    .filter(({ name }) => name !== host.name)
    .map(({ name, hostId, ports, ip }) => {
      const link = links.find(({ from, to }) => from === host.name && to === name);
      const address = (port: number): string => `/ip4/${ip}/tcp/${port}/p2p/${hostId}`;
      return {
        name,
        control: address(link?.control?.port ?? ports.control),
        data: address(link?.data.port ?? ports.data),
      };
    });
  const file = configFile(host.dataDir);
  const initial = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
  const handle = await open(file, "w", 0o600);
  try {
    await handle.writeFile(`${JSON.stringify({ ...config, ...initial, peers, faults: true }, null, 2)}\n`);
  } finally {
    await handle.close();
  }
}

/** Nothing of ours, but a cache of compiled code: every daemon compiles the same sources. */
function environmentOf(folder: string): Record<string, string> {
  return { PATH: process.env.PATH ?? "", NODE_COMPILE_CACHE: join(folder, ".compile-cache") };
}

/** Ours where it is new enough, else the one that the package brings. */
function nodeExecutable(): string {
  if (Number.parseInt(process.versions.node, 10) >= NODE_MAJOR_MIN) return process.execPath;
  const require = createRequire(import.meta.url);
  return join(dirname(require.resolve("node/package.json")), "bin", "node");
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
