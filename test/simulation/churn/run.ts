/**
 * `npm run sim -- churn [--days 7] [--hosts 12] [--domains 60] [--json]`: a cluster through a week of churn, and at each
 * day's end the heap after a full collection, beside what the hosts keep. All hosts are in this one process, so the
 * heap is theirs together.
 */

import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { LAN } from "../../../protocol/membership/config.ts";
import { ChurnedCluster, DAY_HOURS, type Happened, type Kept } from "./week.ts";

type Row = { day: number; heapMiB: number; agrees: boolean } & Kept & Happened;

/** Beyond the first day's end, after which nothing new is kept: what the member list proves, and the heap's own ways. */
const GROWTH_MIB_MAX = 2;

/** Returns the exit code: 1 when the heap grew, or hosts disagree. */
export function runChurnSimulation(args: readonly string[]): number {
  const { values } = parseArgs({
    args: [...args],
    options: {
      days: { type: "string", default: "7" },
      hosts: { type: "string", default: "12" },
      domains: { type: "string", default: "60" },
      seed: { type: "string", default: "1" },
      json: { type: "boolean", default: false },
    },
  });
  const number = (name: "days" | "hosts" | "domains" | "seed"): number => Number(values[name]);
  const [days, hosts] = [number("days"), number("hosts")];
  if (!(days >= 1 && hosts >= 3)) throw new Error("--days from 1, --hosts from 3");
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const cluster = new ChurnedCluster({
    ...{ days, hosts, domains: number("domains"), seed: number("seed"), config: LAN },
  });
  const rows: Row[] = [];
  for (let day = 1; day <= days; day++) {
    for (let hour = 0; hour < DAY_HOURS; hour++) cluster.hour();
    collect();
    const heapMiB = process.memoryUsage().heapUsed / 2 ** 20;
    const row = { day, heapMiB, agrees: cluster.agrees(), ...cluster.kept(), ...cluster.happened };
    rows.push(row);
    if (!values.json) console.log(describe(row));
  }
  const growthMiB = rows.at(-1)!.heapMiB - rows[0]!.heapMiB;
  const ok = growthMiB <= GROWTH_MIB_MAX && rows.every(({ agrees }) => agrees);
  const limits = { growthMiBMax: GROWTH_MIB_MAX };
  if (values.json) console.log(JSON.stringify({ ok, growthMiB, limits, rows }, null, 2));
  else
    console.log(
      `${ok ? "ok  " : "FAIL"}  the heap of ${hosts} hosts grew by ${growthMiB.toFixed(2)} MiB after the first day (limit ${GROWTH_MIB_MAX} MiB)`,
    );
  return ok ? 0 : 1;
}

function describe({ day, heapMiB, agrees, ...row }: Row): string {
  const kept = `${row.members} members, ${row.gone} gone, ${row.tombstones} tombstones, ${row.underWay} under way, ${row.placements} records of ${row.placedDomains} domains, ${row.statements} statements`;
  const so = `${row.deaths} deaths, ${row.leaves} leaves, ${row.replacements} replacements, ${row.moves} moves, ${row.made} domains made`;
  return `day ${day}: heap ${heapMiB.toFixed(2)} MiB; kept: ${kept}; ${agrees ? "all agree" : "NOT all agree"} (${so})`;
}
