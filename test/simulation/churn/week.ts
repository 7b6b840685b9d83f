/**
 * A cluster through days of churn in virtual time, with what each host keeps of it: the real membership machines, the
 * real placement table of every host, and the real member list. Hosts crash and come back, leave and come back, are
 * revoked and replaced by new ones; domains are made, moved and destroyed. Nothing here is asserted: `kept()` says how
 * much of it all is still remembered.
 *
 * Signatures are of the right size and not computed, as in the membership simulation.
 */

import { createHash } from "node:crypto";
import { MemberList } from "../../../protocol/members/member-list.ts";
import {
  encodeBody,
  joinSigned,
  type Statement,
  type StatementCrypto,
} from "../../../protocol/members/statement.ts";
import type { MembershipConfig } from "../../../protocol/membership/config.ts";
import {
  joinPlacement,
  type Placement,
  type PlacementState,
  placementOctets,
  type SignedPlacement,
} from "../../../protocol/placement.ts";
import { PlacementTable } from "../../../protocol/placement-table.ts";
import { SimulatedCluster, type SimulatedHost } from "../membership/cluster.ts";
import type { Prng } from "../prng.ts";

export const HOUR_MS = 3_600_000;
export const DAY_HOURS = 24;

export type ChurnOptions = {
  /** At a time; over the days there are more, for each replaced one is new. */
  hosts: number;
  domains: number;
  days: number;
  seed: number;
  config: MembershipConfig;
};

/** Of one host, but the member list, which all share. */
export type Kept = {
  members: number;
  gone: number;
  tombstones: number;
  /** Updates that wait to be told, and what is under way. */
  underWay: number;
  placements: number;
  placedDomains: number;
  statements: number;
};

/** What happened so far. */
export type Happened = { deaths: number; leaves: number; replacements: number; moves: number; made: number };

type Domain = { id: string; at: SimulatedHost; generation: number };

/** Chances of each host in each hour, in thousandths: about once a day, once a day, and once in two days. */
const DIES = 42;
const LEAVES = 42;
const IS_REPLACED = 21;
/** In each hour. */
const MADE_AND_DESTROYED = 2;
const AWAY_MAX_MS = HOUR_MS / 2;

const CRYPTO: StatementCrypto = {
  hash: (bytes) => createHash("sha256").update(bytes).digest(),
  verify: () => true,
};

export class ChurnedCluster {
  readonly happened: Happened = { deaths: 0, leaves: 0, replacements: 0, moves: 0, made: 0 };
  readonly list: MemberList;
  readonly #cluster: SimulatedCluster;
  readonly #prng: Prng;
  readonly #tables = new Map<SimulatedHost, PlacementTable>();
  readonly #domains = new Map<string, Domain>();
  readonly #renewals = new Map<SimulatedHost, number>();
  /** Members now; the rest of the cluster's hosts are revoked, or yet to come. */
  #members: SimulatedHost[];
  #unused: SimulatedHost[];
  #seq = 0;

  constructor({ hosts, domains, days, seed, config }: ChurnOptions) {
    // As many as could possibly be needed: one for each host and hour in which one may be replaced.
    const all = hosts + Math.ceil(hosts * days * DAY_HOURS * (2 * IS_REPLACED) * 1e-3) + hosts;
    this.#cluster = new SimulatedCluster({ hosts: all, seed, config });
    this.#prng = this.#cluster.prng;
    this.#members = this.#cluster.hosts.slice(0, hosts);
    this.#unused = this.#cluster.hosts.slice(hosts);
    const [founder] = this.#members as [SimulatedHost];
    this.list = new MemberList(
      signed({ kind: "genesis", by: founder.id, nonce: "0".repeat(32), ...described(founder, 0) }),
      CRYPTO,
    );
    for (const host of this.#members) {
      if (host !== founder) this.#admit(host, founder);
      this.#tables.set(host, this.#table());
      this.#cluster.start(host, []);
      this.#join(host);
    }
    this.#cluster.run(60_000);
    for (let count = 0; count < domains; count++) this.#make();
  }

  get nowMs(): number {
    return this.#cluster.nowMs;
  }

  /** An hour of it, and at its end a moment in which all who are away come back. */
  hour(): void {
    const happenings = this.#plan();
    const startMs = this.nowMs;
    for (const { atMs, act } of happenings.sort((a, b) => a.atMs - b.atMs)) {
      this.#cluster.run(startMs + atMs - this.nowMs);
      act();
    }
    this.#cluster.run(startMs + HOUR_MS - this.nowMs);
    for (const table of this.#tables.values()) table.sweep(this.nowMs);
  }

  /** Of the host that keeps the most. */
  kept(): Kept {
    const all = this.#members.map((host) => this.#keptBy(host));
    const most = (of: keyof Kept): number => Math.max(...all.map((kept) => kept[of]));
    return {
      members: most("members"),
      gone: most("gone"),
      tombstones: most("tombstones"),
      underWay: most("underWay"),
      placements: most("placements"),
      placedDomains: most("placedDomains"),
      statements: this.list.ids().length,
    };
  }

  /** Whether every host has the same answers about members and domains. */
  agrees(): boolean {
    const answers = new Set(
      this.#members.map((host) =>
        [...this.#tables.get(host)!.all()]
          .map(
            ({ placement: { domain, host: at, generation, state } }) =>
              `${domain} ${at} ${generation} ${state}`,
          )
          .sort()
          .join("\n"),
      ),
    );
    return answers.size === 1 && this.#cluster.agreeing() === this.#members.length;
  }

  #keptBy(host: SimulatedHost): Kept {
    const { table, queue, relays, looks } = host.state;
    const placements = this.#tables.get(host)!;
    return {
      members: table.size,
      gone: table.gone.size,
      tombstones: table.tombstones.size,
      underWay: queue.size + relays.size + looks.length,
      placements: [...placements.all()].length,
      placedDomains: placements.size,
      statements: 0,
    };
  }

  #plan(): { atMs: number; act: () => void }[] {
    const prng = this.#prng;
    const plan: { atMs: number; act: () => void }[] = [];
    // Nobody is still away when the hour is over.
    const atMs = (): number => prng.between(0, HOUR_MS - AWAY_MAX_MS - 120_000);
    const [, ...others] = this.#members;
    for (const host of others) {
      if (prng.perMille(DIES)) plan.push({ atMs: atMs(), act: () => this.#away(host, "deaths") });
      else if (prng.perMille(LEAVES)) plan.push({ atMs: atMs(), act: () => this.#away(host, "leaves") });
      else if (prng.perMille(IS_REPLACED)) plan.push({ atMs: atMs(), act: () => this.#replace(host) });
    }
    for (const domain of [...this.#domains.values()]) {
      plan.push({ atMs: atMs(), act: () => this.#move(domain) });
    }
    for (let count = 0; count < MADE_AND_DESTROYED; count++) {
      plan.push({ atMs: atMs(), act: () => this.#make() });
      plan.push({ atMs: atMs(), act: () => this.#destroy() });
    }
    return plan;
  }

  #away(host: SimulatedHost, how: "deaths" | "leaves"): void {
    if (!host.up) return;
    this.happened[how] += 1;
    if (how === "leaves") this.#cluster.step(host, { type: "leave" });
    // The farewell is told for a moment.
    this.#cluster.after(how === "leaves" ? 5_000 : 0, () => {
      const stored = this.#cluster.crash(host);
      this.#cluster.after(this.#prng.between(10_000, AWAY_MAX_MS), () => {
        if (!this.#members.includes(host)) return;
        this.#cluster.start(host, stored);
        this.#join(host);
        this.#renew(host);
        this.#catchUp(host);
      });
    });
  }

  /** Its machine is gone for good: it is revoked, and another one is admitted with a key of its own. */
  #replace(host: SimulatedHost): void {
    const next = this.#unused.shift();
    if (next === undefined || !host.up) return;
    this.happened.replacements += 1;
    this.#cluster.crash(host);
    this.#members = this.#members.map((each) => (each === host ? next : each));
    const [operator] = this.#members as [SimulatedHost];
    const { cluster } = this.list;
    const keeps = this.list.admittedBy(host.id);
    this.list.add([
      signed({ kind: "revoke", cluster, by: operator.id, host: host.id, reason: "replaced", keeps }),
    ]);
    this.#admit(next, operator);
    for (const each of this.#members) {
      if (each.up) this.#cluster.step(each, { type: "remove", host: host.id });
    }
    this.#tables.delete(host);
    for (const table of this.#tables.values()) table.forget(host.id);
    this.#tables.set(next, this.#table());
    this.#cluster.start(next, []);
    this.#join(next);
    this.#catchUp(next);
    // What lived there is brought back elsewhere, as an operator does with `recover --adopt`.
    for (const domain of this.#domains.values()) if (domain.at === host) this.#place(domain, operator);
  }

  #move(domain: Domain): void {
    if (!this.#domains.has(domain.id) || !domain.at.up) return;
    const to = this.#prng.pick(this.#members.filter((host) => host.up && host !== domain.at));
    this.happened.moves += 1;
    this.#place(domain, to);
  }

  #make(): void {
    const id = `domain-${this.happened.made++}`;
    const domain = { id, at: this.#members[0]!, generation: 0 };
    this.#domains.set(id, domain);
    this.#place(domain, this.#prng.pick(this.#members.filter(({ up }) => up)));
  }

  #destroy(): void {
    const domain = this.#prng.pick([...this.#domains.values()].filter(({ at }) => at.up));
    this.#domains.delete(domain.id);
    this.#say(domain, "gone");
  }

  #place(domain: Domain, at: SimulatedHost): void {
    domain.at = at;
    domain.generation += 1;
    this.#say(domain, "running");
  }

  #say(domain: Domain, state: PlacementState): void {
    const record = this.#record(domain, state);
    for (const host of this.#members) if (host.up) this.#offer(host, record, domain.at);
  }

  #record({ id, at, generation }: Domain, state: PlacementState): SignedPlacement {
    const placement: Placement = {
      domain: id,
      name: id,
      host: at.id,
      hostName: `host-${at.index}`,
      generation,
      state,
      memoryBytes: 1 << 30,
      vbds: state === "gone" ? [] : [{ name: "root", sizeBytes: 1 << 30 }],
      replicas: [],
      seq: ++this.#seq,
      timeMs: Math.floor(this.nowMs),
    };
    return joinPlacement(placement, { octets: placementOctets(placement), signature: signature(this.#seq) });
  }

  #offer(host: SimulatedHost, { octets }: SignedPlacement, from: SimulatedHost): void {
    const verdict = this.#tables.get(host)!.offer(octets, { from: from.id, nowMs: this.nowMs });
    if (verdict.kind === "refused") throw new Error(`a true record was refused: ${verdict.offence.reason}`);
  }

  /** Anti-entropy with one other host. */
  #catchUp(host: SimulatedHost): void {
    const other = this.#prng.pick(this.#members.filter((each) => each.up && each !== host));
    const [mine, theirs] = [this.#tables.get(host)!, this.#tables.get(other)!];
    for (const record of theirs.lackedBy(mine.digest())) this.#offer(host, record, other);
    // What it still believes of hosts that were revoked while it was away.
    for (const id of mine.digest().map((each) => each.host)) {
      if (!this.list.members().has(id)) mine.forget(id);
    }
    for (const id of host.state.table.members()) {
      if (!this.list.members().has(id.host)) this.#cluster.step(host, { type: "remove", host: id.host });
    }
  }

  #table(): PlacementTable {
    return new PlacementTable({ isMember: (id) => this.list.members().has(id), verify: () => true });
  }

  #join(host: SimulatedHost): void {
    const seeds = this.#members.filter((each) => each.up && each !== host).map(({ id }) => id);
    host.context.verify = (id) => this.list.members().has(id);
    this.#cluster.step(host, { type: "join", seeds });
  }

  #admit(host: SimulatedHost, by: SimulatedHost): void {
    const { cluster } = this.list;
    const nonce = host.index.toString(16).padStart(32, "0");
    this.list.add([
      signed({ kind: "admit", cluster, by: by.id, host: host.id, nonce, ...described(host, 0) }),
    ]);
  }

  /** It came back at another address. */
  #renew(host: SimulatedHost): void {
    const sequence = (this.#renewals.get(host) ?? 0) + 1;
    this.#renewals.set(host, sequence);
    const { cluster } = this.list;
    this.list.add([signed({ kind: "renew", cluster, by: host.id, sequence, ...described(host, sequence) })]);
  }
}

function described({ index }: SimulatedHost, sequence: number) {
  const control = [`/ip4/10.0.${index >>> 8}.${index & 255}/tcp/${4700 + sequence}`];
  return { name: `host-${index}`, addresses: { control, data: [] } };
}

function signed(statement: Statement): Uint8Array {
  return joinSigned(encodeBody(statement), signature(1), CRYPTO).bytes;
}

/** Of its size, and never the same twice: digests are made of signatures. */
function signature(count: number): Uint8Array {
  return createHash("sha512").update(String(count)).digest();
}
