/**
 * Finding out who does not answer: one member in each probe interval, directly, then through others.
 *
 *   probe ─ping─▶ answered: well                 │ ping-request, to helpers
 *     │  probeTimeoutMs                          ▼
 *     └──────────▶ asked others ──end of the interval, no ack──▶ suspect
 *
 * All times of the prober are multiplied by its local health + 1. Every missing nack of a helper, and every refutation,
 * is a sign that the fault is here.
 */

import { suspectOurselves } from "./beliefs.ts";
import { feel, scaled } from "./claims.ts";
import { SEQUENCE_MAX } from "./limits.ts";
import { isGone, type Member } from "./member-table.ts";
import type { HostId, Update } from "./messages.ts";
import { hostCount, type Probe, setTimer, type Turn } from "./state.ts";
import { retransmitLimit } from "./update-queue.ts";

/** Of all probes on behalf of others, those of one asker: a host has one probe at a time. */
const RELAYS_OF_ONE_MAX = 8;

export function probeTimer(turn: Turn): void {
  const { state, context } = turn;
  judge(turn);
  setTimer(turn, "probe", scaled(state, context.config.probeIntervalMs));
  const target = nextLook(turn) ?? state.table.nextToProbe(context.random);
  if (target !== undefined) begin(turn, target);
}

/** No answer in time: others may reach it. Also when the connection says that there will be none. */
export function probeTimeoutTimer(turn: Turn): void {
  const { state, context } = turn;
  const { probe } = state;
  if (probe === undefined || probe.indirect || probe.answered) return;
  const restMs = probe.sentAtMs + probe.timeoutMs - context.nowMs;
  if (restMs > 0) setTimer(turn, "probe-timeout", restMs);
  else askOthers(turn, probe);
}

export function unreachable(turn: Turn, host: HostId): void {
  const { state, context } = turn;
  const member = state.table.get(host);
  if (member === undefined || isGone(member.update.status)) return;
  const { probe } = state;
  const isOpen = probe !== undefined && !probe.answered;
  if (isOpen && probe.target === member) {
    if (!probe.indirect) askOthers(turn, probe);
  } else if (isOpen) {
    if (!state.looks.includes(host)) state.looks.unshift(host);
  } else {
    begin(turn, member);
    setTimer(turn, "probe", scaled(state, context.config.probeIntervalMs));
  }
}

export function ping(turn: Turn, from: HostId, sequence: number): void {
  turn.effects.push({ type: "send", to: from, message: { type: "ack", sequence, updates: piggyback(turn) } });
}

export function ack(turn: Turn, from: HostId, sequence: number): void {
  const { state, context, effects } = turn;
  const { probe } = state;
  if (probe?.sequence === sequence && !probe.answered) {
    const isDirect = from === probe.target.host;
    if (!isDirect && !probe.helpers.has(from)) return;
    probe.answered = true;
    feel(turn, -1);
    if (isDirect) probe.target.rttMs = context.nowMs - probe.sentAtMs;
    return;
  }
  const relay = state.relays.get(sequence);
  if (relay?.target !== from) return;
  state.relays.delete(sequence);
  const message = { type: "ack" as const, sequence: relay.sequence, updates: piggyback(turn) };
  effects.push({ type: "send", to: relay.asker, message });
}

/** The helper is well, and so are we: it reached us. */
export function nack({ state }: Turn, from: HostId, sequence: number): void {
  const { probe } = state;
  if (probe?.sequence === sequence && probe.helpers.has(from)) probe.helpers.set(from, true);
}

export function pingRequest(turn: Turn, from: HostId, request: { sequence: number; target: HostId }): void {
  const { state, context, effects } = turn;
  const { sequence, target } = request;
  if (target === state.self) {
    ping(turn, from, sequence);
    return;
  }
  if (state.relays.size >= context.config.relaysMax) return;
  let ofThisOne = 0;
  for (const { asker } of state.relays.values()) if (asker === from) ofThisOne += 1;
  if (ofThisOne >= RELAYS_OF_ONE_MAX) return;
  if (state.table.get(target) === undefined) {
    effects.push({ type: "send", to: from, message: { type: "nack", sequence } });
    return;
  }
  const relayed = nextSequence(turn);
  state.relays.set(relayed, { asker: from, sequence, target });
  effects.push({
    type: "send",
    to: target,
    message: { type: "ping", sequence: relayed, updates: piggyback(turn) },
  });
  setTimer(turn, `relay:${relayed}`, context.config.nackAfterMs);
}

export function relayTimer({ state, effects }: Turn, sequence: number): void {
  const relay = state.relays.get(sequence);
  if (relay === undefined) return;
  state.relays.delete(sequence);
  effects.push({ type: "send", to: relay.asker, message: { type: "nack", sequence: relay.sequence } });
}

/** What waits to be told and fits along with another message. */
export function piggyback({ state, context }: Turn): Update[] {
  const { updatesSizeMax, retransmitMult } = context.config;
  return state.queue.take({
    sizeMax: updatesSizeMax,
    limit: retransmitLimit(retransmitMult, hostCount(state)),
  });
}

function begin(turn: Turn, target: Member): void {
  const { state, context, effects } = turn;
  const { update } = target;
  const probe: Probe = {
    sequence: nextSequence(turn),
    target,
    incarnation: update.record.incarnation,
    sentAtMs: context.nowMs,
    timeoutMs: scaled(state, context.config.probeTimeoutMs),
    indirect: false,
    helpers: new Map(),
    answered: false,
  };
  state.probe = probe;
  const updates = piggyback(turn);
  // The buddy system: a suspect that lives should be the first to know.
  if (context.config.buddy && update.status === "suspect" && !updates.includes(update))
    updates.unshift(update);
  effects.push({
    type: "send",
    to: target.host,
    message: { type: "ping", sequence: probe.sequence, updates },
  });
  setTimer(turn, "probe-timeout", probe.timeoutMs);
}

function askOthers(turn: Turn, probe: Probe): void {
  const { state, context, effects } = turn;
  const { host } = probe.target;
  probe.indirect = true;
  const helpers = state.table.pick(context.config.indirectProbes, context.random, (member) => {
    return member.host !== host && member.update.status === "alive";
  });
  for (const helper of helpers) {
    probe.helpers.set(helper.host, false);
    const updates = piggyback(turn);
    const message = { type: "ping-request" as const, sequence: probe.sequence, target: host, updates };
    effects.push({ type: "send", to: helper.host, message });
  }
}

/** The probe interval is over. */
function judge(turn: Turn): void {
  const { state } = turn;
  const { probe } = state;
  state.probe = undefined;
  if (probe === undefined || probe.answered) return;
  const { helpers, target, incarnation } = probe;
  let silent = 0;
  for (const answered of helpers.values()) if (!answered) silent += 1;
  feel(turn, helpers.size > 0 ? silent : 1);
  const { update } = target;
  // It may have refuted, left or been forgotten meanwhile.
  const isSame = state.table.get(target.host) === target && update.record.incarnation === incarnation;
  if (isSame && !isGone(update.status)) suspectOurselves(turn, target);
}

function nextLook({ state }: Turn): Member | undefined {
  for (let host = state.looks.shift(); host !== undefined; host = state.looks.shift()) {
    const member = state.table.get(host);
    if (member !== undefined && !isGone(member.update.status)) return member;
  }
  return undefined;
}

function nextSequence({ state }: Turn): number {
  state.sequence = state.sequence >= SEQUENCE_MAX ? 1 : state.sequence + 1;
  return state.sequence;
}
