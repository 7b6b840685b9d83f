/**
 * Which placement records count: a cluster's, as one host has heard them.
 *
 *   of one host and domain    the highest generation, and within it the highest seq
 *   of one domain             the highest generation. Two hosts under one generation, or a host that disputes the
 *                             newest claim, stay side by side: a conflict is shown and never settled here
 *
 * The outcome depends on what was heard and not on the order, so hosts that heard the same agree. A record counts
 * only if the member that it is about signed it; who brings or says what no honest host does is named. Memory is
 * bounded by host, and hosts are by the member list: a member can fill its own share and nobody else's.
 */

import { ProtocolError } from "./errors.ts";
import type { HostId } from "./messages.ts";
import {
  contradiction,
  decodePlacement,
  type Placement,
  type SignedPlacement,
  signedPart,
} from "./placement.ts";

/** Domains of one host, those that are gone included. */
export const DOMAINS_PER_HOST_MAX = 1024;
export const OCTETS_PER_HOST_MAX = 1 << 20;
/** Hosts that claim one domain under one generation: two are a conflict, and more say nothing more. */
export const CLAIMANTS_MAX = 4;
/**
 * Above the highest generation that this host knows of the domain, 0 for one that it does not know: a domain that
 * is handed over every minute gets so far in two years. More is somebody who wants never to be outdone.
 */
export const GENERATION_JUMP_MAX = 1_000_000;
/** A clock may be wrong by this much. */
export const FUTURE_MAX_MS = 10 * 60_000;
/** Records of what is gone are told on for so long; a host that was away longer may bring the domain back for a while. */
export const GONE_KEPT_MS = 24 * 60 * 60_000;

/** A dispute counts for so long and is said anew while it lasts: who stops saying it has given in. */
export const DISPUTE_KEPT_MS = 30 * 60_000;

export type PlacementRules = {
  isMember(host: HostId): boolean;
  /** Whether `host` signed `octets`. */
  verify(host: HostId, octets: Uint8Array, signature: Uint8Array): boolean;
};

export type OffenceKind =
  | "malformed"
  | "forged"
  | "stranger"
  /** Within one record. */
  | "contradiction"
  /** Two records of one rank: only who has both can know. */
  | "two-words"
  | "future-dated"
  | "generation-jump"
  | "replay"
  | "flood";

/** Seen in the record alone, so that nobody who checks before telling on has told it on: who brings it is to blame, too. */
export const PROVABLE: ReadonlySet<OffenceKind> = new Set(["malformed", "forged", "contradiction", "replay"]);

/** `by`: who did what no honest host does. For what nobody signed that is who brought it. */
export type PlacementOffence = { readonly by: HostId; readonly kind: OffenceKind; readonly reason: string };

export type Verdict =
  /** It counts: to be kept and told on. `dropped` is what it outdoes. */
  | {
      readonly kind: "news";
      readonly signed: SignedPlacement;
      readonly dropped: readonly Placement[];
      readonly offence?: PlacementOffence;
    }
  /** Known, or outdone by what is known. */
  | { readonly kind: "old" }
  | { readonly kind: "refused"; readonly offence: PlacementOffence };

/** What a host holds of one other's words: equal for two hosts that hold the same. */
export type HostDigest = {
  readonly host: HostId;
  readonly seq: number;
  /** Two halves of 32 bits, over all of them. */
  readonly hash: readonly [number, number];
};

type Share = { readonly claims: Map<string, SignedPlacement>; octets: number };

export class PlacementTable {
  readonly #rules: PlacementRules;
  readonly #domains = new Map<string, Map<HostId, SignedPlacement>>();
  readonly #hosts = new Map<HostId, Share>();

  constructor(rules: PlacementRules) {
    this.#rules = rules;
  }

  /** All that is kept. */
  *all(): Generator<SignedPlacement> {
    for (const claims of this.#domains.values()) yield* claims.values();
  }

  get size(): number {
    return this.#domains.size;
  }

  /** The claims of a domain, the one that counts first. More than one is a conflict. */
  claims(domain: string): readonly Placement[] {
    const claims = [...(this.#domains.get(domain)?.values() ?? [])].map(({ placement }) => placement);
    return claims.sort((a, b) => b.generation - a.generation || (a.host < b.host ? -1 : 1));
  }

  domains(): IterableIterator<string> {
    return this.#domains.keys();
  }

  claimOf(domain: string, host: HostId): Placement | undefined {
    return this.#domains.get(domain)?.get(host)?.placement;
  }

  /** Judges what `from` brought. Changes nothing but for `news`. */
  offer(bytes: Uint8Array, { from, nowMs }: { from: HostId; nowMs: number }): Verdict {
    let signed: SignedPlacement;
    try {
      signed = decodePlacement(bytes);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      return refused(from, "malformed", error.message);
    }
    const { placement } = signed;
    const { domain, host } = placement;
    const known = this.#domains.get(domain)?.get(host);
    if (known !== undefined && sameOctets(known.octets, signed.octets)) return { kind: "old" };
    if (this.#isOutdone(placement, known?.placement, nowMs)) return { kind: "old" };
    // Only from here on it costs a signature check, and only after that its host is to blame.
    if (!this.#rules.isMember(host))
      return refused(from, "stranger", `it brings the word of ${host}, no member`);
    const { octets, signature } = signedPart(signed);
    if (!this.#rules.verify(host, octets, signature)) {
      return refused(from, "forged", `what it brings in the name of ${host} is not signed by that host`);
    }
    const offence = this.#offenceOf(signed, { known, nowMs });
    if (offence !== undefined) return { kind: "refused", offence };
    const isTwoWords = known !== undefined && sameRank(known.placement, placement);
    if (isTwoWords && compareOctets(known.octets, signed.octets) >= 0) return twoWords(host, signed);
    this.#put(signed);
    const dropped = this.#prune(domain, nowMs);
    const news = { kind: "news", signed, dropped } as const;
    return isTwoWords ? { ...news, offence: twoWords(host, signed).offence } : news;
  }

  /** The host is no member any more: nothing of it is kept. Returns the domains that it spoke of. */
  forget(host: HostId): readonly string[] {
    const domains = [...(this.#hosts.get(host)?.claims.keys() ?? [])];
    for (const domain of domains) this.#remove(domain, host);
    return domains;
  }

  /** Drops what has been gone for long enough, and disputes that nobody renewed; returns what was dropped. */
  sweep(nowMs: number): readonly Placement[] {
    const old = [...this.all()].filter(
      ({ placement }) => placement.state === "gone" && nowMs - placement.timeMs > GONE_KEPT_MS,
    );
    for (const { placement } of old) this.#remove(placement.domain, placement.host);
    const settled = [...this.#domains.keys()].flatMap((domain) => this.#prune(domain, nowMs));
    return [...old.map(({ placement }) => placement), ...settled];
  }

  digest(): HostDigest[] {
    return [...this.#hosts].map(([host, { claims }]) => {
      let [seq, high, low] = [0, 0, 0];
      for (const { placement, octets } of claims.values()) {
        seq = Math.max(seq, placement.seq);
        // The end of a record is its signature: as good as random, and different when anything is.
        high ^= word(octets, octets.length - 8);
        low ^= word(octets, octets.length - 4);
      }
      return { host, seq, hash: [high >>> 0, low >>> 0] as const };
    });
  }

  /**
   * What a host with that digest may lack. Of a host whose words it has up to an earlier seq only the later ones:
   * should it lack others besides, the next digests differ in their hash alone, and then all are sent.
   */
  lackedBy(theirs: readonly HostDigest[]): SignedPlacement[] {
    const known = new Map(theirs.map((entry) => [entry.host, entry]));
    return this.digest().flatMap((ours) => {
      const their = known.get(ours.host);
      const claims = [...(this.#hosts.get(ours.host)?.claims.values() ?? [])];
      if (their === undefined) return claims;
      if (their.seq === ours.seq && their.hash[0] === ours.hash[0] && their.hash[1] === ours.hash[1])
        return [];
      if (their.seq >= ours.seq) return claims;
      return claims.filter(({ placement }) => placement.seq > their.seq);
    });
  }

  #offenceOf(
    { placement, octets }: SignedPlacement,
    { known, nowMs }: { known: SignedPlacement | undefined; nowMs: number },
  ): PlacementOffence | undefined {
    const { domain, host, generation, seq, timeMs } = placement;
    const wrong = contradiction(placement);
    if (wrong !== undefined) return { by: host, kind: "contradiction", reason: wrong };
    const latestMs = nowMs + FUTURE_MAX_MS;
    if (timeMs > latestMs || seq > latestMs) {
      return {
        by: host,
        kind: "future-dated",
        reason: `its word is of ${Math.max(timeMs, seq)}, now is ${nowMs}`,
      };
    }
    const highest = Math.max(0, ...this.claims(domain).map((claim) => claim.generation));
    if (generation > highest + GENERATION_JUMP_MAX) {
      return { by: host, kind: "generation-jump", reason: `from generation ${highest} to ${generation}` };
    }
    const share = this.#hosts.get(host);
    const after = (share?.octets ?? 0) + octets.length - (known?.octets.length ?? 0);
    const count = (share?.claims.size ?? 0) + (known === undefined ? 1 : 0);
    if (after > OCTETS_PER_HOST_MAX || count > DOMAINS_PER_HOST_MAX) {
      return { by: host, kind: "flood", reason: `it speaks of ${count} domains in ${after} octets` };
    }
    return undefined;
  }

  /** By its host's own later word, or by a claim of a higher generation that it does not dispute. */
  #isOutdone(placement: Placement, known: Placement | undefined, nowMs: number): boolean {
    if (known !== undefined) {
      if (known.generation !== placement.generation) {
        if (known.generation > placement.generation) return true;
      } else if (known.seq > placement.seq) return true;
    }
    const others = this.claims(placement.domain).filter(({ host }) => host !== placement.host);
    const highest = Math.max(0, ...others.map(({ generation }) => generation));
    if (highest > placement.generation) {
      // Its host's own last word against the newest claim goes with the one that takes it back.
      if (known?.disputes !== undefined && known.generation === placement.generation) return false;
      return !others.some((claim) => isDisputed(placement, claim, nowMs));
    }
    const rivals = others.filter(({ generation }) => generation === placement.generation);
    return rivals.length >= CLAIMANTS_MAX && rivals.every(({ host }) => host < placement.host);
  }

  #put(signed: SignedPlacement): void {
    const { domain, host } = signed.placement;
    this.#remove(domain, host);
    const claims = this.#domains.get(domain) ?? new Map<HostId, SignedPlacement>();
    this.#domains.set(domain, claims.set(host, signed));
    const share = this.#hosts.get(host) ?? { claims: new Map<string, SignedPlacement>(), octets: 0 };
    share.claims.set(domain, signed);
    share.octets += signed.octets.length;
    this.#hosts.set(host, share);
  }

  #remove(domain: string, host: HostId): void {
    const claims = this.#domains.get(domain);
    const share = this.#hosts.get(host);
    const signed = share?.claims.get(domain);
    if (claims === undefined || share === undefined || signed === undefined) return;
    claims.delete(host);
    if (claims.size === 0) this.#domains.delete(domain);
    share.claims.delete(domain);
    share.octets -= signed.octets.length;
    if (share.claims.size === 0) this.#hosts.delete(host);
  }

  /** Leaves the claims of the highest generation, and those that dispute one of them. */
  #prune(domain: string, nowMs: number): Placement[] {
    const claims = this.claims(domain);
    const highest = claims[0]?.generation ?? 0;
    const top = claims.filter(({ generation }) => generation === highest);
    const kept = top.slice(0, CLAIMANTS_MAX);
    const disputing = claims.filter(
      (claim) => claim.generation < highest && kept.some((other) => isDisputed(claim, other, nowMs)),
    );
    const stay = new Set([...kept, ...disputing.slice(0, CLAIMANTS_MAX)].map(({ host }) => host));
    const dropped = claims.filter(({ host }) => !stay.has(host));
    for (const { host } of dropped) this.#remove(domain, host);
    return dropped;
  }
}

function isDisputed(by: Placement, { host, generation }: Placement, nowMs: number): boolean {
  const { disputes, timeMs } = by;
  return disputes?.host === host && disputes.generation === generation && nowMs - timeMs < DISPUTE_KEPT_MS;
}

function refused(by: HostId, kind: OffenceKind, reason: string): Extract<Verdict, { kind: "refused" }> {
  return { kind: "refused", offence: { by, kind, reason } };
}

/** It signed two different records as one and the same word. All hosts keep the one with the greater octets. */
function twoWords(host: HostId, { placement }: SignedPlacement): Extract<Verdict, { kind: "refused" }> {
  return refused(
    host,
    "two-words",
    `two different words with seq ${placement.seq} about ${placement.domain}`,
  );
}

function sameRank(a: Placement, b: Placement): boolean {
  return a.generation === b.generation && a.seq === b.seq;
}

function word(octets: Uint8Array, at: number): number {
  return (octets[at]! << 24) | (octets[at + 1]! << 16) | (octets[at + 2]! << 8) | octets[at + 3]!;
}

function sameOctets(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && compareOctets(a, b) === 0;
}

function compareOctets(a: Uint8Array, b: Uint8Array): number {
  for (let index = 0; index < Math.min(a.length, b.length); index++) {
    if (a[index] !== b[index]) return a[index]! - b[index]!;
  }
  return a.length - b.length;
}
