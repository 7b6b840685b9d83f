/**
 * Who is a member of the cluster and alive: SWIM with Lifeguard, as memberlist has it (DESIGN §5).
 *
 *   idle ──start──▶ running ──leave──▶ leaving ──told, or leaveTimeoutMs──▶ idle
 *
 * Each host probes one member a second; who does not answer, directly or through others, is suspected; who does not
 * refute in time is dead. What changes is told to a few at random, who tell it on. `beliefs.ts` has the transitions
 * of a member, `probing.ts` the failure detector, `exchange.ts` what repairs all that gossip lost.
 *
 * What must hold: nothing is believed that its owner or accuser did not sign; only a host itself raises its
 * incarnation; within an incarnation a belief never goes back; two hosts that can reach each other in the end agree;
 * a peer can make this host neither grow without bound nor speak without bound.
 *
 * `step` does no I/O, reads no clock and owns its state, which it mutates in place. Messages arrive decoded and
 * within their limits. The driver performs the effects in order; a `send` may be lost and is never waited for.
 */

import { assert, unreachable as impossible } from "../errors.ts";
import { believe, forget, suspicionTimer, tellIfDoubted } from "./beliefs.ts";
import { armExchange, armGossip, compareWith, ownUpdate, raise, refuteTimer } from "./claims.ts";
import { checkConfig, type MembershipConfig } from "./config.ts";
import { compare, exchangeTimer, join, joinTimer, receiveState, reconnectTimer } from "./exchange.ts";
import { MemberTable } from "./member-table.ts";
import type { HostDescription, HostId, MembershipMessage, Update } from "./messages.ts";
import {
  ack,
  nack,
  piggyback,
  ping,
  pingRequest,
  probeTimeoutTimer,
  probeTimer,
  relayTimer,
  unreachable,
} from "./probing.ts";
import {
  type MembershipContext,
  type MembershipEvent,
  type MembershipState,
  type MembershipStep,
  type MembershipTimer,
  setTimer,
  type Turn,
} from "./state.ts";
import { UpdateQueue } from "./update-queue.ts";

export type * from "./state.ts";

export function initial({ self, config }: { self: HostId; config: MembershipConfig }): MembershipState {
  checkConfig(config);
  return {
    self,
    phase: "idle",
    own: undefined,
    table: new MemberTable(),
    queue: new UpdateQueue(),
    gossipArmed: false,
    awareness: 0,
    sequence: 0,
    probe: undefined,
    looks: [],
    relays: new Map(),
    seeds: [],
    joinRetryMs: config.joinRetryMs,
    exchangeAtMs: Number.POSITIVE_INFINITY,
    refutedAtMs: Number.NEGATIVE_INFINITY,
    unrefuted: undefined,
    announcedAtMs: Number.NEGATIVE_INFINITY,
    unannounced: undefined,
  };
}

export function step(
  state: MembershipState,
  event: MembershipEvent,
  context: MembershipContext,
): MembershipStep {
  const turn: Turn = { state, context, effects: [] };
  if (event.type === "start") start(turn, event.incarnation, event.description);
  else if (state.phase !== "idle") run(turn, event);
  return [state, turn.effects];
}

/** What this host would tell others of all members, itself first: to be shown, and kept for `restore`. */
export function members({ own, table }: MembershipState): Update[] {
  const others = [...table.members()].map(({ update }) => update);
  return own === undefined ? others : [own, ...others];
}

function run(turn: Turn, event: Exclude<MembershipEvent, { type: "start" }>): void {
  const { state } = turn;
  switch (event.type) {
    case "received":
      received(turn, event.from, event.message);
      return;
    case "timer-fired":
      timerFired(turn, event.timer);
      return;
    case "restore":
      restore(turn, event.updates);
      return;
    case "join":
      join(turn, event.seeds);
      return;
    case "connected":
      compareWith(turn, event.host);
      return;
    case "unreachable":
      if (state.phase === "running") unreachable(turn, event.host);
      return;
    case "announce":
      announce(turn, event.description);
      return;
    case "leave":
      leave(turn);
      return;
    case "remove":
      forget(turn, event.host);
      return;
    default:
      impossible(event);
  }
}

function received(turn: Turn, from: HostId, message: MembershipMessage): void {
  if (from === turn.state.self) return;
  if (message.type === "state") receiveState(turn, from, message);
  else if ("updates" in message) {
    for (const update of message.updates) believe(turn, update, { peer: from, exchange: false });
  }
  tellIfDoubted(turn, from);
  switch (message.type) {
    case "ping":
      ping(turn, from, message.sequence);
      return;
    case "ack":
      ack(turn, from, message.sequence);
      return;
    case "ping-request":
      pingRequest(turn, from, message);
      return;
    case "nack":
      nack(turn, from, message.sequence);
      return;
    case "compare":
      compare(turn, from, message.digest);
      return;
    case "gossip":
    case "state":
      return;
    default:
      impossible(message);
  }
}

function timerFired(turn: Turn, timer: MembershipTimer): void {
  const { state } = turn;
  const isRunning = state.phase === "running";
  switch (timer) {
    case "gossip":
      gossipTimer(turn);
      return;
    case "leave":
      if (state.phase === "leaving") gone(turn);
      return;
    case "probe":
      if (isRunning) probeTimer(turn);
      return;
    case "probe-timeout":
      if (isRunning) probeTimeoutTimer(turn);
      return;
    case "exchange":
      if (isRunning) exchangeTimer(turn);
      return;
    case "reconnect":
      if (isRunning) reconnectTimer(turn);
      return;
    case "join":
      if (isRunning) joinTimer(turn);
      return;
    case "refute":
      if (isRunning) refuteTimer(turn);
      return;
    case "announce":
      if (isRunning) announceTimer(turn);
      return;
  }
  const [kind, subject] = cut(timer);
  if (kind === "relay") relayTimer(turn, Number(subject));
  else if (isRunning) suspicionTimer(turn, subject);
}

/** Hosts begin at random places of their intervals, so that a cluster that starts at once does not beat as one. */
function start(turn: Turn, incarnation: number, description: HostDescription): void {
  const { state, context } = turn;
  assert(state.phase === "idle", "membership is started once");
  const { config, random } = context;
  const former = state.own?.record.incarnation ?? -1;
  state.phase = "running";
  state.own = ownUpdate(turn, {
    ...description,
    incarnation: Math.max(incarnation, former + 1),
    state: "alive",
  });
  state.announcedAtMs = context.nowMs;
  state.queue.add(state.own);
  state.gossipArmed = false;
  armGossip(turn);
  setTimer(turn, "probe", random() * config.probeIntervalMs);
  armExchange(turn, random() * config.exchangeIntervalMs);
  setTimer(turn, "reconnect", random() * config.reconnectIntervalMs);
}

function restore(turn: Turn, updates: readonly Update[]): void {
  const { self } = turn.state;
  for (const update of updates) {
    if (update.record.host !== self) believe(turn, update, { peer: "", exchange: true, quiet: true });
  }
}

function announce(turn: Turn, description: HostDescription): void {
  const { state, context } = turn;
  if (state.phase !== "running") return;
  const restMs = state.announcedAtMs + context.config.announceIntervalMs - context.nowMs;
  if (restMs <= 0) {
    state.announcedAtMs = context.nowMs;
    raise(turn, { description });
    return;
  }
  if (state.unannounced === undefined) setTimer(turn, "announce", restMs);
  state.unannounced = description;
}

function announceTimer(turn: Turn): void {
  const description = turn.state.unannounced;
  turn.state.unannounced = undefined;
  if (description !== undefined) announce(turn, description);
}

/** Says farewell, and waits until it has been told often enough to reach all. */
function leave(turn: Turn): void {
  const { state, context } = turn;
  if (state.phase !== "running") return;
  state.phase = "leaving";
  state.probe = undefined;
  raise(turn, { state: "left" });
  if (state.table.active.length === 0) {
    gone(turn);
    return;
  }
  setTimer(turn, "leave", context.config.leaveTimeoutMs);
}

function gone(turn: Turn): void {
  turn.state.phase = "idle";
  turn.effects.push({ type: "left" });
}

function gossipTimer(turn: Turn): void {
  const { state, context, effects } = turn;
  const { config, nowMs, random } = context;
  state.gossipArmed = false;
  const targets = state.table.pickForGossip(config.gossipHosts, random, nowMs - config.gossipToTheDeadMs);
  for (const { host } of targets) {
    const updates = piggyback(turn);
    if (updates.length > 0) effects.push({ type: "send", to: host, message: { type: "gossip", updates } });
  }
  if (state.phase === "leaving" && state.own !== undefined && !state.queue.has(state.own)) {
    gone(turn);
    return;
  }
  // With nobody to tell it to it waits for the next member.
  if (state.queue.size === 0 || targets.length === 0) return;
  state.gossipArmed = true;
  setTimer(turn, "gossip", config.gossipIntervalMs);
}

function cut(timer: `relay:${number}` | `suspicion:${HostId}`): [kind: string, subject: string] {
  const at = timer.indexOf(":");
  return [timer.slice(0, at), timer.slice(at + 1)];
}
