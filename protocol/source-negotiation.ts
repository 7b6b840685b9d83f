/**
 * The source before its first block: what does the destination hold, and which rung of the ladder does
 * each vbd take?
 */

import { BlockBitmap } from "./block-bitmap.ts";
import { BlockSender } from "./block-sender.ts";
import { ProtocolError } from "./errors.ts";
import { HashDescent } from "./hash-descent.ts";
import { chooseRung, everythingBecause } from "./ladder.ts";
import { HASH_REGION_BLOCKS, PROTOCOL_VERSION } from "./limits.ts";
import type { VbdIndex } from "./messages.ts";
import { startCopying } from "./source-precopy.ts";
import {
  type Answer,
  blockCountsOf,
  type Phase,
  type SourceContext,
  type SourceEffect,
  type SourceEvent,
  type SourceStep,
  type Trip,
  unexpected,
} from "./source-state.ts";
import type { Generation } from "./units.ts";

/** Questions of the hash rung on their way at once, per vbd: hides the round trip, bounds the peer's work. */
const HASH_QUESTIONS_OPEN_MAX = 4;

export function negotiating(
  state: Phase<"negotiating">,
  event: SourceEvent,
  context: SourceContext,
): SourceStep {
  switch (event.type) {
    case "connected":
      return [{ ...state, link: "negotiating" }, [begin(context)]];
    case "peer-lost":
      return [{ ...state, link: "down" }, []];
    case "received":
      if (event.message.type !== "accept") return unexpected(state, event.message);
      return accepted(state.attempt, event.message, context);
    default:
      return [state, []];
  }
}

export function begin({ migration, generation, domain, dataBytes }: SourceContext): SourceEffect {
  return {
    type: "send",
    message: { type: "begin", version: PROTOCOL_VERSION, migration, generation, domain, dataBytes },
  };
}

/** A first accept, or one of a destination that lost its volatile state: find out anew what to send. */
export function accepted(attempt: number, accept: Answer<"accept">, context: SourceContext): SourceStep {
  if (accept.version !== PROTOCOL_VERSION) {
    throw new ProtocolError({
      code: "PROTOCOL_VERSION_MISMATCH",
      ours: PROTOCOL_VERSION,
      theirs: accept.version,
    });
  }
  if (accept.copies.length !== context.domain.vbds.length) {
    throw new ProtocolError({
      code: "PROTOCOL_BAD_FIELD",
      field: "accept.copies",
      reason: "not one per vbd",
    });
  }
  const { session, copies } = accept;
  return [
    {
      phase: "reconciling",
      attempt,
      session,
      copies,
      trip: undefined,
      scans: new Set(),
      descents: new Map(),
    },
    // Rounds are armed before the first block or digest is read: what is written later is seen.
    [{ type: "start-tracking", attempt }],
  ];
}

export function reconciling(
  state: Phase<"reconciling">,
  event: SourceEvent,
  context: SourceContext,
): SourceStep {
  const { attempt } = state;
  switch (event.type) {
    case "tracking":
      return event.attempt === attempt ? climb(state, event, context) : [state, []];
    case "allocated": {
      if (event.attempt !== attempt || state.trip === undefined) return [state, []];
      const scans = new Set(state.scans);
      scans.delete(event.vbd);
      return reconciled({ ...state, scans, trip: addAllocated(state.trip, event) }, [], context);
    }
    case "compared": {
      // An answer of before the link was lost compared our blocks before this climb's rounds were armed.
      if (event.attempt !== attempt) return [state, []];
      state.descents.get(event.vbd)?.compared(event.level, event.start, event.differing);
      return reconciled(state, ask(state.descents), context);
    }
    case "received": {
      const { message } = event;
      if (message.type !== "hashes") return unexpected(state, message);
      return [state, [compare(state, message)]];
    }
    case "peer-lost":
      // What was compared so far is quickly compared again; what is tracked stays tracked.
      return [{ phase: "negotiating", link: "down", attempt: attempt + 1 }, [{ type: "stop-tracking" }]];
    default:
      return [state, []];
  }
}

/** Chooses each vbd's rung of the ladder, and asks what that rung needs to know. */
function climb(
  state: Phase<"reconciling">,
  event: Extract<SourceEvent, { type: "tracking" }>,
  context: SourceContext,
): SourceStep {
  const blockCounts = blockCountsOf(context);
  const sender = new BlockSender(blockCounts, { hotSendsMax: context.hotSendsMax });
  const scans = new Set<VbdIndex>();
  const descents = new Map<VbdIndex, HashDescent>();
  const effects: SourceEffect[] = [];
  const sinceOf = sinceReplicas(context);
  const choices = state.copies.map((copy, vbd) => {
    const { written, untrusted } = event.vbds[vbd]!;
    const since = copy.kind === "replica" ? sinceOf(copy.generation)?.[vbd]?.clone() : undefined;
    since?.union(written);
    const doubt = untrusted ?? doubtOf(since);
    const choice = chooseRung({ copy, generation: context.generation, since, untrusted: doubt });
    if (choice.rung === "bitmaps") {
      sender.toSend[vbd]!.union(since!);
    } else if (choice.rung === "hashes") {
      descents.set(vbd, new HashDescent(blockCounts[vbd]!));
    } else {
      scans.add(vbd);
      effects.push({ type: "scan-allocated", attempt: state.attempt, vbd });
    }
    return choice;
  });
  const trip: Trip = {
    attempt: state.attempt,
    session: state.session,
    choices,
    sender,
    deferred: blockCounts.map((count) => new BlockBitmap(count)),
    roundsOpen: 0,
    iteration: 1,
    roundStartedAtMs: event.atMs,
    sentBeforeRound: 0,
    writeShare: 1,
  };
  effects.push({ type: "send", message: { type: "ladder", choices } }, ...ask(descents));
  return reconciled({ ...state, trip, scans, descents }, effects, context);
}

/** The closed generations after a replica's, one union per generation; undefined when the log does not reach back. */
function sinceReplicas(
  context: SourceContext,
): (generation: Generation) => readonly BlockBitmap[] | undefined {
  const known = new Map<Generation, readonly BlockBitmap[] | undefined>();
  return (generation) => {
    if (generation >= context.generation) return undefined;
    if (!known.has(generation)) known.set(generation, context.log.since(generation));
    return known.get(generation);
  };
}

/**
 * A generation whose tracker could not be trusted is closed with every block as written. Comparing then costs less
 * than sending, and where truly every block was written it costs little more.
 */
function doubtOf(since: BlockBitmap | undefined): string | undefined {
  // Less than a region is sent as quickly as it is compared.
  if (since === undefined || since.blockCount < HASH_REGION_BLOCKS) return undefined;
  return since.population === since.blockCount ? "every block counts as written" : undefined;
}

function addAllocated(trip: Trip, { vbd, blocks }: Extract<SourceEvent, { type: "allocated" }>): Trip {
  if (blocks !== undefined) {
    trip.sender.toSend[vbd]!.union(blocks);
    return trip;
  }
  trip.sender.toSend[vbd]!.addRange(0, trip.sender.blockCounts[vbd]!);
  return {
    ...trip,
    choices: trip.choices.with(vbd, everythingBecause("the store cannot tell holes from data")),
  };
}

function ask(descents: ReadonlyMap<VbdIndex, HashDescent>): SourceEffect[] {
  return [...descents].flatMap(([vbd, descent]) =>
    descent.ask(HASH_QUESTIONS_OPEN_MAX).map((question): SourceEffect => {
      return { type: "send", message: { type: "ask-hashes", vbd, ...question } };
    }),
  );
}

function compare(state: Phase<"reconciling">, message: Answer<"hashes">): SourceEffect {
  const { vbd, level, start, digests } = message;
  const question = state.descents.get(vbd)?.openQuestion(level, start);
  if (question === undefined) return unexpected(state, message);
  const { attempt } = state;
  return { type: "compare-digests", attempt, vbd, level, start, count: question.count, digests };
}

function reconciled(
  state: Phase<"reconciling">,
  effects: readonly SourceEffect[],
  context: SourceContext,
): SourceStep {
  const { trip, scans, descents, attempt } = state;
  if (trip === undefined || scans.size > 0) return [state, effects];
  if ([...descents.values()].some((descent) => !descent.isDone)) return [state, effects];
  for (const [vbd, descent] of descents) trip.sender.toSend[vbd]!.union(descent.differing);
  return [{ phase: "pre-copy", link: "up", attempt, trip }, [...effects, ...startCopying(trip, context)]];
}
