/** Worlds to begin with, and how much may go wrong in each. */

import * as destination from "../../protocol/destination.ts";
import { decide, isAbout } from "../../protocol/recovery.ts";
import * as source from "../../protocol/source.ts";
import { domainRecord } from "./domain.ts";
import type { Hop } from "./moves.ts";
import type { Daemon, Fault, Host, HostName, Parts, World } from "./state.ts";

export type Scenario = {
  name: string;
  hosts: 2 | 3;
  blocks: number;
  plan: readonly Hop[];
  /** What may go wrong, and how often in one trace, all kinds together. */
  faults: readonly Fault[];
  faultsMax: number;
  /** How often the guest may write. */
  writes: number;
  /** Whether the hosts keep the domain's chain of custody. */
  custody: boolean;
  /** Begins in the first world that is such, which `faults` lead to; undefined: at the very beginning. */
  after?: { faults: readonly Fault[]; holds: (world: World) => boolean };
};

export const realParts: Parts = { source, destination, decide, isAbout, daemon: {} };

type Bounds = Partial<Pick<Scenario, "faults" | "faultsMax" | "writes" | "blocks" | "custody">>;

/** `plan`: hops such as "AB". Without `faultsMax` one fault of those that there are. */
export function scenario(
  name: string,
  plan: readonly string[],
  { faults = [], faultsMax = Math.min(1, faults.length), writes = 0, blocks = 1, custody = false }: Bounds,
): Scenario {
  const hops = plan.map((hop): Hop => ({ from: hop[0] as HostName, to: hop[1] as HostName }));
  const hosts = hops.some(({ from, to }) => from === "C" || to === "C") ? 3 : 2;
  return { name, hosts, plan: hops, faults, faultsMax, writes, blocks, custody };
}

/** The handover is durable at A; B had promised to wait for it, and has lost the domain's memory with its power. */
export const lostWhilePrepared: NonNullable<Scenario["after"]> = {
  faults: ["powers"],
  holds: ({ hosts: { A, B } }) =>
    Object.values(A!.journal.entries).some(({ record }) => record.phase === "handed-over") &&
    B!.daemon === undefined &&
    B!.guest === undefined,
};

/** A was told that it may have the domain, and did not know that it had gone on to C under the same generation. */
export const twoOwners: NonNullable<Scenario["after"]> = {
  faults: ["adopts"],
  holds: ({ hosts }) => {
    const owned = Object.values(hosts).flatMap(({ name, journal: { domain } }) => {
      return domain?.owner === name ? [domain.generation] : [];
    });
    return owned.length > new Set(owned).size;
  },
};

/** The first hop is over, for both its ends. */
export const moved: NonNullable<Scenario["after"]> = {
  faults: [],
  holds: ({ hosts, links }) => {
    const machines = Object.values(hosts).flatMap(({ daemon }) => daemon?.machines ?? []);
    const isQuiet = ({ toDestination, toSource }: World["links"][string]): boolean =>
      toDestination.length + toSource.length === 0;
    return (
      machines.length > 0 &&
      machines.every(({ state, pending }) => state.phase === "completed" && pending.length === 0) &&
      Object.values(links).every(isQuiet)
    );
  },
};

const EVERYTHING: readonly Fault[] = ["crashes", "powers", "losses", "cancels", "recovers", "adopts"];

/** The default run. */
export const scenarios: readonly Scenario[] = [
  scenario("trouble-free", ["AB"], { blocks: 2, writes: 2 }),
  scenario("two of everything", ["AB"], { faults: EVERYTHING, faultsMax: 2 }),
  {
    ...scenario("power lost while prepared", ["AB"], { faults: EVERYTHING, faultsMax: 2 }),
    after: lostWhilePrepared,
  },
  scenario("a guest that writes", ["AB"], { faults: EVERYTHING, writes: 2 }),
  scenario("there and back", ["AB", "BA"], { faults: ["crashes", "powers", "losses"] }),
  scenario("onwards", ["AB", "BC"], { faults: EVERYTHING }),
  { ...scenario("onwards, once moved", ["AB", "BC"], { faults: EVERYTHING, faultsMax: 2 }), after: moved },
  { ...scenario("two owners", ["AB", "BC"], { faults: EVERYTHING, faultsMax: 2 }), after: twoOwners },
  scenario("a chain of custody", ["AB"], {
    faults: ["crashes", "losses", "cancels", "recovers", "adopts", "forgeries"],
    custody: true,
  }),
  scenario("custody onwards", ["AB", "BC"], { faults: ["adopts", "forgeries"], custody: true }),
  scenario("elsewhere", ["AB", "AC"], { faults: ["cancels", "crashes", "losses"] }),
];

export function worldOf({ hosts, blocks, faults, faultsMax, writes, custody }: Scenario): World {
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
    faults,
    faultsLeft: faultsMax,
    writesLeft: writes,
    hops: 0,
  };
}

function empty(name: HostName): Host {
  const daemon: Daemon = { exported: undefined, rounds: undefined, machines: [], recoveries: [] };
  return {
    name,
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
