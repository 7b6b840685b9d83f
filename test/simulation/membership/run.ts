/**
 * `npm run sim -- membership [--hosts N] [--seed N] [--only NAME,…] [--json]`: the membership machine at scale, in
 * virtual time, beside what is published of memberlist's LAN defaults (reference/libp2p.md §4.1). Exit code 1 when one
 * of the things that must hold does not.
 */

import { parseArgs } from "node:util";
import { LAN, withoutLifeguard } from "../../../protocol/membership/config.ts";
import { LAN_NETWORK, type NetworkOptions } from "./cluster.ts";
import { printReport, type Report, type Row } from "./report.ts";
import {
  type ClusterOptions,
  death,
  type FalsePositiveResult,
  joinAll,
  leave,
  lossy,
  PARTITIONS,
  partition,
  rest,
  restart,
  slow,
  spread,
} from "./scenarios.ts";

/** Partitions cost a suspicion of every pair: smaller clusters, whose figures do not differ in kind. */
const PARTITION_HOSTS_MAX = 100;

/** Slow hosts keep all others busy with refutations, the more the larger the cluster. */
const SLOW_HOSTS_MAX = 200;

/** Longer than the dead are gossiped to, so that healing has nothing but exchanges to begin with. */
const PARTITION_SECONDS = 60;

/** An exchange interval, the longest suspicion of 100 hosts, and a little. */
const HEALED_WITHIN_MS = 90_000;

const LOSS_SECONDS = 60;
const SLOW_SECONDS = 60;

/** As the Lifeguard paper's interval experiment: handling messages late, with short breaths. */
const SLOWNESS = { share: 0.05, stallMs: 16_384, gapMs: 1024 };

type Bench = { hosts: number; seed: number; row: (row: Row) => void };

const SECTIONS: Record<string, (bench: Bench) => void> = {
  rest: (bench) => {
    const { messagesPerHostSecond, bytesPerHostSecond } = rest(lan(bench), 60);
    bench.row({
      name: "at rest, per host and second",
      value: { messages: messagesPerHostSecond, bytes: bytesPerHostSecond },
      published: "1 probe/s out and about 1 in, and a whole state every 30 s x scale",
      simulated: "60 s",
      holds: messagesPerHostSecond < 4,
    });
  },
  spread: (bench) => {
    for (const loss of [0, 0.05]) {
      const { p50, p99, max, informed, expected } = spread(lan(bench, { loss }), 5);
      bench.row({
        name: `a change spreads, ${percent(loss)} loss`,
        value: {
          p50Ms: p50,
          p99Ms: p99,
          allMs: informed === expected ? max : Number.NaN,
          informed,
          expected,
        },
        published: `99 % after ${publishedSpread(bench.hosts)}, all by 1.7 s; 5 % loss changes nothing`,
        simulated: "5 changes",
        holds: p99 <= 1400 && informed >= 0.999 * expected,
      });
    }
  },
  death: (bench) => {
    const minMs = 4000 * Math.max(1, Math.log10(bench.hosts));
    for (const [label, config] of [
      ["", LAN],
      [" (no second looks)", { ...LAN, secondLooks: 0, lastCall: false }],
    ] as const) {
      const { firstSuspicionMs, firstDeclarationMs, deadEverywhereMs, unnoticed } = death(
        { ...lan(bench), config },
        5,
      );
      bench.row({
        name: `a dead host${label}`,
        value: {
          suspectedP50Ms: firstSuspicionMs.p50,
          declaredP50Ms: firstDeclarationMs.p50,
          everywhereP50Ms: deadEverywhereMs.p50,
          everywhereMaxMs: deadEverywhereMs.max,
          unnoticed,
        },
        published: `probed after 1 s (p50) to 5 s (p99), declared after about ${publishedDeath(bench.hosts)}`,
        simulated: "5 deaths",
        holds: unnoticed === 0 && deadEverywhereMs.p50 < minMs + 4000,
      });
    }
  },
  loss: (bench) => {
    for (const loss of [0.01, 0.05]) {
      for (const { label, config } of detectors()) {
        const result = lossy({ ...lan(bench, { loss }), config }, LOSS_SECONDS);
        bench.row({
          name: `${percent(loss)} of messages lost, ${label}`,
          value: falsePositives(result),
          published: "no figure; datagrams, with a TCP fallback that is not needed here",
          simulated: `${LOSS_SECONDS} s, ${result.hostHours.toFixed(1)} host-hours`,
          holds: label !== "Lifeguard" || result.declarations === 0,
        });
      }
    }
    const result = lossy(lan(bench, { loss: 0.05, model: "streams" }), LOSS_SECONDS);
    bench.row({
      name: "5 % lost and sent again by the stream, Lifeguard",
      value: falsePositives(result),
      published: "-",
      simulated: `${LOSS_SECONDS} s, ${result.hostHours.toFixed(1)} host-hours`,
      holds: result.declarations === 0,
    });
  },
  slow: (bench) => {
    const hosts = Math.min(bench.hosts, SLOW_HOSTS_MAX);
    const results = detectors().map(({ label, config }) => {
      const result = slow({ ...lan(bench), hosts, config }, SLOW_SECONDS, SLOWNESS);
      bench.row({
        name: `5 % of hosts slow, ${label}`,
        value: {
          ...falsePositives(result),
          healthyPerHostHour: result.viewsOfHealthyByHealthy / result.hostHours,
        },
        published: "Lifeguard: false positives down by over 50 times",
        simulated: `${hosts} hosts, ${SLOW_SECONDS} s, ${result.hostHours.toFixed(1)} host-hours`,
        holds: true,
      });
      return result.viewsOfHealthyByHealthy;
    });
    const [with_ = 0, without = 0] = results;
    bench.row({
      name: "healthy hosts wrongly dead to healthy hosts, without Lifeguard : with",
      value: { without, with: with_ },
      published: "over 50 : 1",
      simulated: `${SLOW_SECONDS} s`,
      holds: with_ * 50 <= without,
    });
  },
  partition: (bench) => {
    const hosts = Math.min(bench.hosts, PARTITION_HOSTS_MAX);
    for (const shape of PARTITIONS) {
      const { healedAfterMs, agreeingBefore } = partition({ ...lan(bench), hosts }, shape, PARTITION_SECONDS);
      bench.row({
        name: `partition healed: ${shape}`,
        value: { hosts, rightBefore: agreeingBefore, healedAfterMs: healedAfterMs ?? Number.NaN },
        published: "eventually; Serf dials the dead every 30 s",
        simulated: `${PARTITION_SECONDS} s apart`,
        holds: healedAfterMs !== undefined && healedAfterMs <= HEALED_WITHIN_MS,
      });
    }
  },
  churn: (bench) => {
    for (const downSeconds of [2, 40]) {
      const { diedBefore, backEverywhereMs } = restart(lan(bench), downSeconds);
      bench.row({
        name: `back after a crash of ${downSeconds} s (${diedBefore ? "was dead" : "nobody noticed"})`,
        value: { everywhereMs: backEverywhereMs ?? Number.NaN },
        published: "-",
        simulated: "1 host",
        holds: backEverywhereMs !== undefined && backEverywhereMs <= 5000,
      });
    }
    const { leftEverywhereMs, left, others, deaths } = leave(lan(bench));
    bench.row({
      name: "a host leaves",
      value: { everywhereMs: leftEverywhereMs, informed: left, expected: others, deaths },
      published: "-",
      simulated: "30 s",
      holds: left === others && deaths === 0,
    });
    const hosts = Math.min(20, bench.hosts);
    const { allKnowAllMs } = joinAll({ ...lan(bench), hosts });
    bench.row({
      name: `${hosts} hosts join by one seed`,
      value: { allKnowAllMs: allKnowAllMs ?? Number.NaN },
      published: "-",
      simulated: "all at once",
      holds: allKnowAllMs !== undefined && allKnowAllMs <= 5000,
    });
  },
};

/** Runs what `args` name and prints it; returns the exit code. */
export function runMembershipSimulation(args: readonly string[]): number {
  const { values } = parseArgs({
    args: [...args],
    options: {
      hosts: { type: "string", default: "1000" },
      seed: { type: "string", default: "1" },
      only: { type: "string" },
      json: { type: "boolean", default: false },
    },
  });
  const hosts = Number(values.hosts);
  const seed = Number(values.seed);
  if (!Number.isSafeInteger(hosts) || hosts < 8 || !Number.isSafeInteger(seed)) {
    console.error(
      "usage: npm run sim -- membership [--hosts N] [--seed N] [--only NAME,…] [--json]; N from 8",
    );
    return 2;
  }
  const wanted = values.only?.split(",") ?? Object.keys(SECTIONS);
  const unknown = wanted.filter((name) => !(name in SECTIONS));
  if (unknown.length > 0) {
    console.error(`unknown: ${unknown.join(", ")}; there are ${Object.keys(SECTIONS).join(", ")}`);
    return 2;
  }
  const report: Report = { hosts, seed, rows: [] };
  for (const name of wanted) {
    SECTIONS[name]?.({
      hosts,
      seed,
      row: (row) => {
        report.rows.push(row);
        if (!values.json) printReport({ ...report, rows: [row] }, { heading: report.rows.length === 1 });
      },
    });
  }
  if (values.json) console.log(JSON.stringify(report, null, 2));
  const broken = report.rows.filter(({ holds }) => !holds);
  for (const { name } of broken) console.error(`does not hold: ${name}`);
  if (broken.length > 0)
    console.error(`reproduce: npm run sim -- membership --hosts ${hosts} --seed ${seed}`);
  return broken.length > 0 ? 1 : 0;
}

function lan({ hosts, seed }: Bench, network: Partial<NetworkOptions> = {}): ClusterOptions {
  return { hosts, seed, config: LAN, network: { ...LAN_NETWORK, ...network } };
}

function detectors() {
  return [
    { label: "Lifeguard", config: LAN },
    { label: "plain SWIM", config: withoutLifeguard(LAN) },
  ];
}

function falsePositives({ declarations, views, hostHours, suspicions, ...traffic }: FalsePositiveResult) {
  return {
    suspicions,
    declaredPerHostHour: declarations / hostHours,
    viewsPerHostHour: views / hostHours,
    messages: traffic.messagesPerHostSecond,
    bytes: traffic.bytesPerHostSecond,
  };
}

function publishedSpread(hosts: number): string {
  if (hosts <= 10) return "0.6 s";
  if (hosts <= 50) return "1.0 s";
  return hosts <= 200 ? "1.2 s" : "1.4 s";
}

function publishedDeath(hosts: number): string {
  if (hosts <= 10) return "6 s";
  if (hosts <= 50) return "9 s";
  return hosts <= 200 ? "11 s" : "14 s";
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
