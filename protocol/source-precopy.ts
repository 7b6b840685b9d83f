/**
 * Pre-copy of the disk, then of the memory while the disk's rounds go on (paper §1.6: disk first, because it
 * takes minutes and the memory would be dirty again).
 *
 * A round: everything to be sent was sent and stored; collect what the guest wrote meanwhile; decide whether
 * another round is worth its bytes. In the memory stage each pass over memory starts one.
 */

import { type PrecopyVerdict, precopyPolicy } from "./precopy-policy.ts";
import { accepted, begin } from "./source-negotiation.ts";
import {
  type Answer,
  blockCountsOf,
  type Copying,
  fill,
  type Phase,
  type SourceContext,
  type SourceEffect,
  type SourceEvent,
  type SourceStep,
  type Trip,
  unexpected,
} from "./source-state.ts";

export function preCopy(state: Phase<"pre-copy">, event: SourceEvent, context: SourceContext): SourceStep {
  if (event.type !== "dirty") return copying(state, event, context);
  if (event.attempt !== state.trip.attempt) return [state, []];
  const { decision, effects } = endRound(state, event, context);
  state.trip.iteration += 1;
  if (decision !== "freeze" || state.link !== "up") return [state, [...effects, ...fillIfUp(state, context)]];
  return beginMemory(state, context);
}

function beginMemory({ attempt, trip, link }: Phase<"pre-copy">, context: SourceContext): SourceStep {
  const memory = { attempt, ready: false, converged: false };
  return [
    { phase: "memory-copy", link, attempt, trip, memory },
    [...askForMemory(attempt, context), ...fill(trip.sender, "precopy", context)],
  ];
}

/** Until `memory-ready` answers, a lost link may have taken both messages with it. */
function askForMemory(attempt: number, { log, replicas }: SourceContext): SourceEffect[] {
  return [
    // Closed generations go now, so that the downtime does not pay for them.
    { type: "send", message: { type: "log", entries: log.entries, replicas } },
    { type: "send", message: { type: "memory-begin", attempt } },
  ];
}

export function memoryCopy(
  state: Phase<"memory-copy">,
  event: SourceEvent,
  context: SourceContext,
): SourceStep {
  const { memory } = state;
  if (event.type === "memory-round") {
    if (event.attempt !== memory.attempt) return [state, []];
    const next = { ...state, memory: { ...memory, converged: event.converged } };
    return [next, isQuiet(next) ? collect(next.trip) : []];
  }
  if (event.type === "dirty") {
    if (event.attempt !== state.trip.attempt) return [state, []];
    const { decision, effects } = endRound(state, event, context);
    if (decision === "freeze" && memory.converged && isQuiet(state)) return freeze(state);
    // Also what is not worth another iteration: the link is there, and memory takes its time.
    return [state, [...effects, ...fillIfUp(state, context)]];
  }
  if (event.type === "received") {
    const { message } = event;
    if (message.type === "memory-taken") return [state, [{ type: "forget-memory", offset: message.offset }]];
    if (message.type === "memory-ready") {
      if (message.attempt !== memory.attempt || memory.ready) return [state, []];
      const ready = { ...state, memory: { ...memory, ready: true } };
      return [ready, [{ type: "begin-memory", attempt: memory.attempt }]];
    }
  }
  return copying(state, event, context);
}

/** What is left unsent stays in the sender: it is missing at the destination, and goes in post-copy. */
function freeze({ attempt, trip, memory }: Phase<"memory-copy">): SourceStep {
  return [
    { phase: "freezing", attempt, trip, memory, memoryBytes: undefined },
    [{ type: "freeze-domain", attempt }],
  ];
}

/** What both copying phases answer alike. */
function copying(state: Copying, event: SourceEvent, context: SourceContext): SourceStep {
  const { trip } = state;
  switch (event.type) {
    case "connected":
      return [{ ...state, link: "negotiating" }, [begin(context)]];
    case "peer-lost":
      trip.sender.takeBack();
      return [{ ...state, link: "down" }, []];
    case "fenced":
      // Answers a fence of a freeze that was undone: the round it took must not get lost.
      if (event.attempt < trip.attempt) return [state, []];
      trip.roundsOpen -= 1;
      trip.sender.add(event.dirty);
      return [state, goOn(state, context)];
    case "received": {
      const { message } = event;
      if (message.type === "accept") return acceptedAgain(state, message, context);
      if (message.type !== "stored" || !trip.sender.acknowledge(message.ticket)) {
        return unexpected(state, message);
      }
      return [state, goOn(state, context)];
    }
    default:
      return [state, []];
  }
}

function acceptedAgain(state: Copying, accept: Answer<"accept">, context: SourceContext): SourceStep {
  if (state.link !== "negotiating") return unexpected(state, accept);
  if (accept.session !== state.trip.session) {
    // Blocks that it had acknowledged may be lost with its volatile state: trust no counter.
    const [next, effects] = accepted(state.attempt + 1, accept, context);
    const cancel: SourceEffect[] = state.phase === "memory-copy" ? [{ type: "cancel-memory" }] : [];
    return [next, [...cancel, { type: "stop-tracking" }, ...effects]];
  }
  const up: Copying = { ...state, link: "up" };
  return [
    up,
    [
      // The link may have been lost before the first one arrived.
      { type: "send", message: { type: "ladder", choices: up.trip.choices } },
      ...(up.phase === "memory-copy" ? memoryAgain(up, accept, context) : []),
      ...goOn(up, context),
    ],
  ];
}

/** The hypervisor's stream goes on where the destination's hypervisor stopped taking it. */
function memoryAgain(
  { memory }: Phase<"memory-copy">,
  { memoryTaken }: Answer<"accept">,
  context: SourceContext,
): SourceEffect[] {
  const { attempt } = memory;
  if (!memory.ready) return askForMemory(attempt, context);
  return [
    // The last `memory-taken` may be lost: a window that stays full of taken bytes would stop the stream.
    { type: "forget-memory", offset: memoryTaken },
    { type: "resume-memory", attempt, offset: memoryTaken },
  ];
}

/** Sends more, or ends the round when all was stored. */
function goOn(state: Copying, context: SourceContext): SourceEffect[] {
  const effects = fillIfUp(state, context);
  if (effects.length > 0 || !isQuiet(state)) return effects;
  // Without this condition idle rounds would chase each other: a pass over memory starts the next.
  if (state.phase === "memory-copy" && !state.memory.converged) return [];
  return collect(state.trip);
}

function fillIfUp(state: Copying, context: SourceContext): SourceEffect[] {
  return state.link === "up" ? fill(state.trip.sender, "precopy", context) : [];
}

/** Nothing is on its way, and no round's answer either: only then may the domain freeze. */
function isQuiet({ link, trip }: Copying): boolean {
  return link === "up" && !trip.sender.hasInFlight && trip.roundsOpen === 0;
}

function collect(trip: Trip): SourceEffect[] {
  trip.roundsOpen += 1;
  return [{ type: "collect-dirty", attempt: trip.attempt }];
}

/** The first blocks of a trip, or its first round when there are none. */
export function startCopying(trip: Trip, context: SourceContext): SourceEffect[] {
  const effects = fill(trip.sender, "precopy", context);
  return effects.length > 0 ? effects : collect(trip);
}

/** Takes in a round; DESIGN §4's stop rules say whether another is worth its bytes. */
function endRound(
  { trip }: Copying,
  { blocks, atMs }: Extract<SourceEvent, { type: "dirty" }>,
  context: SourceContext,
): { decision: PrecopyVerdict["decision"]; effects: SourceEffect[] } {
  const { sender, deferred } = trip;
  trip.roundsOpen -= 1;
  const dirtiedBlocks = blocks.reduce((sum, bitmap) => sum + bitmap.population, 0);
  for (const [vbd, hot] of sender.hot(blocks).entries()) {
    deferred[vbd]!.union(hot);
    const rest = blocks[vbd]!.clone();
    rest.subtract(hot);
    sender.toSend[vbd]!.union(rest);
  }
  const verdict = precopyPolicy(
    {
      iteration: trip.iteration,
      dirtiedBlocks,
      sentBlocks: sender.sentBlocks - trip.sentBeforeRound,
      elapsedMs: atMs - trip.roundStartedAtMs,
      remainingBlocks: sender.remainingBlocks,
      totalSentBlocks: sender.sentBlocks,
      diskBlocks: blockCountsOf(context).reduce((sum, count) => sum + count, 0),
      writeShare: trip.writeShare,
    },
    context,
  );
  trip.roundStartedAtMs = atMs;
  trip.sentBeforeRound = sender.sentBlocks;
  const { decision } = verdict;
  if (decision !== "throttle") return { decision, effects: [] };
  trip.writeShare = verdict.share;
  return { decision, effects: [{ type: "throttle-writes", share: verdict.share }] };
}
