/**
 * The destination's half of a three-phase migration, paper §1.6.
 *
 *   idle ─begin─▶ examining ─examined─▶ receiving ─prepare─▶ loading ─durable, loaded─▶ prepared
 *                     │ refused             ▲ │                 │                         ║ handover
 *                     ▼                     │ │ abort, failed   │ begin (rolled back)     ║ persist owner
 *                  aborted ◀────────────────┼─┴─────────────────┤                         ▼
 *                     ▲                     └───────────────────┴──── prepared        resuming
 *                     └─abort (the source says so) ─────────────────────┘                 │ domain-resumed
 *                                                                                         ▼
 *                                          completed ◀─flushed─ (flushing) ◀─nothing── post-copy
 *                                                                            missing
 *
 * Only the source decides. A destination that is `prepared` is in doubt: it neither runs the domain nor
 * forgets it, across lost links and restarts, until the source says `handover` or `abort`. From `owner`
 * on this host alone runs the domain, and its copy of a block is the newest as soon as the guest writes it.
 *
 * A lost link changes nothing here but who may speak: the source opens every session.
 */

import { accept, attach, completed, postCopy, prepared, resuming } from "./destination-postcopy.ts";
import {
  type Begun,
  type DestinationContext,
  type DestinationEffect,
  type DestinationEvent,
  type DestinationRecord,
  type DestinationState,
  type DestinationStep,
  type Order,
  type Phase,
  type Reception,
  unexpected,
} from "./destination-state.ts";
import { ProtocolError, unreachable } from "./errors.ts";
import { PROTOCOL_VERSION } from "./limits.ts";
import type { DestinationMessage, SourceMessage } from "./messages.ts";

export type * from "./destination-state.ts";

export const initial: DestinationState = { phase: "idle" };

/**
 * The state and effects with which a destination begins again from its journal after a restart. `isMemoryLost`:
 * the incoming domain is gone, as it is when the host lost power.
 */
export function restore(
  record: DestinationRecord,
  { isMemoryLost = false }: { isMemoryLost?: boolean } = {},
): DestinationStep {
  switch (record.phase) {
    case "receiving":
      // Volatile state is lost: the copies stay as bytes that nobody vouches for, the hash rung's matter.
      // A source that is still there begins again, and is told of a new session.
      return [{ phase: "idle" }, FORGOTTEN];
    case "prepared":
      // The promise cannot be kept. Whoever says `handover` hears that nothing is known of it, and keeps the
      // memory, which is still there: `recover` gives the domain back.
      if (isMemoryLost) return [{ phase: "idle" }, FORGOTTEN];
      return [{ phase: "prepared", begun: begunOf(record), reception: undefined }, []];
    case "owner":
      return [
        {
          phase: "resuming",
          begun: begunOf(record),
          isAttached: false,
          isNothingMissing: false,
          problem: undefined,
        },
        [{ type: "resume-domain", generation: record.generation + 1 }],
      ];
    case "synchronised":
      return [{ phase: "completed", begun: begunOf(record), counts: record.counts }, []];
    case "aborted":
      return [{ phase: "aborted", migration: record.migration, reason: record.reason }, []];
    default:
      return unreachable(record);
  }
}

const FORGOTTEN: readonly DestinationEffect[] = [
  { type: "discard-memory" },
  { type: "close-copies" },
  { type: "forget" },
];

/** Nothing but this: a `phase` in it would get into the next record. */
function begunOf({ migration, generation, domain }: Begun): Begun {
  return { migration, generation, domain };
}

export function step(
  state: DestinationState,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationStep {
  switch (state.phase) {
    case "idle":
      return idle(state, event);
    case "examining":
      return examining(state, event, context);
    case "receiving":
      return receiving(state, event, context);
    case "loading":
      return loading(state, event, context);
    case "prepared":
      return prepared(state, event, context);
    case "resuming":
      return resuming(state, event, context);
    case "post-copy":
      return postCopy(state, event, context);
    case "completed":
      return completed(state, event, context);
    case "aborted":
      return aborted(state, event);
    default:
      return unreachable(state);
  }
}

function idle(state: Phase<"idle">, event: DestinationEvent): DestinationStep {
  if (event.type !== "received") return [state, []];
  const { message } = event;
  // Asked about a migration that left no trace here: it never came to `prepared`, or it was undone.
  // Or it is over, and the source did not hear that we know.
  if (message.type === "abort" || message.type === "handover" || message.type === "finished") {
    return [state, [send({ type: "aborted", migration: message.migration })]];
  }
  if (message.type !== "begin") return unexpected(state, message);
  if (message.version !== PROTOCOL_VERSION) {
    throw new ProtocolError({
      code: "PROTOCOL_VERSION_MISMATCH",
      ours: PROTOCOL_VERSION,
      theirs: message.version,
    });
  }
  const { migration, generation, domain } = message;
  return [
    { phase: "examining", begun: { migration, generation, domain }, isAttached: true },
    [{ type: "examine", domain, generation }],
  ];
}

function examining(
  state: Phase<"examining">,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationStep {
  switch (event.type) {
    case "examined": {
      const { begun, isAttached } = state;
      const reception: Reception = {
        begun,
        link: isAttached ? "up" : "lost",
        answersOpen: 0,
        copies: event.copies,
        isOpen: false,
        memory: undefined,
        log: [],
        replicas: [],
        isPromised: false,
      };
      return [{ phase: "receiving", reception }, isAttached ? [accept(reception, context)] : []];
    }
    case "refused": {
      const { code, reason } = event;
      return [
        { phase: "aborted", migration: state.begun.migration, reason },
        [send({ type: "refuse", code, reason })],
      ];
    }
    case "failed": {
      const { code, reason } = event;
      return [
        { phase: "aborted", migration: state.begun.migration, reason },
        [send({ type: "failed", code, reason })],
      ];
    }
    case "peer-lost":
      return [{ ...state, isAttached: false }, []];
    case "received": {
      const { message } = event;
      if (message.type === "abort" && message.migration === state.begun.migration) {
        return abort(state.begun, message.reason, []);
      }
      // The link was lost before we could answer: the answer is on its way.
      if (message.type === "begin" && isSame(state.begun, message)) {
        return [{ ...state, isAttached: true }, []];
      }
      return unexpected(state, message);
    }
    default:
      return [state, []];
  }
}

function receiving(
  state: Phase<"receiving">,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationStep {
  const { reception } = state;
  switch (event.type) {
    case "received":
      return order(state, event.message, context);
    case "peer-lost":
      return [{ phase: "receiving", reception: { ...reception, link: "lost" } }, []];
    case "digests": {
      const { vbd, level, start, digests } = event;
      return answered(reception, [send({ type: "hashes", vbd, level, start, digests })], context);
    }
    case "blocks-stored":
      return answered(reception, [send({ type: "stored", ticket: event.ticket })], context);
    case "durable":
      // Of a `prepare` whose link was lost.
      return answered(reception, [], context);
    case "memory-ready": {
      const { attempt } = event;
      if (attempt !== reception.memory?.attempt) return [state, []];
      const memory = { ...reception.memory, isReady: true };
      return [
        { phase: "receiving", reception: { ...reception, memory } },
        reception.link === "up" ? [send({ type: "memory-ready", attempt })] : [],
      ];
    }
    case "memory-taken":
      return memoryTaken(state, event);
    case "failed":
      return failed(reception, event);
    default:
      return [state, []];
  }
}

/** The last answer of an earlier session makes room for this one; one of this session goes out. */
function answered(
  reception: Reception,
  effects: readonly DestinationEffect[],
  context: DestinationContext,
): DestinationStep {
  const next = { ...reception, answersOpen: reception.answersOpen - 1 };
  if (next.link === "draining") return attach(next, context);
  return [{ phase: "receiving", reception: next }, next.link === "up" ? effects : []];
}

function order(
  state: Phase<"receiving">,
  message: SourceMessage,
  context: DestinationContext,
): DestinationStep {
  const { reception } = state;
  const { begun, isOpen } = reception;
  if (message.type === "begin" && isSame(begun, message)) return attach(reception, context);
  if (message.type === "abort" && message.migration === begun.migration) {
    return abort(begun, message.reason, tidy(reception));
  }
  if (reception.link !== "up") return unexpected(state, message);
  switch (message.type) {
    case "ladder": {
      if (message.choices.length !== begun.domain.vbds.length) return unexpected(state, message);
      // Once, also when a source that distrusts our acknowledgements climbs the ladder again.
      if (isOpen) return [state, []];
      const { source } = context;
      return [
        { phase: "receiving", reception: { ...reception, isOpen: true } },
        [
          { type: "persist", record: { phase: "receiving", source, ...begun } },
          { type: "open-copies", choices: message.choices },
        ],
      ];
    }
    case "ask-hashes": {
      if (!isOpen) return unexpected(state, message);
      const { vbd, level, start, count } = message;
      return [asked(reception), [{ type: "digest", vbd, level, start, count }]];
    }
    case "blocks":
      if (!isOpen || message.purpose !== "precopy") return unexpected(state, message);
      return [asked(reception), [{ type: "store-blocks", message }]];
    case "log": {
      const { entries } = message;
      const last = entries[entries.length - 1]?.last ?? begun.generation - 1;
      if (last !== begun.generation - 1) {
        const reason = `it ends at generation ${last}, and generation ${begun.generation} is the source's`;
        throw new ProtocolError({ code: "PROTOCOL_BAD_FIELD", field: "log.entries", reason });
      }
      return [
        {
          phase: "receiving",
          reception: { ...reception, log: entries, replicas: message.replicas },
        },
        [],
      ];
    }
    case "memory-begin":
      return memoryBegin(reception, message);
    case "prepare":
      return prepare(state, message);
    default:
      return unexpected(state, message);
  }
}

function asked(reception: Reception): Phase<"receiving"> {
  return { phase: "receiving", reception: { ...reception, answersOpen: reception.answersOpen + 1 } };
}

function memoryBegin(reception: Reception, { attempt }: Order<"memory-begin">): DestinationStep {
  const { memory } = reception;
  if (memory?.attempt === attempt) {
    // Asked again after a lost link: making ready once more would leave two answers with one number.
    return [
      { phase: "receiving", reception },
      memory.isReady ? [send({ type: "memory-ready", attempt })] : [],
    ];
  }
  const discard: DestinationEffect[] = memory === undefined ? [] : [{ type: "discard-memory" }];
  return [
    { phase: "receiving", reception: { ...reception, memory: { attempt, taken: 0, isReady: false } } },
    [...discard, { type: "begin-memory", attempt }],
  ];
}

/** The hypervisor took more: the source may forget those bytes, and a reconnect begins there. */
function memoryTaken<State extends Phase<"receiving"> | Phase<"loading">>(
  state: State,
  { attempt, offset }: Extract<DestinationEvent, { type: "memory-taken" }>,
): DestinationStep {
  const { reception } = state;
  if (attempt !== reception.memory?.attempt || offset <= reception.memory.taken) return [state, []];
  const memory = { ...reception.memory, taken: offset };
  return [
    { ...state, reception: { ...reception, memory } },
    reception.link === "up" ? [send({ type: "memory-taken", offset })] : [],
  ];
}

function prepare(state: Phase<"receiving">, message: Order<"prepare">): DestinationStep {
  const { reception } = state;
  const { begun, log, replicas, memory, isOpen } = reception;
  // A source that prepares has our answer to everything it sent.
  if (!isOpen || memory === undefined || reception.answersOpen > 0) return unexpected(state, message);
  const { attempt, written, missing } = message;
  return [
    { ...asked(reception), phase: "loading", attempt, load: "tail is coming", isDurable: false },
    [{ type: "make-durable", attempt, generation: begun.generation, log, replicas, written, missing }],
  ];
}

function loading(
  state: Phase<"loading">,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationStep {
  const { reception } = state;
  switch (event.type) {
    case "loaded":
      if (event.attempt !== state.attempt) return [state, []];
      return vote({ ...state, load: "done" });
    case "durable":
      return promise(state, context);
    case "memory-taken":
      return memoryTaken(state, event);
    case "failed":
      return failed(reception, event);
    case "peer-lost":
      // The source thaws the domain and copies on: without our `prepared` it cannot hand over.
      return [{ phase: "receiving", reception: { ...reception, link: "lost" } }, []];
    case "received": {
      const { message } = event;
      if (message.type === "memory-ended") return load(state, message);
      if (message.type !== "abort" || message.migration !== reception.begun.migration) {
        return unexpected(state, message);
      }
      return abort(reception.begun, message.reason, tidy(reception));
    }
    default:
      return [state, []];
  }
}

function load(state: Phase<"loading">, message: Order<"memory-ended">): DestinationStep {
  const { attempt, memoryBytes } = message;
  if (attempt !== state.attempt || state.load !== "tail is coming") return unexpected(state, message);
  return [{ ...state, load: "begun" }, [{ type: "load", attempt, memoryBytes }]];
}

/** The journal has the promise before the memory is whole, so that the frozen guest does not wait for both. */
function promise(state: Phase<"loading">, { source }: DestinationContext): DestinationStep {
  const { reception } = state;
  const { begun, answersOpen } = reception;
  const next = { ...reception, answersOpen: answersOpen - 1, isPromised: true };
  const [voted, effects] = vote({ ...state, reception: next, isDurable: true });
  return [voted, [{ type: "persist", record: { phase: "prepared", source, ...begun } }, ...effects]];
}

/** Durable first: the source passes its point of no return because of this promise. */
function vote(state: Phase<"loading">): DestinationStep {
  const { reception } = state;
  if (state.load !== "done" || !state.isDurable) return [state, []];
  return [{ phase: "prepared", begun: reception.begun, reception }, [send({ type: "prepared" })]];
}

/** This host cannot go on. Nothing was handed over: the domain goes on at the source. */
function failed(
  reception: Reception,
  { code, reason }: Extract<DestinationEvent, { type: "failed" }>,
): DestinationStep {
  const { migration } = reception.begun;
  return [
    { phase: "aborted", migration, reason },
    [
      ...tidy(reception),
      { type: "persist", record: { phase: "aborted", migration, reason } },
      send({ type: "failed", code, reason }),
    ],
  ];
}

function abort({ migration }: Begun, reason: string, effects: readonly DestinationEffect[]): DestinationStep {
  return [
    { phase: "aborted", migration, reason },
    [
      ...effects,
      { type: "persist", record: { phase: "aborted", migration, reason } },
      // Before the answer: with it the source forgets, and nobody asks again.
      { type: "forget" },
      send({ type: "aborted", migration }),
    ],
  ];
}

function tidy({ memory, isOpen }: Reception): DestinationEffect[] {
  const effects: DestinationEffect[] = memory === undefined ? [] : [{ type: "discard-memory" }];
  return isOpen ? [...effects, { type: "close-copies" }] : effects;
}

/** A source that aborts may not know that we did so before. */
function aborted(state: Phase<"aborted">, event: DestinationEvent): DestinationStep {
  // The record could not be written, so `failed` was not sent: the source asks again when it begins anew.
  if (event.type === "failed") return [state, [{ type: "drop-link", reason: event.reason }]];
  if (event.type !== "received") return [state, []];
  const { message } = event;
  if (message.type === "abort" || message.type === "handover") {
    return [state, [{ type: "forget" }, send({ type: "aborted", migration: message.migration })]];
  }
  if (message.type === "begin") {
    const { reason } = state;
    return [state, [send({ type: "failed", code: "MIGRATION_ABORTED", reason })]];
  }
  // Sent before the source heard of it.
  return [state, []];
}

function isSame({ migration, generation }: Begun, message: Order<"begin">): boolean {
  return migration === message.migration && generation === message.generation;
}

function send(message: DestinationMessage): DestinationEffect {
  return { type: "send", message };
}
