/** Worlds to begin with, and how much may go wrong in each. */

import * as destination from "../../protocol/destination.ts";
import { decide, isAbout } from "../../protocol/recovery.ts";
import * as source from "../../protocol/source.ts";
import { domainRecord } from "./domain.ts";
import type { Hop } from "./moves.ts";
import type { Daemon, Faults, Host, HostName, Parts, World } from "./state.ts";

export type Scenario = {
  name: string;
  hosts: 2 | 3;
  blocks: number;
  plan: readonly Hop[];
  faults: Faults;
  faultsMax: number;
  /** Whether the hosts keep the domain's chain of custody. */
  custody: boolean;
  /** Begins in the first world that is such, which `faults` lead to; undefined: at the very beginning. */
  after?: { faults: Partial<Faults>; holds: (world: World) => boolean };
};

export const realParts: Parts = { source, destination, decide, isAbout, daemon: {} };

export const NONE: Faults = {
  crashes: 0,
  powers: 0,
  losses: 0,
  cancels: 0,
  recovers: 0,
  adopts: 0,
  writes: 0,
  refusals: 0,
  forgeries: 0,
};

export function scenario(
  name: string,
  plan: readonly string[],
  {
    faultsMax,
    blocks = 1,
    custody = false,
    ...faults
  }: Partial<Faults> & { faultsMax: number; blocks?: number; custody?: boolean },
): Scenario {
  const hops = plan.map((hop): Hop => ({ from: hop[0] as HostName, to: hop[1] as HostName }));
  const hosts = hops.some(({ from, to }) => from === "C" || to === "C") ? 3 : 2;
  return { name, hosts, blocks, plan: hops, faults: { ...NONE, ...faults }, faultsMax, custody };
}

/** The handover is durable at A; B had promised to wait for it, and has lost the domain's memory with its power. */
export const lostWhilePrepared: NonNullable<Scenario["after"]> = {
  faults: { powers: 1 },
  holds: ({ hosts: { A, B } }) =>
    Object.values(A!.journal.entries).some(({ record }) => record.phase === "handed-over") &&
    B!.daemon === undefined &&
    B!.guest === undefined,
};

/** A was told that it may have the domain, and did not know that it had gone on to C under the same generation. */
export const twoOwners: NonNullable<Scenario["after"]> = {
  faults: { adopts: 1 },
  holds: ({ hosts }) => {
    const owned = Object.values(hosts).flatMap(({ name, journal: { domain } }) => {
      return domain?.owner === name ? [domain.generation] : [];
    });
    return owned.length > new Set(owned).size;
  },
};

const EVERYTHING = { crashes: 2, powers: 1, losses: 2, cancels: 1, recovers: 1, adopts: 1 };

/** The default run: `faultsMax` bounds the faults of one trace together, the rest each kind. */
export const scenarios: readonly Scenario[] = [
  scenario("trouble-free", ["AB"], { faultsMax: 0, blocks: 2, writes: 2 }),
  scenario("two of everything", ["AB"], { ...EVERYTHING, faultsMax: 2 }),
  {
    ...scenario("power lost while prepared", ["AB"], { ...EVERYTHING, recovers: 2, faultsMax: 2 }),
    after: lostWhilePrepared,
  },
  scenario("a guest that writes", ["AB"], { ...EVERYTHING, faultsMax: 1, writes: 2 }),
  scenario("there and back", ["AB", "BA"], { crashes: 1, powers: 1, losses: 1, faultsMax: 1 }),
  scenario("onwards", ["AB", "BC"], { ...EVERYTHING, faultsMax: 1 }),
  {
    ...scenario("two owners", ["AB", "BC"], { ...EVERYTHING, adopts: 2, faultsMax: 2 }),
    after: twoOwners,
  },
  scenario("a chain of custody", ["AB"], {
    ...{ crashes: 1, losses: 1, cancels: 1, recovers: 1, adopts: 1, forgeries: 1 },
    faultsMax: 1,
    custody: true,
  }),
  scenario("custody onwards", ["AB", "BC"], { forgeries: 1, faultsMax: 1, custody: true }),
  scenario("elsewhere", ["AB", "AC"], { faultsMax: 1, cancels: 1, crashes: 1, losses: 1 }),
];

export function worldOf({ hosts, blocks, faults, faultsMax, custody }: Scenario): World {
  const names = (["A", "B", "C"] as const).slice(0, hosts);
  const values = Array.from({ length: blocks }, () => 1);
  return {
    hosts: Object.fromEntries(
      names.map((name) => {
        const host = name === "A" ? owner(values) : empty(name);
        return [name, custody ? { ...host, journal: { ...host.journal, custody: [] } } : host];
      }),
    ),
    links: {},
    truth: { newest: values, memory: 1, writes: 1, ran: 1, wordWasFalse: false, adoptions: 0, given: [] },
    left: faults,
    faultsLeft: faultsMax,
    hops: 0,
  };
}

function empty(name: HostName): Host {
  const daemon: Daemon = { exported: undefined, rounds: undefined, machines: [], recoveries: [] };
  return {
    name,
    boots: 1,
    journal: { domain: undefined, replicas: [], entries: {}, log: [], custody: undefined },
    disk: undefined,
    tracker: { generation: 0, written: 0, isTrusted: true },
    presence: undefined,
    guest: undefined,
    daemon,
  };
}

function owner(values: readonly number[]): Host {
  const host = empty("A");
  host.journal = { ...host.journal, domain: domainRecord({ owner: "A", blockCount: values.length }) };
  host.disk = { now: values, durable: values, isAside: false };
  host.tracker = { generation: 1, written: (1 << values.length) - 1, isTrusted: true };
  host.guest = { state: "running", memory: 1 };
  host.daemon = { ...host.daemon!, exported: 1 };
  return host;
}
