/**
 * Whole states: to join, at every new connection, with a random member now and then, and with the dead.
 *
 *   A ──compare──▶ B   equal digests: nothing to do
 *   A ◀──state──── B   wants an answer
 *   A ───state───▶ B
 *
 * The exchange with the dead heals partitions: whoever lives gets to hear of its death, and refutes it.
 */

import { believe, reap } from "./beliefs.ts";
import { armExchange, compareWith, stateDigest } from "./claims.ts";
import { STATE_PART_SIZE_MAX } from "./limits.ts";
import type { Digest, HostId, MembershipMessage, Update } from "./messages.ts";
import { hostCount, setTimer, type Turn } from "./state.ts";
import { encodeUpdate } from "./wire.ts";

/** Above so many hosts an exchange gets rarer with each doubling, as it gets larger. */
const EXCHANGE_SCALE_HOSTS = 32;

export function join(turn: Turn, seeds: readonly HostId[]): void {
  const { state, context } = turn;
  state.seeds = seeds.filter((host) => host !== state.self).slice(0, context.config.seedsMax);
  for (const seed of state.seeds) sendState(turn, seed, { wantsAnswer: true });
  state.joinRetryMs = context.config.joinRetryMs;
  if (state.seeds.length > 0) setTimer(turn, "join", state.joinRetryMs);
}

export function joinTimer(turn: Turn): void {
  const { state, context } = turn;
  if (state.seeds.length === 0 || state.table.active.length > 0) return;
  for (const seed of state.seeds) sendState(turn, seed, { wantsAnswer: true });
  state.joinRetryMs = Math.min(2 * state.joinRetryMs, context.config.joinRetryMaxMs);
  setTimer(turn, "join", state.joinRetryMs);
}

export function exchangeTimer(turn: Turn): void {
  const { state, context } = turn;
  armExchange(turn, exchangeIntervalMs(turn));
  const [member] = state.table.pick(1, context.random, ({ update }) => update.status === "alive");
  if (member !== undefined) compareWith(turn, member.host);
}

/** All hosts together try about as many as are dead, so that none is forgotten and none is flooded. */
export function reconnectTimer(turn: Turn): void {
  const { state, context } = turn;
  setTimer(turn, "reconnect", context.config.reconnectIntervalMs);
  reap(turn);
  const dead = [...state.table.gone.values()].filter(({ update }) => update.status === "dead");
  if (dead.length === 0 || context.random() * hostCount(state) >= dead.length) return;
  compareWith(turn, dead[Math.floor(context.random() * dead.length)]!.host);
}

export function compare(turn: Turn, from: HostId, digest: Digest): void {
  const [high, low] = stateDigest(turn.state);
  if (digest[0] === high && digest[1] === low) return;
  if (mayAnswer(turn, from)) sendState(turn, from, { wantsAnswer: true });
}

export function receiveState(
  turn: Turn,
  from: HostId,
  message: Extract<MembershipMessage, { type: "state" }>,
): void {
  for (const update of message.updates) believe(turn, update, { peer: from, exchange: true });
  if (message.wantsAnswer && mayAnswer(turn, from)) sendState(turn, from, { wantsAnswer: false });
}

/** All members and this host, in parts that fit a message. */
function sendState({ state, effects }: Turn, to: HostId, { wantsAnswer }: { wantsAnswer: boolean }): void {
  let part: Update[] = [];
  let size = 0;
  const add = (update: Update): void => {
    const octets = encodeUpdate(update).length;
    if (size + octets > STATE_PART_SIZE_MAX) {
      effects.push({ type: "send", to, message: { type: "state", updates: part, wantsAnswer: false } });
      part = [];
      size = 0;
    }
    part.push(update);
    size += octets;
  };
  if (state.own !== undefined) add(state.own);
  for (const { update } of state.table.members()) add(update);
  effects.push({ type: "send", to, message: { type: "state", updates: part, wantsAnswer } });
}

/** A small question has a large answer: one for each peer in a while, and none for who is no member. */
function mayAnswer({ state, context }: Turn, peer: HostId): boolean {
  const member = state.table.get(peer);
  if (member === undefined) return false;
  if (context.nowMs - member.answeredAtMs < context.config.answerIntervalMs) return false;
  member.answeredAtMs = context.nowMs;
  return true;
}

function exchangeIntervalMs({ state, context }: Turn): number {
  const { exchangeIntervalMs: intervalMs } = context.config;
  const hosts = hostCount(state);
  if (hosts <= EXCHANGE_SCALE_HOSTS) return intervalMs;
  return intervalMs * (Math.ceil(Math.log2(hosts / EXCHANGE_SCALE_HOSTS)) + 1);
}
