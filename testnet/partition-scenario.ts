/**
 * A cluster in network namespaces, partitioned while domains migrate on every side:
 * `npm run testnet -- partition --hosts 20 --seconds 120 [--shape halves|three-way|one-way]`. Afterwards all hosts must
 * give the same answer, and a witness must never have seen a domain run twice. Needs root.
 */

import { parseArgs } from "node:util";
import { Namespaces } from "./cluster/namespaces.ts";
import { Observers } from "./cluster/observers.ts";
import { type Partition, partitionOf, SHAPES, type Shape } from "./cluster/shapes.ts";
import { Witness } from "./cluster/witness.ts";
import { Cluster, type ClusterHost } from "./cluster.ts";
import { buildPackage } from "./executable.ts";
import { pause } from "./waiting.ts";

/** The dead are sought every 30 s; what they missed is compared as soon as they are found. */
const HEAL_TIMEOUT_MS = 180_000;
/** After a partition that a side did not survive in this time it is no partition. */
const SIDES_TIMEOUT_MS = 120_000;

type Options = { hosts: number; seconds: number; shape: Shape; json: boolean };

export async function runPartitionScenario(args: readonly string[]): Promise<void> {
  const options = optionsOf(args);
  const names = Array.from({ length: options.hosts }, (_, index) => `n${index + 1}`);
  const namespaces = new Namespaces(names);
  const say = (text: string): void => {
    if (!options.json) process.stdout.write(`${text}\n`);
  };
  let cluster: Cluster | undefined;
  try {
    say(`building, and starting ${names.length} hosts`);
    await buildPackage();
    namespaces.start();
    const place = namespaces.place.bind(namespaces);
    cluster = await Cluster.start({ names, build: "built", startTimeoutMs: 300_000, place });
    const report = await run(cluster, namespaces, { ...options, say });
    if (options.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    if (!report.ok) process.exitCode = 1;
  } finally {
    await cluster?.stop();
    namespaces.stop();
  }
}

type RunOptions = Options & { say: (text: string) => void };

async function run(cluster: Cluster, namespaces: Namespaces, { seconds, shape, say }: RunOptions) {
  const observers = new Observers(cluster.hosts);
  const witness = new Witness(cluster.hosts, cluster.folder);
  try {
    const names = cluster.hosts.map(({ name }) => name);
    const partition = partitionOf(names, shape);
    const groups = partition.groups.map((group) => group.map((name) => cluster.host(name)));
    await Promise.all(cluster.hosts.map((host) => observers.observe(host)));
    witness.start();
    await Promise.all(groups.map(([first], side) => first!.call("create", guest(`side-${side}`))));
    namespaces.cut(partition.cuts);
    say(`cut into ${groups.map(({ length }) => length).join("/")} for ${seconds} s: ${SHAPES[shape]}`);
    const endMs = performance.now() + seconds * 1000;
    const moving = Promise.all(groups.map((group, side) => wander(`side-${side}`, group, endMs)));
    const apartMs = shape === "one-way" ? undefined : await apart(observers, partition);
    if (apartMs !== undefined)
      say(`every side believes the others dead ${Math.round(apartMs)} ms after the cut`);
    const moves = await moving;
    say(`migrations while cut: ${moves.map((count, side) => `${count} on side ${side}`).join(", ")}`);
    namespaces.heal(partition.cuts);
    const healedMs = performance.now();
    const until = { sinceMs: healedMs, timeoutMs: HEAL_TIMEOUT_MS };
    const alive = (await observers.all(names, "alive", until)).at(-1) ?? 0;
    say(`all alive to all ${Math.round(alive)} ms after healing`);
    const same = await sameAnswer(cluster, { sinceMs: healedMs, domains: groups.length });
    say(`all give the same answer ${Math.round(same)} ms after healing`);
    const { resumes, offences, looks } = await witness.stop();
    for (const offence of offences) say(`FAIL  ${offence}`);
    say(
      `the witness saw ${resumes.length} resumes and looked ${looks} times: ${offences.length} domains run twice`,
    );
    const isWitnessed = resumes.length === moves.reduce((sum, count) => sum + count, 0);
    if (!isWitnessed) say("FAIL  there were other resumes than migrations");
    const ok =
      offences.length === 0 && isWitnessed && Number.isFinite(same) && moves.every((count) => count > 0);
    say(ok ? "ok" : "FAIL");
    return { ok, shape, moves, apartMs, allAliveMs: alive, sameAnswerMs: same, resumes, offences, looks };
  } finally {
    await witness.stop();
    await observers.stop();
  }
}

/** When every host believed all those of the other groups dead. */
async function apart(observers: Observers, { groups }: Partition): Promise<number> {
  const sinceMs = performance.now();
  const times = await Promise.all(
    groups.map((group) => {
      const others = groups.filter((other) => other !== group).flat();
      return observers.all(others, "dead", { sinceMs, timeoutMs: SIDES_TIMEOUT_MS, by: group });
    }),
  );
  return Math.max(...times.map((each) => each.at(-1) ?? 0));
}

function guest(name: string) {
  return {
    ...{ name, hypervisor: "wasm", memoryBytes: 4 << 20, config: "{}" },
    vbds: [{ name: "root", sizeBytes: 4 << 20 }],
  };
}

/** From host to host of one group, and back to the first. Returns how often. */
async function wander(domain: string, group: readonly ClusterHost[], endMs: number): Promise<number> {
  let [at, moves] = [0, 0];
  while (performance.now() < endMs) {
    const to = (at + 1) % group.length;
    await group[at]!.call("migrate", { domain, to: group[to]!.name });
    at = to;
    moves += 1;
  }
  return moves;
}

/** When all hosts said the same of all domains; infinite when they did not in time. */
async function sameAnswer(
  { hosts }: Cluster,
  { sinceMs, domains }: { sinceMs: number; domains: number },
): Promise<number> {
  while (performance.now() - sinceMs < HEAL_TIMEOUT_MS) {
    const answers = await Promise.all(hosts.map((host) => host.call("list", {})));
    const texts = answers.map((rows) =>
      rows
        .map(({ id, host, generation, state }) => `${id} ${host} ${generation} ${state}`)
        .sort()
        .join("\n"),
    );
    if (new Set(texts).size === 1 && answers[0]!.length === domains) return performance.now() - sinceMs;
    await pause(100);
  }
  return Number.POSITIVE_INFINITY;
}

function optionsOf(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      hosts: { type: "string", default: "20" },
      seconds: { type: "string", default: "120" },
      shape: { type: "string", default: "halves" },
      json: { type: "boolean", default: false },
    },
  });
  const [hosts, seconds] = [Number(values.hosts), Number(values.seconds)];
  if (!(hosts >= 4 && hosts <= 64 && seconds >= 1)) throw new Error("--hosts from 4 to 64, --seconds from 1");
  if (!Object.hasOwn(SHAPES, values.shape)) {
    throw new Error(`--shape must be one of ${Object.keys(SHAPES).join(", ")}`);
  }
  return { hosts, seconds, shape: values.shape as Shape, json: values.json };
}
