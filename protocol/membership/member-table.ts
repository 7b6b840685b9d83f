/**
 * Who is a member, as this host believes it, arranged so that each question is answered without a search:
 * whom to probe next, whom to gossip to, whose end was long ago. This host itself is not in it.
 *
 * `active` are the alive and the suspect, `gone` the dead and those that left. Tombstones keep the proof of an end
 * after the member was forgotten, so that old news do not bring it back.
 */

import type { Accusation, Digest, HostId, MemberStatus, Update } from "./messages.ts";

/** Uniform in [0, 1). */
export type Random = () => number;

export type Member = {
  readonly host: HostId;
  /** What is believed and why: the owner's newest record and the accusations that made its status. */
  update: Update;
  /** When this status began, by our clock. */
  sinceMs: number;
  suspicion: Suspicion | undefined;
  /** Round trip of the last direct probe that was answered. */
  rttMs: number | undefined;
  /** When it last was told, out of turn, what we believe of it or what it should believe of us. */
  toldAtMs: number;
  /** When it last got our whole state. */
  answeredAtMs: number;
  /** Place in `active`; -1 while gone. */
  place: number;
};

export type Suspicion = {
  readonly startedAtMs: number;
  readonly minMs: number;
  readonly maxMs: number;
  /** Confirmations that shrink the time to `minMs`. */
  readonly confirmationsMax: number;
  confirmations: number;
  endsAtMs: number;
  /** The suspect got its last call. */
  called: boolean;
};

export type Tombstone = { readonly update: Update; readonly untilMs: number; toldAtMs: number };

export class MemberTable {
  readonly #members = new Map<HostId, Member>();
  readonly #gone = new Map<HostId, Member>();
  readonly #tombstones = new Map<HostId, Tombstone>();
  readonly #active: Member[] = [];
  /** Died less than `gossipToTheDeadMs` ago, and some that did longer ago or live again. */
  #recentlyDead: Member[] = [];
  /** One round of probes in random order: every member is probed once before any is probed again. */
  #round: Member[] = [];
  #roundIndex = 0;
  #digest: [number, number] = [0, 0];

  get size(): number {
    return this.#members.size;
  }

  get active(): readonly Member[] {
    return this.#active;
  }

  /** The dead and those that left, the longest gone first. */
  get gone(): ReadonlyMap<HostId, Member> {
    return this.#gone;
  }

  get tombstones(): ReadonlyMap<HostId, Tombstone> {
    return this.#tombstones;
  }

  get digest(): Digest {
    return this.#digest;
  }

  get(host: HostId): Member | undefined {
    return this.#members.get(host);
  }

  members(): IterableIterator<Member> {
    return this.#members.values();
  }

  /** A member that was unknown. Its turn to be probed comes at a random place, so that no burst is probed late. */
  add(update: Update, { nowMs, random }: { nowMs: number; random: Random }): Member {
    const member: Member = {
      host: update.record.host,
      update,
      sinceMs: nowMs,
      suspicion: undefined,
      rttMs: undefined,
      toldAtMs: Number.NEGATIVE_INFINITY,
      answeredAtMs: Number.NEGATIVE_INFINITY,
      place: -1,
    };
    this.#members.set(member.host, member);
    this.#tombstones.delete(member.host);
    this.#arrange(member, random);
    this.#toggleInDigest(update);
    return member;
  }

  /** Replaces what is believed of a member. */
  set(member: Member, update: Update, { nowMs, random }: { nowMs: number; random: Random }): void {
    const before = member.update;
    this.#toggleInDigest(before);
    member.update = update;
    this.#toggleInDigest(update);
    if (update.status === before.status) return;
    member.sinceMs = nowMs;
    this.#arrange(member, random);
    if (update.status === "dead") this.#recentlyDead.push(member);
  }

  /** Forgets a member. With `tombstoneUntilMs` the proof of its end stays. */
  remove(member: Member, options: { tombstoneUntilMs?: number; tombstonesMax?: number } = {}): void {
    const { tombstoneUntilMs, tombstonesMax = 0 } = options;
    this.#members.delete(member.host);
    this.#gone.delete(member.host);
    this.#toggleInDigest(member.update);
    if (member.place >= 0) this.#deactivate(member);
    if (tombstoneUntilMs === undefined || tombstonesMax === 0) return;
    if (this.#tombstones.size >= tombstonesMax) {
      const [oldest] = this.#tombstones.keys();
      this.#tombstones.delete(oldest!);
    }
    const toldAtMs = Number.NEGATIVE_INFINITY;
    this.#tombstones.set(member.host, { update: member.update, untilMs: tombstoneUntilMs, toldAtMs });
  }

  removeTombstone(host: HostId): void {
    this.#tombstones.delete(host);
  }

  /** The next of the round that is still active; begins a new round, in a new order, when one is over. */
  nextToProbe(random: Random): Member | undefined {
    for (let rounds = 0; rounds < 2; rounds++) {
      while (this.#roundIndex < this.#round.length) {
        const member = this.#round[this.#roundIndex++]!;
        if (member.place >= 0 && this.#members.get(member.host) === member) return member;
      }
      this.#round = shuffled(this.#active, random);
      this.#roundIndex = 0;
    }
    return undefined;
  }

  /** Up to `count` different active members, at random, that `accepts` takes. */
  pick(count: number, random: Random, accepts: (member: Member) => boolean): Member[] {
    return pickFrom(this.#active.length, (index) => this.#active[index]!, { count, random, accepts });
  }

  /** Up to `count` members to gossip to: the active ones and those that died after `deadSinceMs`. */
  pickForGossip(count: number, random: Random, deadSinceMs: number): Member[] {
    const isRecent = (member: Member): boolean =>
      member.update.status === "dead" &&
      member.sinceMs >= deadSinceMs &&
      this.#members.get(member.host) === member;
    if (this.#recentlyDead.length > 0) this.#recentlyDead = [...new Set(this.#recentlyDead)].filter(isRecent);
    const dead = this.#recentlyDead;
    const active = this.#active;
    const at = (index: number): Member => active[index] ?? dead[index - active.length]!;
    return pickFrom(active.length + dead.length, at, { count, random, accepts: () => true });
  }

  #arrange(member: Member, random: Random): void {
    if (isGone(member.update.status)) {
      if (member.place >= 0) this.#deactivate(member);
      // Behind those that went before it.
      this.#gone.delete(member.host);
      this.#gone.set(member.host, member);
      return;
    }
    if (member.place >= 0) return;
    this.#gone.delete(member.host);
    member.place = this.#active.push(member) - 1;
    const index = Math.floor(random() * (this.#round.length + 1));
    const displaced = this.#round[index];
    this.#round[index] = member;
    if (displaced !== undefined) this.#round.push(displaced);
  }

  #deactivate(member: Member): void {
    const last = this.#active.pop()!;
    if (last !== member) {
      this.#active[member.place] = last;
      last.place = member.place;
    }
    member.place = -1;
  }

  /** Order does not matter to exclusive or, and what is toggled twice is not there. */
  #toggleInDigest(update: Update): void {
    if (isGone(update.status)) return;
    const [high, low] = digestOf(update);
    this.#digest = [(this.#digest[0] ^ high) >>> 0, (this.#digest[1] ^ low) >>> 0];
  }
}

/**
 * One record's share of a state's digest: the first octets of its signature are as good as random and depend on all
 * that was signed. Against accidents, not against enemies.
 */
export function digestOf({ record: { signature: s } }: Update): Digest {
  const high = (s[0]! << 24) | (s[1]! << 16) | (s[2]! << 8) | s[3]!;
  const low = (s[4]! << 24) | (s[5]! << 16) | (s[6]! << 8) | s[7]!;
  return [high >>> 0, low >>> 0];
}

function shuffled(members: readonly Member[], random: Random): Member[] {
  const all = members.slice();
  for (let i = all.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    const swapped = all[i]!;
    all[i] = all[j]!;
    all[j] = swapped;
  }
  return all;
}

type Pick = { count: number; random: Random; accepts: (member: Member) => boolean };

/** Draws without replacement: cheap while few are wanted of many, and exhaustive when few are acceptable. */
function pickFrom(size: number, at: (index: number) => Member, { count, random, accepts }: Pick): Member[] {
  const picked: Member[] = [];
  const swapped = new Map<number, number>();
  for (let i = 0; i < size && picked.length < count; i++) {
    const j = i + Math.floor(random() * (size - i));
    const member = at(swapped.get(j) ?? j);
    swapped.set(j, swapped.get(i) ?? i);
    if (accepts(member)) picked.push(member);
  }
  return picked;
}

/** The accusers of an update: who suspects, or who declared dead. */
export function accusersOf({ accusations }: Update): readonly HostId[] {
  return accusations.map(({ from }: Accusation) => from);
}

export function isGone(status: MemberStatus): boolean {
  return status === "dead" || status === "left";
}
