/**
 * What is signed: records by their owners, accusations by their accusers. Nothing is believed unverified, and a
 * peer that brings a signature which is not the signer's is named.
 */

import { INCARNATION_MAX } from "./limits.ts";
import { accusersOf, digestOf, isGone } from "./member-table.ts";
import type {
  Accusation,
  AccusationKind,
  Digest,
  HostDescription,
  HostId,
  MemberRecord,
  Update,
} from "./messages.ts";
import { type MembershipState, setTimer, type Turn } from "./state.ts";
import { accusationOctets, recordOctets } from "./wire.ts";

/** Whether the record is its owner's, and not from a future that cannot be. */
export function verified({ context, effects }: Turn, record: MemberRecord, peer: HostId): boolean {
  const { host, incarnation } = record;
  if (!context.verify(host, recordOctets(record), record.signature)) {
    effects.push({ type: "offence", peer, offence: { kind: "forged", host } });
    return false;
  }
  if (incarnation <= (context.incarnationMax ?? INCARNATION_MAX)) return true;
  effects.push({ type: "offence", peer, offence: { kind: "future-dated", host, incarnation } });
  return false;
}

/** Whether the accusation of the record's host is its accuser's. Our own new ones need no proof. */
export function proven(
  { state, context, effects }: Turn,
  accused: MemberRecord,
  by: Accusation,
  peer: HostId,
): boolean {
  if (peer === state.self) return true;
  if (context.verify(by.from, accusationOctets(accused, by), by.signature)) return true;
  effects.push({ type: "offence", peer, offence: { kind: "forged", host: by.from } });
  return false;
}

export function accusationBy(
  { state, context }: Turn,
  accused: MemberRecord,
  kind: AccusationKind,
): Accusation {
  const from = state.self;
  return { kind, from, signature: context.sign(accusationOctets(accused, { kind, from })) };
}

/** Signs what this host says of itself. */
export function ownUpdate(
  { state, context }: Turn,
  said: HostDescription & { incarnation: number; state: "alive" | "left" },
): Update {
  const { name, addresses, freeBytes, domainCount, incarnation } = said;
  const record = {
    host: state.self,
    incarnation,
    state: said.state,
    name,
    addresses,
    freeBytes,
    domainCount,
  };
  const signature = context.sign(recordOctets(record));
  return { record: { ...record, signature }, status: said.state, accusations: [] };
}

type Raise = { above?: number; description?: HostDescription; state?: "alive" | "left" };

/** A higher incarnation for this host, told to all. */
export function raise(turn: Turn, { above = 0, description, state: next }: Raise = {}): void {
  const { state } = turn;
  const { own } = state;
  if (own === undefined) return;
  const incarnation = Math.max(own.record.incarnation, above) + 1;
  // Only this host itself could have come so far, in 2^52 refutations.
  if (incarnation > INCARNATION_MAX) return;
  state.own = ownUpdate(turn, {
    ...own.record,
    ...description,
    state: next ?? own.record.state,
    incarnation,
  });
  // Whatever was said of the last incarnation is past.
  state.unrefuted = undefined;
  tellOn(turn, state.own);
}

/**
 * This host is accused: it raises its incarnation, doubts its own health, and answers whoever brought the news at
 * once. Not more often than `refuteIntervalMs`, so that an accuser cannot make it flood the others. A host that was
 * dead to others has missed what they know, and they what it knows.
 */
export function refute(turn: Turn, accusations: readonly Accusation[], peer: HostId): void {
  const { state, context, effects } = turn;
  const restMs = state.refutedAtMs + context.config.refuteIntervalMs - context.nowMs;
  if (restMs > 0) {
    if (state.unrefuted === undefined) setTimer(turn, "refute", restMs);
    state.unrefuted = { accusations, peer };
    return;
  }
  state.refutedAtMs = context.nowMs;
  state.unrefuted = undefined;
  raise(turn);
  feel(turn, 1);
  const { own } = state;
  if (own === undefined) return;
  effects.push({
    type: "refuted",
    incarnation: own.record.incarnation,
    by: accusations.map(({ from }) => from),
  });
  effects.push({ type: "send", to: peer, message: { type: "gossip", updates: [own] } });
  if (accusations.some(({ kind }) => kind === "dead")) compareWith(turn, peer);
}

/** An accusation that came too soon after the last refutation, and is still about our incarnation. */
export function refuteTimer(turn: Turn): void {
  const { unrefuted } = turn.state;
  if (unrefuted !== undefined) refute(turn, unrefuted.accusations, unrefuted.peer);
}

/** Begins a state exchange. */
export function compareWith({ state, effects }: Turn, host: HostId): void {
  effects.push({ type: "send", to: host, message: { type: "compare", digest: stateDigest(state) } });
}

/** The next random exchange comes within one interval, however large the cluster. Equal states cost next to nothing. */
export function hastenExchange(turn: Turn): void {
  const { state, context } = turn;
  const { exchangeIntervalMs } = context.config;
  if (state.exchangeAtMs <= context.nowMs + exchangeIntervalMs) return;
  armExchange(turn, context.random() * exchangeIntervalMs);
}

export function armExchange(turn: Turn, afterMs: number): void {
  turn.state.exchangeAtMs = turn.context.nowMs + afterMs;
  setTimer(turn, "exchange", afterMs);
}

export function stateDigest({ table, own }: MembershipState): Digest {
  const [high, low] = table.digest;
  if (own === undefined || isGone(own.status)) return [high, low];
  const share = digestOf(own);
  return [(high ^ share[0]) >>> 0, (low ^ share[1]) >>> 0];
}

/** Local health gets worse (more than 0) or better. */
export function feel({ state, context }: Turn, delta: number): void {
  state.awareness = Math.min(context.config.awarenessMax, Math.max(0, state.awareness + delta));
}

/** A host that feels sick takes its time. */
export function scaled({ awareness }: MembershipState, timeMs: number): number {
  return timeMs * (awareness + 1);
}

export function tellOn(turn: Turn, update: Update): void {
  turn.state.queue.add(update);
  armGossip(turn);
}

/** The gossip ticks only while there is something to tell, so that a cluster at rest is silent. */
export function armGossip(turn: Turn): void {
  const { state, context } = turn;
  if (state.gossipArmed || state.queue.size === 0) return;
  state.gossipArmed = true;
  setTimer(turn, "gossip", context.random() * context.config.gossipIntervalMs);
}

export function changed({ effects }: Turn, update: Update, from: Update["status"] | undefined): void {
  effects.push({
    type: "changed",
    host: update.record.host,
    from,
    to: update.status,
    by: accusersOf(update),
  });
}
