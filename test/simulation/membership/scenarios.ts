/** The scenarios of `npm run sim -- membership`. Each builds a cluster of its own, so that each replays alone. */

import type { MembershipConfig } from "../../../protocol/membership/config.ts";
import { LAN_NETWORK, type NetworkOptions, SimulatedCluster, type SimulatedHost } from "./cluster.ts";
import {
  type FalsePositives,
  meter,
  type Spread,
  spreadOf,
  type Traffic,
  watchForFalsePositives,
} from "./measures.ts";

export type ClusterOptions = {
  hosts: number;
  seed: number;
  config: MembershipConfig;
  network?: NetworkOptions;
};

const SECOND_MS = 1000;

function settled(options: ClusterOptions): SimulatedCluster {
  const cluster = new SimulatedCluster(options);
  cluster.startTogether();
  cluster.run(2 * SECOND_MS);
  return cluster;
}

export type RestResult = Traffic & { simulatedSeconds: number };

/** A cluster where nothing happens. */
export function rest(options: ClusterOptions, seconds: number): RestResult {
  const cluster = settled(options);
  const traffic = meter(cluster);
  cluster.run(seconds * SECOND_MS);
  return { ...traffic(), simulatedSeconds: seconds };
}

export type SpreadResult = Spread & { changes: number; informed: number; expected: number } & Traffic;

/** One host changes what it says of itself; when does each of the others know? Times in milliseconds. */
export function spread(options: ClusterOptions, changes: number): SpreadResult {
  const cluster = settled(options);
  const traffic = meter(cluster);
  const samples: number[] = [];
  for (let change = 0; change < changes; change++) {
    const subject = cluster.prng.pick(cluster.hosts);
    const startedAtMs = cluster.nowMs;
    let informed = 0;
    cluster.observe = (_, effect) => {
      if (effect.type !== "changed" || effect.host !== subject.id) return;
      informed += 1;
      samples.push(cluster.nowMs - startedAtMs);
    };
    cluster.announce(subject, change + 1);
    cluster.run(5 * SECOND_MS, () => informed === cluster.hosts.length - 1);
    cluster.observe = () => {};
    // What is still being told on costs, too.
    cluster.run(3 * SECOND_MS);
  }
  const expected = changes * (cluster.hosts.length - 1);
  return { ...spreadOf(samples), changes, informed: samples.length, expected, ...traffic() };
}

export type DeathResult = {
  deaths: number;
  firstSuspicionMs: Spread;
  firstDeclarationMs: Spread;
  deadEverywhereMs: Spread;
  /** Deaths that not every host knew of within the time. */
  unnoticed: number;
} & Traffic;

/** A host dies without a word. Times since the death. */
export function death(options: ClusterOptions, deaths: number): DeathResult {
  const cluster = settled(options);
  const traffic = meter(cluster);
  const firstSuspicions: number[] = [];
  const firstDeclarations: number[] = [];
  const everywhere: number[] = [];
  for (let i = 0; i < deaths; i++) {
    const victim = cluster.prng.pick(cluster.hosts.filter(({ up }) => up));
    const startedAtMs = cluster.nowMs;
    const others = cluster.hosts.filter(({ up }) => up).length - 1;
    let suspectedAfterMs: number | undefined;
    const declaredAfterMs: number[] = [];
    cluster.observe = (_, effect) => {
      if (effect.type !== "changed" || effect.host !== victim.id) return;
      if (effect.to === "suspect") suspectedAfterMs ??= cluster.nowMs - startedAtMs;
      if (effect.to === "dead") declaredAfterMs.push(cluster.nowMs - startedAtMs);
    };
    cluster.crash(victim);
    cluster.run(150 * SECOND_MS, () => declaredAfterMs.length === others);
    cluster.observe = () => {};
    if (suspectedAfterMs !== undefined) firstSuspicions.push(suspectedAfterMs);
    if (declaredAfterMs.length > 0) firstDeclarations.push(declaredAfterMs[0]!);
    if (declaredAfterMs.length === others) everywhere.push(declaredAfterMs.at(-1)!);
    cluster.run(cluster.prng.between(3000, 5000));
  }
  return {
    deaths,
    firstSuspicionMs: spreadOf(firstSuspicions),
    firstDeclarationMs: spreadOf(firstDeclarations),
    deadEverywhereMs: spreadOf(everywhere),
    unnoticed: deaths - everywhere.length,
    ...traffic(),
  };
}

export type FalsePositiveResult = FalsePositives & Traffic & { hostHours: number; simulatedSeconds: number };

/** Everybody lives, and the network loses messages. */
export function lossy(options: ClusterOptions, seconds: number): FalsePositiveResult {
  return falsePositives(settled(options), seconds);
}

export type Slowness = {
  /** Of the hosts, 0 to 1. */
  readonly share: number;
  /** A slow host handles no message for so long … */
  readonly stallMs: number;
  /** … and then all that waited, until it stalls again after this. */
  readonly gapMs: number;
};

/** Some hosts handle messages late, again and again (the Lifeguard paper's anomaly). */
export function slow(options: ClusterOptions, seconds: number, slowness: Slowness): FalsePositiveResult {
  const cluster = settled(options);
  const count = Math.round(slowness.share * cluster.hosts.length);
  const isSlow = ({ index }: SimulatedHost): boolean => index < count;
  for (const host of cluster.hosts.slice(0, count)) {
    const stall = (): void => {
      host.slowUntilMs = cluster.nowMs + slowness.stallMs;
      cluster.after(slowness.stallMs + slowness.gapMs, stall);
    };
    cluster.after(cluster.prng.between(0, slowness.stallMs + slowness.gapMs), stall);
  }
  return falsePositives(cluster, seconds, isSlow);
}

function falsePositives(
  cluster: SimulatedCluster,
  seconds: number,
  isSlow?: (host: SimulatedHost) => boolean,
): FalsePositiveResult {
  const traffic = meter(cluster);
  const counts = watchForFalsePositives(cluster, isSlow);
  cluster.run(seconds * SECOND_MS);
  const hostHours = (cluster.hosts.length * seconds) / 3600;
  return { ...counts, ...traffic(), hostHours, simulatedSeconds: seconds };
}

export const PARTITIONS = ["halves", "islands", "bridge", "one-way", "alone", "random-links"] as const;

export type PartitionShape = (typeof PARTITIONS)[number];

export type PartitionResult = {
  shape: PartitionShape;
  partitionSeconds: number;
  /** Hosts that knew exactly who lives when the partition ended. */
  agreeingBefore: number;
  /** Until every host knew every host alive; undefined when that took longer than ten minutes. */
  healedAfterMs: number | undefined;
};

/** Links are cut for a while, long enough for the other side to be dead and no longer gossiped to, and come back. */
export function partition(options: ClusterOptions, shape: PartitionShape, seconds: number): PartitionResult {
  const cluster = settled(options);
  cluster.passes = shapeOf(shape, cluster);
  cluster.run(seconds * SECOND_MS);
  const agreeingBefore = cluster.agreeing();
  cluster.passes = () => true;
  const healedAfterMs = untilAgreed(cluster, 600 * SECOND_MS);
  return { shape, partitionSeconds: seconds, agreeingBefore, healedAfterMs };
}

function shapeOf(shape: PartitionShape, { hosts, prng }: SimulatedCluster): SimulatedCluster["passes"] {
  const half = hosts.length / 2;
  const side = ({ index }: SimulatedHost): number => (index < half ? 0 : 1);
  switch (shape) {
    case "halves":
      return (from, to) => side(from) === side(to);
    case "islands":
      return (from, to) => from.index % 5 === to.index % 5;
    case "bridge":
      // Host 0 reaches both sides, and they reach it.
      return (from, to) => from.index === 0 || to.index === 0 || side(from) === side(to);
    case "one-way":
      return (from, to) => side(from) === side(to) || side(from) === 0;
    case "alone":
      return (from, to) => from.index !== 0 && to.index !== 0;
    case "random-links": {
      const salt = prng.u32();
      // Two of three directed links are cut, always the same ones.
      return (from, to) => (Math.imul(from.index * 7919 + to.index + salt, 0x9e3779b1) >>> 0) % 3 === 0;
    }
  }
}

/** Milliseconds until every host knows just who lives; asked ten times a second. */
export function untilAgreed(cluster: SimulatedCluster, limitMs: number): number | undefined {
  const startedAtMs = cluster.nowMs;
  while (cluster.nowMs - startedAtMs < limitMs) {
    if (cluster.agreeing() === cluster.hosts.filter(({ up }) => up).length)
      return cluster.nowMs - startedAtMs;
    cluster.run(100);
  }
  return undefined;
}

export type RestartResult = { diedBefore: boolean; backEverywhereMs: number | undefined };

/** A host crashes and comes back with what it had stored: at once, or after it was declared dead. */
export function restart(options: ClusterOptions, downSeconds: number): RestartResult {
  const cluster = settled(options);
  const [host, other] = [cluster.hosts[3]!, cluster.hosts[4]!];
  const stored = cluster.crash(host);
  cluster.run(downSeconds * SECOND_MS);
  const diedBefore = other.state.table.get(host.id)?.update.status === "dead";
  cluster.start(host, stored);
  cluster.step(host, { type: "join", seeds: [other.id] });
  const incarnation = host.state.own!.record.incarnation;
  const startedAtMs = cluster.nowMs;
  const isKnown = ({ state, index }: SimulatedHost): boolean => {
    const update = state.table.get(host.id)?.update;
    return index === host.index || (update?.status === "alive" && update.record.incarnation >= incarnation);
  };
  cluster.run(60 * SECOND_MS, () => cluster.hosts.every(isKnown));
  const isBack = cluster.hosts.every(isKnown);
  return { diedBefore, backEverywhereMs: isBack ? cluster.nowMs - startedAtMs : undefined };
}

export type LeaveResult = { leftEverywhereMs: number; left: number; others: number; deaths: number };

export function leave(options: ClusterOptions): LeaveResult {
  const cluster = settled(options);
  const host = cluster.hosts[3]!;
  const samples: number[] = [];
  let deaths = 0;
  const startedAtMs = cluster.nowMs;
  cluster.observe = (_, effect) => {
    if (effect.type === "left") cluster.crash(host);
    if (effect.type !== "changed" || effect.host !== host.id) return;
    if (effect.to === "left") samples.push(cluster.nowMs - startedAtMs);
    if (effect.to === "dead") deaths += 1;
  };
  cluster.step(host, { type: "leave" });
  cluster.run(30 * SECOND_MS);
  return {
    leftEverywhereMs: spreadOf(samples).max,
    left: samples.length,
    others: cluster.hosts.length - 1,
    deaths,
  };
}

export type JoinResult = { hosts: number; allKnowAllMs: number | undefined };

/** New hosts that know nobody but the first. */
export function joinAll(options: ClusterOptions): JoinResult {
  const cluster = new SimulatedCluster(options);
  const first = cluster.hosts[0]!;
  for (const host of cluster.hosts) cluster.start(host, []);
  for (const host of cluster.hosts) cluster.step(host, { type: "join", seeds: [first.id] });
  return { hosts: options.hosts, allKnowAllMs: untilAgreed(cluster, 120 * SECOND_MS) };
}

export { LAN_NETWORK };
