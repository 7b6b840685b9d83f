/**
 * What an update changes in what we believe of a member. Every transition is here.
 *
 *            ┌──────────── record with a higher incarnation ◀── only its owner can sign one
 *            ▼                                   │
 *   ──▶ alive ──accused──▶ suspect ──time is up, or told so──▶ dead ──forgetAfterMs──▶ tombstone
 *         │                   │                                  ▲
 *         │                   └──accused by others: sooner       └── by gossip only: in a state exchange the
 *         └──own farewell──▶ left                                    remote dead are suspected, to be heard first
 *
 * An incarnation is judged once: within one the arrows only go to the right, and what is old news has no effect
 * and costs no signature check. What changed our mind is told on.
 */

import { accusationBy, changed, hastenExchange, proven, raise, refute, tellOn, verified } from "./claims.ts";
import { ACCUSATIONS_MAX } from "./limits.ts";
import { accusersOf, isGone, type Member, type Suspicion } from "./member-table.ts";
import type { Accusation, HostId, MemberRecord, Update } from "./messages.ts";
import { hostCount, setTimer, type Turn } from "./state.ts";
import { confirm, newSuspicion } from "./suspicion.ts";

/** How an update came here. */
export type Source = {
  readonly peer: HostId;
  /** By a state exchange or from before a restart: the dead are suspected first. */
  readonly exchange: boolean;
  /** Not to be told on. */
  readonly quiet?: boolean;
};

/** Looks out of turn that wait; more suspicions than that are a catastrophe, where they would not help. */
const LOOKS_MAX = 16;

export function believe(turn: Turn, update: Update, source: Source): void {
  const { record } = update;
  if (record.host === turn.state.self) {
    hearAboutUs(turn, update, source);
    return;
  }
  const member = turn.state.table.get(record.host);
  if (member === undefined) {
    meet(turn, update, source);
    return;
  }
  const known = member.update;
  if (known === update || record.incarnation < known.record.incarnation) return;
  if (record.incarnation > known.record.incarnation) {
    if (!verified(turn, record, source.peer)) return;
    settle(turn, member, bare(update), source);
  } else if (!isSame(record, known.record)) {
    if (!verified(turn, record, source.peer)) return;
    contradict(turn, member, record, source);
  }
  if (update.accusations.length > 0) accuse(turn, member, update, source);
  else if (source.exchange) tellIfDoubted(turn, record.host);
}

/**
 * Somebody that we believe suspect or gone speaks to us, or is alive in another's state: it should know what we
 * believe, so that it can refute. Once in a probe interval. Works where a link works in one direction only.
 */
export function tellIfDoubted({ state, context, effects }: Turn, host: HostId): void {
  const doubted = state.table.get(host) ?? state.table.tombstones.get(host);
  if (doubted === undefined || doubted.update.status === "alive") return;
  if (context.nowMs - doubted.toldAtMs < context.config.probeIntervalMs) return;
  doubted.toldAtMs = context.nowMs;
  effects.push({ type: "send", to: host, message: { type: "gossip", updates: [doubted.update] } });
}

/** Our own probe of `member` failed. */
export function suspectOurselves(turn: Turn, member: Member): void {
  const { self } = turn.state;
  suspect(turn, member, [accusationBy(turn, member.update.record, "suspect")], {
    peer: self,
    exchange: false,
  });
}

/**
 * The time of a suspicion is up, if it still stands. Where nobody confirmed it, the fault may have been here: we may
 * have been cut off, or stopped. Such a suspect gets a last call, a probe timeout before its end.
 */
export function suspicionTimer(turn: Turn, host: HostId): void {
  const { state, context, effects } = turn;
  const member = state.table.get(host);
  const suspicion = member?.suspicion;
  if (member === undefined || suspicion === undefined) return;
  if (isCallDue(turn, suspicion)) {
    suspicion.called = true;
    suspicion.endsAtMs = Math.max(suspicion.endsAtMs, context.nowMs + context.config.probeTimeoutMs);
    effects.push({ type: "send", to: host, message: { type: "gossip", updates: [member.update] } });
  }
  if (context.nowMs < suspicion.endsAtMs) setSuspicionTimer(turn, host, suspicion);
  else bury(turn, member, accusationBy(turn, member.update.record, "dead"));
}

function setSuspicionTimer(turn: Turn, host: HostId, suspicion: Suspicion): void {
  const { config, nowMs } = turn.context;
  const callMs = mayCall(turn, suspicion) ? config.probeTimeoutMs : 0;
  setTimer(turn, `suspicion:${host}`, Math.max(0, suspicion.endsAtMs - callMs - nowMs));
}

function isCallDue(turn: Turn, suspicion: Suspicion): boolean {
  const { config, nowMs } = turn.context;
  return mayCall(turn, suspicion) && nowMs >= suspicion.endsAtMs - config.probeTimeoutMs;
}

function mayCall({ context }: Turn, { called, confirmations, confirmationsMax }: Suspicion): boolean {
  return context.config.lastCall && !called && (confirmations < confirmationsMax || confirmationsMax === 0);
}

/** Revoked: nothing of it is kept. */
export function forget(turn: Turn, host: HostId): void {
  const { table, queue } = turn.state;
  const member = table.get(host);
  table.removeTombstone(host);
  queue.delete(host);
  if (member === undefined) return;
  member.suspicion = undefined;
  table.remove(member);
  turn.effects.push({ type: "changed", host, from: member.update.status, to: undefined, by: [] });
}

/** The long dead become tombstones, and old tombstones nothing. */
export function reap(turn: Turn): void {
  const { state, context } = turn;
  const { forgetAfterMs } = context.config;
  for (const member of state.table.gone.values()) {
    if (context.nowMs - member.sinceMs < forgetAfterMs) break;
    entomb(turn, member);
  }
  for (const [host, { untilMs }] of state.table.tombstones) {
    if (context.nowMs >= untilMs) state.table.removeTombstone(host);
  }
}

function entomb({ state, context, effects }: Turn, member: Member): void {
  const { tombstoneMs, tombstonesMax } = context.config;
  state.table.remove(member, { tombstoneUntilMs: context.nowMs + tombstoneMs, tombstonesMax });
  state.queue.delete(member.host);
  effects.push({ type: "changed", host: member.host, from: member.update.status, to: undefined, by: [] });
}

/** A host that we did not know. One that is dead or left is noted, and not told on: it is old news to others. */
function meet(turn: Turn, update: Update, source: Source): void {
  const { state, context } = turn;
  const { host, incarnation } = update.record;
  const tombstone = state.table.tombstones.get(host);
  if (tombstone !== undefined && incarnation <= tombstone.update.record.incarnation) return;
  if (!hasRoom(turn, update, source) || !verified(turn, update.record, source.peer)) return;
  if (update.status === "dead") {
    const [accusation] = update.accusations;
    if (accusation === undefined || !proven(turn, update.record, accusation, source.peer)) return;
    state.table.add(update, context);
    changed(turn, update, undefined);
    return;
  }
  const plain = bare(update);
  makeRoom(turn);
  const member = state.table.add(plain, context);
  changed(turn, plain, undefined);
  if (plain.status === "alive" && source.quiet !== true) tellOn(turn, plain);
  if (source.quiet !== true && update.accusations.length > 0) accuse(turn, member, update, source);
}

function hasRoom({ state, context, effects }: Turn, { record, status }: Update, { peer }: Source): boolean {
  const { table } = state;
  if (table.size < context.config.membersMax) return true;
  // Old ends make room for the living, and for nothing else.
  if (!isGone(status) && table.gone.size > 0) return true;
  if (!isGone(status)) effects.push({ type: "offence", peer, offence: { kind: "flood", host: record.host } });
  return false;
}

function makeRoom(turn: Turn): void {
  const { table } = turn.state;
  if (table.size < turn.context.config.membersMax) return;
  const [longestGone] = table.gone.values();
  if (longestGone !== undefined) entomb(turn, longestGone);
}

/** The owner's own word, proven and newer: it replaces all that was believed. */
function settle(turn: Turn, member: Member, update: Update, source: Source): void {
  const before = member.update.status;
  member.suspicion = undefined;
  turn.state.table.set(member, update, turn.context);
  changed(turn, update, before);
  if (source.quiet === true) return;
  tellOn(turn, update);
  // Who was dead and is not may be one of many: a partition has ended, and gossip of its time was lost.
  if (before === "dead" && update.status === "alive") hastenExchange(turn);
}

/** Two records of one incarnation. All hosts keep the same one: a farewell, or the one with the larger signature. */
function contradict(turn: Turn, member: Member, record: MemberRecord, source: Source): void {
  const { update } = member;
  turn.effects.push({ type: "offence", peer: record.host, offence: { kind: "contradiction" } });
  if (rank(record) < rank(update.record)) return;
  if (rank(record) === rank(update.record) && compare(record.signature, update.record.signature) < 0) return;
  if (record.state === "left") {
    settle(turn, member, { record, status: "left", accusations: [] }, source);
    return;
  }
  const next = { ...update, record };
  turn.state.table.set(member, next, turn.context);
  changed(turn, next, next.status);
  tellOn(turn, next);
}

function accuse(turn: Turn, member: Member, update: Update, source: Source): void {
  if (isGone(member.update.status)) return;
  const [first] = update.accusations;
  if (update.status === "dead" && !source.exchange) {
    if (first !== undefined && proven(turn, member.update.record, first, source.peer))
      bury(turn, member, first, update);
    return;
  }
  suspect(turn, member, update.accusations, source, update);
}

/** Takes those accusations that are new and still count. `whole` is kept as it is when it says just that. */
function suspect(
  turn: Turn,
  member: Member,
  accusations: readonly Accusation[],
  source: Source,
  whole?: Update,
): void {
  const { state, context } = turn;
  if (isGone(member.update.status)) return;
  const { record, status: before } = member.update;
  const suspicion = member.suspicion ?? newSuspicion(context.config, hostCount(state), context.nowMs);
  const all = [...member.update.accusations];
  for (const accusation of accusations) {
    const isFirst = all.length === 0;
    if (!isFirst && suspicion.confirmations >= suspicion.confirmationsMax) break;
    if (all.length >= ACCUSATIONS_MAX || all.some(({ from }) => from === accusation.from)) continue;
    if (!proven(turn, record, accusation, source.peer)) continue;
    all.push(accusation);
    if (!isFirst) confirm(suspicion);
  }
  if (all.length === member.update.accusations.length) return;
  const next =
    whole !== undefined && says(whole, record, all)
      ? whole
      : { record, status: "suspect" as const, accusations: all };
  member.suspicion = suspicion;
  state.table.set(member, next, context);
  setSuspicionTimer(turn, member.host, suspicion);
  if (before === "alive") {
    changed(turn, next, before);
    if (source.peer !== state.self) lookOutOfTurn(turn, member.host);
    // It may be alive and cut off from whoever buried it: it should hear of it from us before others believe it.
    if (source.exchange)
      turn.effects.push({ type: "send", to: member.host, message: { type: "gossip", updates: [next] } });
  }
  tellOn(turn, next);
}

function bury(turn: Turn, member: Member, accusation: Accusation, whole?: Update): void {
  const { record, status: before } = member.update;
  const update =
    whole !== undefined && isSame(whole.record, record)
      ? whole
      : { record, status: "dead" as const, accusations: [accusation] };
  member.suspicion = undefined;
  turn.state.table.set(member, update, turn.context);
  changed(turn, update, before);
  tellOn(turn, update);
}

function hearAboutUs(turn: Turn, update: Update, { peer, exchange }: Source): void {
  const { state } = turn;
  const { own } = state;
  if (own === undefined) return;
  if (own.record.incarnation > update.record.incarnation) {
    if (update.accusations.length > 0 && !exchange) correct(turn, own, peer);
    return;
  }
  if (own.record.incarnation < update.record.incarnation || !isSame(own.record, update.record)) {
    // A former life of ours, which had a higher incarnation or said something else under this one.
    if (verified(turn, update.record, peer)) raise(turn, { above: update.record.incarnation });
    return;
  }
  if (state.phase !== "running") return;
  const believed = update.accusations.filter((accusation) => proven(turn, own.record, accusation, peer));
  if (believed.length > 0) refute(turn, believed, peer);
}

/** The peer missed our refutation, or it would not say this any more. Once in a probe interval. */
function correct({ state, context, effects }: Turn, own: Update, peer: HostId): void {
  const member = state.table.get(peer);
  if (member === undefined || context.nowMs - member.toldAtMs < context.config.probeIntervalMs) return;
  member.toldAtMs = context.nowMs;
  effects.push({ type: "send", to: peer, message: { type: "gossip", updates: [own] } });
}

/** The update without its accusations. */
function bare(update: Update): Update {
  const { record } = update;
  return update.accusations.length === 0 ? update : { record, status: record.state, accusations: [] };
}

/** Whether `update` is a suspicion of just this record by just these accusers. */
function says(update: Update, record: MemberRecord, accusations: readonly Accusation[]): boolean {
  if (!isSame(update.record, record)) return false;
  if (update.status !== "suspect" || update.accusations.length !== accusations.length) return false;
  const accusers = accusersOf(update);
  return accusations.every(({ from }) => accusers.includes(from));
}

function lookOutOfTurn({ state, context }: Turn, host: HostId): void {
  const { looks } = state;
  if (looks.length >= LOOKS_MAX || context.random() * hostCount(state) >= context.config.secondLooks) return;
  if (!looks.includes(host)) looks.push(host);
}

/** Signatures are deterministic: another one means that something else was signed, or that it is forged. */
function isSame(a: MemberRecord, b: MemberRecord): boolean {
  return a === b || compare(a.signature, b.signature) === 0;
}

function rank({ state }: MemberRecord): number {
  return state === "left" ? 1 : 0;
}

function compare(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i]) return a[i]! - b[i]!;
  }
  return 0;
}
