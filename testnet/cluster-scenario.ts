/**
 * A real cluster on loopback: `npm run testnet -- cluster --hosts 20`. Hosts join by invitation and rest; then one is
 * killed, one is stopped (SIGSTOP), and one is away while domains change. Prints what each took beside what it may
 * take; the times are the machine's, so a loaded one may be given more by `--slack`. The daemons are what users
 * install, built anew: the sources would carry the compiler that strips their types.
 */

import { parseArgs } from "node:util";
import { Observers } from "./cluster/observers.ts";
import { atRest, type Rest } from "./cluster/resources.ts";
import { Cluster, type ClusterHost } from "./cluster.ts";
import { buildPackage } from "./executable.ts";
import { median } from "./statistics.ts";
import { pause } from "./waiting.ts";

type Options = { hosts: number; slack: number; changes: number; rest: number; json: boolean };
type Check = { name: string; value: number; unit: string; limit: number; detail: string; ok: boolean };

const KNOW_ALL_MS = 5_000;
const DEAD_MS = 10_000;
const BACK_MS = 5_000;
const EXCHANGE_MS = 30_000;
const CPU_PERCENT_MAX = 1;
const RSS_MIB_MAX = 150;
/** Without news of any host or domain at any daemon. */
const QUIET_SECONDS = 30;
const QUIET_TIMEOUT_MS = 300_000;
/** Beyond its limit a check has failed, and is still waited for, to tell by how much. */
const PATIENCE = 6;

export async function runClusterScenario(args: readonly string[]): Promise<void> {
  const options = optionsOf(args);
  const names = Array.from({ length: options.hosts }, (_, index) => `h${String(index + 1).padStart(2, "0")}`);
  const say = (text: string): void => {
    if (!options.json) process.stdout.write(`${text}\n`);
  };
  say(`building, and starting ${names.length} hosts`);
  await buildPackage();
  const cluster = await Cluster.launch({ names, build: "built", startTimeoutMs: 300_000 });
  const scenario = new Scenario(cluster, options, say);
  try {
    await scenario.run();
  } finally {
    await scenario.stop();
    await cluster.stop();
  }
  if (options.json)
    process.stdout.write(
      `${JSON.stringify({ options: { ...options, quiet: QUIET_SECONDS }, checks: scenario.checks }, null, 2)}\n`,
    );
  if (scenario.checks.some(({ ok }) => !ok)) process.exitCode = 1;
}

class Scenario {
  readonly checks: Check[] = [];
  readonly #cluster: Cluster;
  readonly #options: Options;
  readonly #say: (text: string) => void;
  readonly #observers: Observers;

  constructor(cluster: Cluster, options: Options, say: (text: string) => void) {
    this.#cluster = cluster;
    this.#options = options;
    this.#say = say;
    this.#observers = new Observers(cluster.hosts);
  }

  async run(): Promise<void> {
    await this.#acquaint();
    await this.#rest();
    const [, killed, stopped, away] = this.#cluster.hosts as readonly [ClusterHost, ...ClusterHost[]];
    await this.#kill(killed!);
    await this.#freeze(stopped!);
    await this.#changesMissed(away!);
  }

  async stop(): Promise<void> {
    await this.#observers.stop();
  }

  /** From the moment at which the last daemon answered: before that there was somebody whom nobody could know. */
  async #acquaint(): Promise<void> {
    const sinceMs = performance.now();
    const { hosts } = this.#cluster;
    await Promise.all(hosts.map((host) => this.#observers.observe(host)));
    const names = hosts.map(({ name }) => name);
    await this.#measure("all know all after the last daemon is up", KNOW_ALL_MS, names, "alive", sinceMs);
  }

  /** Rest begins when nothing has changed for a while: what is left of the start is over then. */
  async #rest(): Promise<void> {
    this.#say(
      `waiting until nothing has changed for ${QUIET_SECONDS} s, then ${this.#options.rest} s of rest`,
    );
    await this.#observers.quiet(QUIET_SECONDS * 1000, QUIET_TIMEOUT_MS);
    const pids = this.#cluster.hosts.map((host) => host.pids());
    const costs = await atRest(pids.flat(), this.#options.rest);
    let next = 0;
    const daemons = pids.map((each) => each.map(() => costs[next++]!));
    const cpu = figures("CPU", daemons, "cpuPercent");
    this.#check(
      "CPU of a daemon at rest, the worst",
      worst(daemons, "cpuPercent"),
      "%",
      CPU_PERCENT_MAX,
      cpu,
    );
    // Pages that several processes map, such as the executable's, count whole in each one's RSS.
    const memory = `${figures("RSS", daemons, "rssMiB")}; ${figures("PSS", daemons, "pssMiB")}`;
    this.#check("RSS of a daemon at rest, the worst", worst(daemons, "rssMiB"), "MiB", RSS_MIB_MAX, memory);
  }

  async #kill(victim: ClusterHost): Promise<void> {
    await this.#observers.forget(victim);
    const sinceMs = performance.now();
    await victim.kill9();
    await this.#measure(`dead everywhere after SIGKILL`, DEAD_MS, [victim.name], "dead", sinceMs);
    await victim.start();
    const upMs = performance.now();
    await this.#observers.observe(victim);
    await this.#measure("alive everywhere after its restart", BACK_MS, [victim.name], "alive", upMs);
  }

  async #freeze(victim: ClusterHost): Promise<void> {
    await this.#observers.forget(victim);
    const pids = victim.pids();
    const sinceMs = performance.now();
    for (const pid of pids) process.kill(pid, "SIGSTOP");
    try {
      await this.#measure("dead everywhere after SIGSTOP", DEAD_MS, [victim.name], "dead", sinceMs);
    } finally {
      for (const pid of pids) process.kill(pid, "SIGCONT");
    }
    const onMs = performance.now();
    await this.#observers.observe(victim);
    // A host that was cut off is sought every 30 s by the others; it looks for them itself as soon as it runs.
    await this.#measure("alive everywhere after SIGCONT", BACK_MS, [victim.name], "alive", onMs);
  }

  async #changesMissed(away: ClusterHost): Promise<void> {
    const [owner] = this.#cluster.hosts as readonly [ClusterHost];
    const make = (name: string) =>
      owner.call("create", {
        ...{ name, hypervisor: "wasm", memoryBytes: 4 << 20, config: "{}" },
        vbds: [{ name: "root", sizeBytes: 1 << 20 }],
      });
    await make("kept");
    await make("destroyed");
    await this.#observers.forget(away);
    await away.stop();
    for (let change = 0; change < this.#options.changes; change++) {
      await owner.call(change % 2 === 0 ? "stop" : "start", { domain: "kept" });
    }
    await owner.call("destroy", { domain: "destroyed" });
    await make("new");
    const wanted = await this.#placements(owner);
    await away.start();
    const upMs = performance.now();
    const limitMs = EXCHANGE_MS * this.#options.slack;
    for (;;) {
      if ((await this.#placements(away)) === wanted) break;
      if (performance.now() - upMs > PATIENCE * limitMs) break;
      await pause(50);
    }
    const right = performance.now() - upMs;
    const detail = `${this.#options.changes} starts and stops, one domain destroyed, one new, while it was away`;
    this.#check("right about all domains after its return", right, "ms", EXCHANGE_MS, detail);
    const answers = await Promise.all(this.#cluster.hosts.map((host) => this.#placements(host)));
    const different = answers.filter((answer) => answer !== wanted).length;
    this.#check("hosts that answer differently", different, "", 0, `of ${answers.length}`);
  }

  async #placements(host: ClusterHost): Promise<string> {
    const rows = await host.call("list", {});
    const said = rows.map(({ id, host: at, generation, state }) => `${id} ${at} ${generation} ${state}`);
    return said.sort().join("\n");
  }

  async #measure(
    name: string,
    limitMs: number,
    observed: readonly string[],
    state: "alive" | "dead",
    sinceMs = performance.now(),
  ): Promise<void> {
    const timeoutMs = PATIENCE * limitMs * this.#options.slack;
    const times = await this.#observers.all(observed, state, { sinceMs, timeoutMs });
    const detail = `first ${Math.round(times[0] ?? 0)}, median ${Math.round(median(times))}, of ${times.length}`;
    this.#check(name, times.at(-1) ?? 0, "ms", limitMs, detail);
  }

  #check(name: string, value: number, unit: string, bare: number, detail: string): void {
    const limit = unit === "ms" ? bare * this.#options.slack : bare;
    const ok = value <= limit;
    this.checks.push({ name, value, unit, limit, detail, ok });
    const rounded = unit === "ms" || unit === "" ? Math.round(value) : value.toFixed(2);
    this.#say(`${ok ? "ok  " : "FAIL"}  ${name}: ${rounded} ${unit} (limit ${limit} ${unit}; ${detail})`);
  }
}

/** The processes of each daemon. */
type Daemons = readonly (readonly Rest[])[];

function worst(daemons: Daemons, of: keyof Rest): number {
  return Math.max(...sums(daemons, of));
}

function sums(daemons: Daemons, of: keyof Rest): number[] {
  return daemons.map((processes) => processes.reduce((sum, process) => sum + process[of], 0));
}

/** Medians and the worst of a daemon, and of each of its processes. */
function figures(what: string, daemons: Daemons, of: keyof Rest): string {
  const both = (name: string, values: readonly number[]): string =>
    `${name} ${median(values).toFixed(2)}, worst ${Math.max(...values).toFixed(2)}`;
  const each = ["control", "data"].map((name, index) =>
    both(
      name,
      daemons.map((processes) => processes[index]?.[of] ?? 0),
    ),
  );
  return [`${what}: ${both("median", sums(daemons, of))}`, ...each].join("; ");
}

function optionsOf(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      hosts: { type: "string", default: "20" },
      /** Times are allowed so many times longer: for a machine that does something else besides. */
      slack: { type: "string", default: "1" },
      changes: { type: "string", default: "40" },
      /** Seconds of rest that are measured. */
      rest: { type: "string", default: "60" },
      json: { type: "boolean", default: false },
    },
  });
  const number = (name: "hosts" | "slack" | "changes" | "rest", min: number): number => {
    const value = Number(values[name]);
    if (Number.isFinite(value) && value >= min) return value;
    throw new Error(`--${name} must be a number from ${min}`);
  };
  return {
    hosts: number("hosts", 4),
    slack: number("slack", 1),
    changes: number("changes", 0),
    rest: number("rest", 1),
    json: values.json,
  };
}
