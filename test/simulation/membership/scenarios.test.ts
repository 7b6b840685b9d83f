/** Small clusters of what `npm run sim -- membership` does with a thousand hosts; `SEED=n` runs another one. */

import { describe, expect, it } from "vitest";
import { LAN, WAN } from "../../../protocol/membership/config.ts";
import { Calendar } from "./calendar.ts";
import { LAN_NETWORK, SimulatedCluster } from "./cluster.ts";
import {
  death,
  joinAll,
  leave,
  lossy,
  PARTITIONS,
  partition,
  rest,
  restart,
  slow,
  spread,
  untilAgreed,
} from "./scenarios.ts";

const seed = Number(process.env.SEED ?? 1);
const lan = { hosts: 32, seed, config: LAN };

describe(`a simulated cluster of 32 hosts, seed ${seed}`, () => {
  it("sends one probe and one answer a second from each host at rest", () => {
    const { messagesPerHostSecond, bytesPerHostSecond } = rest(lan, 60);
    expect(messagesPerHostSecond).toBeGreaterThan(1.9);
    expect(messagesPerHostSecond).toBeLessThan(2.2);
    expect(bytesPerHostSecond).toBeLessThan(20);
  });

  it("hears of a change within a second, also when messages get lost", () => {
    for (const loss of [0, 0.05]) {
      const { max, informed, expected } = spread({ ...lan, network: { ...LAN_NETWORK, loss } }, 3);
      expect(informed).toBe(expected);
      expect(max).toBeLessThan(1500);
    }
  });

  it("knows everywhere of a death, not before the least suspicion and soon after it", () => {
    const { firstDeclarationMs, deadEverywhereMs, unnoticed } = death(lan, 3);
    expect(unnoticed).toBe(0);
    expect(firstDeclarationMs.p50).toBeGreaterThan(6000);
    expect(deadEverywhereMs.max).toBeLessThan(15_000);
  });

  it("finds its hosts over a WAN as well", () => {
    const network = { latencyMs: { min: 20, max: 150 }, loss: 0.01, model: "streams" as const };
    const { declarations } = lossy({ hosts: 16, seed, config: WAN, network }, 120);
    expect(declarations).toBe(0);
  });

  it("declares nobody dead for lost messages", () => {
    for (const model of ["datagrams", "streams"] as const) {
      const { declarations } = lossy({ ...lan, network: { ...LAN_NETWORK, loss: 0.05, model } }, 60);
      expect(declarations).toBe(0);
    }
  });

  it("declares no healthy host dead because of a slow one", () => {
    const { viewsOfHealthyByHealthy } = slow(lan, 60, { share: 0.06, stallMs: 16_384, gapMs: 1024 });
    expect(viewsOfHealthyByHealthy).toBe(0);
  });

  it.each(PARTITIONS)("heals by itself after a partition: %s", (shape) => {
    const { agreeingBefore, healedAfterMs } = partition(lan, shape, 60);
    expect(agreeingBefore).toBeLessThan(32);
    expect(healedAfterMs).toBeLessThan(90_000);
  });

  it("stays healed", () => {
    const cluster = new SimulatedCluster(lan);
    cluster.startTogether();
    cluster.passes = (from, to) => from.index % 2 === to.index % 2;
    cluster.run(60_000);
    cluster.passes = () => true;
    expect(untilAgreed(cluster, 90_000)).toBeDefined();
    cluster.run(120_000);
    expect(cluster.agreeing()).toBe(32);
  });

  it.each([2, 40])("has a host back within seconds that was down for %i s", (downSeconds) => {
    expect(restart(lan, downSeconds).backEverywhereMs).toBeLessThan(5000);
  });

  it("believes one that left neither dead nor alive", () => {
    expect(leave(lan)).toMatchObject({ left: 31, others: 31, deaths: 0 });
  });

  it("comes together by one seed", () => {
    expect(joinAll({ ...lan, hosts: 20 }).allKnowAllMs).toBeLessThan(5000);
  });

  it("does not grow with churn", () => {
    const config = { ...LAN, forgetAfterMs: 60_000, tombstoneMs: 120_000 };
    const cluster = new SimulatedCluster({ hosts: 24, seed, config });
    cluster.startTogether();
    for (let i = 0; i < 40; i++) {
      const host = cluster.hosts[cluster.prng.between(1, 23)]!;
      if (host.up) cluster.crash(host);
      else {
        cluster.start(host, []);
        cluster.step(host, { type: "join", seeds: [cluster.hosts[0]!.id] });
      }
      cluster.run(cluster.prng.between(1000, 30_000));
    }
    cluster.run(400_000);
    const { table, queue, relays, looks } = cluster.hosts[0]!.state;
    expect(table.size).toBe(cluster.hosts.filter(({ up }) => up).length - 1);
    expect([table.tombstones.size, queue.size, relays.size, looks.length]).toEqual([0, 0, 0, 0]);
    expect(cluster.agreeing()).toBe(table.size + 1);
  });
});

describe("the calendar", () => {
  it("runs events in time, and those of one time in order, however far", () => {
    const calendar = new Calendar<string>();
    const ran: [string, number][] = [];
    for (const [name, delayMs] of [
      ["far", 1_000_000],
      ["b", 5],
      ["c", 5],
      ["a", 1],
      ["edge", 262_144],
    ] as const) {
      calendar.after(delayMs, name);
    }
    calendar.run(2_000_000, (name) => ran.push([name, calendar.nowMs]));
    expect(ran).toEqual([
      ["a", 1],
      ["b", 5],
      ["c", 5],
      ["edge", 262_144],
      ["far", 1_000_000],
    ]);
    expect(calendar.pending).toBe(0);
  });
});
