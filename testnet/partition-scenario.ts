/**
 * A cluster in network namespaces, cut in two halves while domains migrate on both sides:
 * `npm run testnet -- partition --hosts 6 --seconds 30`. Afterwards all hosts must give the same answer, and a witness
 * must never have seen a domain run on two hosts, or resume twice under one generation. Needs root.
 */

import { parseArgs } from "node:util";
import { Namespaces } from "./cluster/namespaces.ts";
import { Observers } from "./cluster/observers.ts";
import { Witness } from "./cluster/witness.ts";
import { Cluster, type ClusterHost } from "./cluster.ts";

/** The dead are sought every 30 s; what they missed is compared as soon as they are found. */
const HEAL_TIMEOUT_MS = 180_000;

export async function runPartitionScenario(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      hosts: { type: "string", default: "6" },
      seconds: { type: "string", default: "30" },
      json: { type: "boolean", default: false },
    },
  });
  const [hosts, seconds] = [Number(values.hosts), Number(values.seconds)];
  if (!(hosts >= 4 && hosts <= 64 && seconds >= 1)) throw new Error("--hosts from 4 to 64, --seconds from 1");
  const names = Array.from({ length: hosts }, (_, index) => `n${index + 1}`);
  const namespaces = new Namespaces(names);
  const say = (text: string): void => {
    if (!values.json) process.stdout.write(`${text}\n`);
  };
  let cluster: Cluster | undefined;
  try {
    namespaces.start();
    const place = namespaces.place.bind(namespaces);
    cluster = await Cluster.start({ names, startTimeoutMs: 300_000, place });
    const report = await run(cluster, namespaces, { seconds, say });
    if (values.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    if (!report.ok) process.exitCode = 1;
  } finally {
    await cluster?.stop();
    namespaces.stop();
  }
}

type RunOptions = { seconds: number; say: (text: string) => void };

async function run(cluster: Cluster, namespaces: Namespaces, { seconds, say }: RunOptions) {
  const observers = new Observers(cluster.hosts);
  const witness = new Witness(cluster.hosts);
  try {
    const names = cluster.hosts.map(({ name }) => name);
    await Promise.all(cluster.hosts.map((host) => observers.observe(host)));
    const halves = [true, false].map((left) =>
      cluster.hosts.filter(({ name }) => namespaces.isLeft(name) === left),
    );
    await Promise.all(halves.map(([first], side) => first!.call("create", guest(`side-${side}`))));
    witness.start();
    namespaces.cut();
    say(`cut ${halves.map((half) => half.length).join("/")} for ${seconds} s`);
    const endMs = performance.now() + seconds * 1000;
    const moves = await Promise.all(halves.map((half, side) => wander(`side-${side}`, half, endMs)));
    say(`migrations while cut: ${moves.join(" on the left, ")} on the right`);
    namespaces.heal();
    const healedMs = performance.now();
    const until = { sinceMs: healedMs, timeoutMs: HEAL_TIMEOUT_MS };
    const alive = (await observers.all(names, "alive", until)).at(-1) ?? 0;
    say(`all alive to all ${Math.round(alive)} ms after healing`);
    const same = await sameAnswer(cluster, healedMs);
    say(`all give the same answer ${Math.round(same)} ms after healing`);
    const { resumes, offences, looks } = await witness.stop();
    for (const offence of offences) say(`FAIL  ${offence}`);
    say(
      `the witness saw ${resumes.length} resumes in ${looks} looks, and ${offences.length} domains run twice`,
    );
    const ok = offences.length === 0 && Number.isFinite(same) && moves.every((count) => count > 0);
    return { ok, moves, allAliveMs: alive, sameAnswerMs: same, resumes, offences, looks };
  } finally {
    await witness.stop();
    await observers.stop();
  }
}

function guest(name: string) {
  return {
    ...{ name, hypervisor: "wasm", memoryBytes: 4 << 20, config: "{}" },
    vbds: [{ name: "root", sizeBytes: 4 << 20 }],
  };
}

/** From host to host of one half, and back. Returns how often. */
async function wander(domain: string, half: readonly ClusterHost[], endMs: number): Promise<number> {
  let [at, moves] = [0, 0];
  while (performance.now() < endMs) {
    const to = (at + 1) % half.length;
    await half[at]!.call("migrate", { domain, to: half[to]!.name });
    at = to;
    moves += 1;
  }
  return moves;
}

/** When all hosts said the same of all domains; infinite when they did not in time. */
async function sameAnswer({ hosts }: Cluster, sinceMs: number): Promise<number> {
  while (performance.now() - sinceMs < HEAL_TIMEOUT_MS) {
    const answers = await Promise.all(hosts.map((host) => host.call("list", {})));
    const texts = answers.map((rows) =>
      rows
        .map(({ id, host, generation, state }) => `${id} ${host} ${generation} ${state}`)
        .sort()
        .join("\n"),
    );
    if (new Set(texts).size === 1 && answers[0]!.length === 2) return performance.now() - sinceMs;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return Number.POSITIVE_INFINITY;
}
