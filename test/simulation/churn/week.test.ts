/** What `run.ts` shows with a heap, in counts: a week of churn leaves no more behind than a day of it. */

import { beforeAll, describe, expect, it } from "vitest";
import { WAN } from "../../../protocol/membership/config.ts";
import { ChurnedCluster, DAY_HOURS, type Kept } from "./week.ts";

const seed = Number(process.env.SEED ?? 1);
const HOSTS = 5;
const DOMAINS = 20;
const DAYS = 7;

describe(`a week of churn in a cluster of ${HOSTS} hosts, SEED=${seed}`, () => {
  let cluster: ChurnedCluster;
  const days: Kept[] = [];
  beforeAll(() => {
    // A WAN's timings: the same machines with a fifth of the probes.
    cluster = new ChurnedCluster({ hosts: HOSTS, domains: DOMAINS, days: DAYS, seed, config: WAN });
    for (let day = 0; day < DAYS; day++) {
      for (let hour = 0; hour < DAY_HOURS; hour++) cluster.hour();
      days.push(cluster.kept());
    }
  }, 240_000);

  it("has every kind of change in it, and ends with all hosts of one mind", () => {
    const { deaths, leaves, replacements, moves, made } = cluster.happened;
    expect(Math.min(deaths, leaves, replacements)).toBeGreaterThan(5);
    expect(moves).toBeGreaterThan(DOMAINS * DAYS * DAY_HOURS * 0.5);
    expect(made).toBeGreaterThan(DOMAINS + DAYS * DAY_HOURS);
    expect(cluster.agrees()).toBe(true);
  });

  it("keeps as many members as there are, and nobody who was replaced", () => {
    for (const { members, gone, tombstones } of days) {
      expect({ members, gone, tombstones }).toEqual({ members: HOSTS - 1, gone: 0, tombstones: 0 });
    }
  });

  it("keeps one placement record of each domain, and of the destroyed ones those of the last day", () => {
    for (const { placements, placedDomains } of days) {
      expect(placements).toBe(placedDomains);
      // Two are made and two destroyed in an hour; a record that is a day old goes with the next hour's sweep.
      expect(placements).toBeLessThanOrEqual(DOMAINS + 2 * (DAY_HOURS + 1));
    }
  });

  it("has nothing under way that the last hours began", () => {
    for (const { underWay } of days) expect(underWay).toBeLessThanOrEqual(HOSTS);
  });

  it("keeps of the member list what proves it: two statements for a host that was replaced, however often it came back", () => {
    const { replacements, deaths, leaves } = cluster.happened;
    const everMembers = HOSTS + replacements;
    // Each host's admission (the founder's is the genesis), its latest renewal, and its revocation.
    expect(days.at(-1)!.statements).toBeLessThanOrEqual(2 * everMembers + replacements);
    expect(deaths + leaves).toBeGreaterThan(HOSTS);
  });
});
