/**
 * The source from the freeze on: handover, post-copy, and the ways out.
 *
 * `preparing → handing-over` is the point of no return; DESIGN §4 rules 5 and 6.
 */

import type { BlockBitmap } from "./block-bitmap.ts";
import { BlockSender } from "./block-sender.ts";
import type { MigrationId, PostCopyCounts } from "./messages.ts";
import {
  type Answer,
  blockCountsOf,
  fill,
  type Link,
  type Phase,
  type SourceContext,
  type SourceEffect,
  type SourceEvent,
  type SourceState,
  type SourceStep,
  unexpected,
} from "./source-state.ts";

export function freezing(state: Phase<"freezing">, event: SourceEvent): SourceStep {
  const { trip, attempt } = state;
  switch (event.type) {
    case "domain-frozen":
      if (event.attempt !== attempt) return [state, []];
      // Not before: a domain that still runs would wait for its writes, and its freeze for the domain.
      trip.roundsOpen += 1;
      return [state, [{ type: "fence", attempt }]];
    case "memory-ended":
      if (event.attempt !== attempt) return [state, []];
      return [{ ...state, memoryBytes: event.memoryBytes }, []];
    case "fenced":
      // No freeze began while an earlier fence was unanswered, see `isQuiet`.
      if (event.attempt !== attempt) return [state, []];
      trip.roundsOpen -= 1;
      trip.sender.add(event.dirty);
      return prepare(state, event.written);
    case "received": {
      const { message } = event;
      if (message.type === "memory-taken") {
        return [state, [{ type: "forget-memory", offset: message.offset }]];
      }
      // Answers a `memory-begin` that was repeated after a lost link.
      if (message.type === "memory-ready") return [state, []];
      return unexpected(state, message);
    }
    case "peer-lost":
      return thaw(state);
    default:
      return [state, []];
  }
}

/**
 * The handover's first half: all but the missing blocks (paper §1.6, phase 2). The memory's tail may still be on its
 * way: the destination makes the vbds durable meanwhile.
 */
function prepare(state: Phase<"freezing">, written: readonly BlockBitmap[]): SourceStep {
  const { attempt, trip, memory, memoryBytes } = state;
  trip.sender.add(trip.deferred);
  for (const hot of trip.deferred) hot.clear();
  const missing = trip.sender.toSend.map((bitmap) => bitmap.clone());
  return [
    { phase: "preparing", attempt, trip, memory, isMemoryEnded: memoryBytes !== undefined },
    [
      { type: "send", message: { type: "prepare", attempt, written, missing } },
      ...(memoryBytes === undefined ? [] : [memoryEnded(attempt, memoryBytes)]),
    ],
  ];
}

function memoryEnded(attempt: number, memoryBytes: number): SourceEffect {
  return { type: "send", message: { type: "memory-ended", attempt, memoryBytes } };
}

export function preparing(state: Phase<"preparing">, event: SourceEvent, context: SourceContext): SourceStep {
  const { attempt } = state;
  switch (event.type) {
    case "memory-ended":
      if (event.attempt !== attempt) return [state, []];
      return [{ ...state, isMemoryEnded: true }, [memoryEnded(attempt, event.memoryBytes)]];
    case "received": {
      const { message } = event;
      if (message.type === "memory-taken") {
        return [state, [{ type: "forget-memory", offset: message.offset }]];
      }
      // Answers a `memory-begin` that was repeated after a lost link.
      if (message.type === "memory-ready") return [state, []];
      // Nobody can have loaded a memory that has not left yet.
      if (message.type !== "prepared" || !state.isMemoryEnded) return unexpected(state, message);
      return [{ phase: "handing-over", link: "up" }, persistAndHandOver(context)];
    }
    case "peer-lost":
      return thaw(state);
    default:
      return [state, []];
  }
}

/** The link broke while the domain was frozen for it. Nothing was handed over: the guest need not wait. */
function thaw({ attempt, trip, memory }: Phase<"freezing"> | Phase<"preparing">): SourceStep {
  return [
    {
      phase: "memory-copy",
      link: "down",
      attempt: attempt + 1,
      trip,
      memory: { ...memory, converged: false },
    },
    [{ type: "unfence" }, { type: "thaw-domain" }],
  ];
}

/** Durable first: a source that forgot it had handed over would run the domain a second time. */
function persistAndHandOver(context: SourceContext): SourceEffect[] {
  const { migration, destination, generation } = context;
  return [
    { type: "persist", record: { phase: "handed-over", migration, destination, generation } },
    handover(context),
  ];
}

function handover({ migration, generation }: SourceContext): SourceEffect {
  return { type: "send", message: { type: "handover", migration, generation: generation + 1 } };
}

export function handingOver(
  state: Phase<"handing-over">,
  event: SourceEvent,
  context: SourceContext,
): SourceStep {
  switch (event.type) {
    case "connected":
      // Durable again: the first time it may have failed, and nothing has been sent then.
      return [{ ...state, link: "up" }, persistAndHandOver(context)];
    case "peer-lost":
      return [{ ...state, link: "down" }, []];
    case "received": {
      const { message } = event;
      if (message.type === "resumed") return resumed(message.missing, context);
      // Its `resumed` was lost with a link, and the guest has overwritten what was missing.
      if (message.type === "synchronised")
        return synchronised(message, context, [{ type: "destroy-remains" }]);
      // It does not know what it had promised to keep. The domain stays frozen until an operator decides.
      if (message.type === "aborted") return [{ ...state, link: "down" }, []];
      if (message.type === "memory-taken") return [state, []];
      return unexpected(state, message);
    }
    default:
      return [state, []];
  }
}

function resumed(missing: readonly BlockBitmap[], context: SourceContext): SourceStep {
  const sender = new BlockSender(blockCountsOf(context), { hotSendsMax: 1 });
  sender.restart(missing);
  return [
    { phase: "post-copy", link: "up", sender },
    [{ type: "destroy-remains" }, ...fill(sender, "push", context)],
  ];
}

export function postCopy(state: Phase<"post-copy">, event: SourceEvent, context: SourceContext): SourceStep {
  const { sender } = state;
  switch (event.type) {
    case "connected":
      return [{ ...state, link: "up" }, [handover(context)]];
    case "peer-lost":
      // What was on its way is unknown: the destination says what it misses when it answers the next handover.
      return [{ ...state, link: "down" }, []];
    case "received": {
      const { message } = event;
      switch (message.type) {
        case "stored":
          // A ticket that is not on its way was stored after its link was lost; the block was asked for again.
          sender.acknowledge(message.ticket);
          return [state, fill(sender, "push", context)];
        case "pull":
          sender.hurry(message.vbd, message.runs);
          return [state, fill(sender, "push", context)];
        case "resumed":
          sender.restart(message.missing);
          return [state, fill(sender, "push", context)];
        case "synchronised":
          return synchronised(message, context, []);
        default:
          return unexpected(state, message);
      }
    }
    case "failed":
      // A block could not be read. The destination asks for it again on the next session.
      return [state, [{ type: "drop-link", reason: event.reason }]];
    default:
      return [state, []];
  }
}

function synchronised(
  { counts }: Answer<"synchronised">,
  context: SourceContext,
  effects: readonly SourceEffect[],
): SourceStep {
  const { generation } = context;
  return [
    { phase: "finishing", link: "up", counts },
    [...effects, { type: "keep-replica", generation }, ...finished(counts, context)],
  ];
}

/** Durable first: once it hears this, the destination no longer knows our `handover`. */
function finished(counts: PostCopyCounts, context: SourceContext): SourceEffect[] {
  const { migration, destination, generation } = context;
  return [
    { type: "persist", record: { phase: "completed", migration, destination, generation, counts } },
    { type: "send", message: { type: "finished", migration } },
  ];
}

/** Until it answers, the destination may still keep its record for our next `handover`. */
export function finishing(state: Phase<"finishing">, event: SourceEvent, context: SourceContext): SourceStep {
  switch (event.type) {
    case "connected":
      // Not the replica again: the domain may be on its way back already, and its blocks with it.
      return [{ ...state, link: "up" }, finished(state.counts, context)];
    case "peer-lost":
      return [{ ...state, link: "down" }, []];
    case "received":
      // Whatever else arrives was sent before the destination heard of it.
      if (event.message.type !== "aborted") return [state, []];
      return [{ phase: "completed", counts: state.counts }, [{ type: "forget" }]];
    default:
      return [state, []];
  }
}

/** Takes the domain back: it runs here before anything else is done. Only before the handover. */
export function abort(state: SourceState, reason: string, context: SourceContext): SourceStep {
  switch (state.phase) {
    case "negotiating":
      return abortWith([], state.link, context, reason);
    case "reconciling":
      return abortWith([{ type: "stop-tracking" }], "up", context, reason);
    case "pre-copy":
      return abortWith([{ type: "stop-tracking" }], state.link, context, reason);
    case "memory-copy":
      // It may be frozen still: a thaw may be what failed.
      return abortWith(
        [{ type: "unfreeze-domain" }, { type: "cancel-memory" }, { type: "stop-tracking" }],
        state.link,
        context,
        reason,
      );
    case "freezing":
    case "preparing": {
      const effects = ["unfence", "unfreeze-domain", "cancel-memory", "stop-tracking"] as const;
      return abortWith(
        effects.map((type) => ({ type })),
        "up",
        context,
        reason,
      );
    }
    default:
      return [state, []];
  }
}

export function abortWith(
  effects: readonly SourceEffect[],
  link: Link,
  context: Pick<SourceContext, "migration" | "destination" | "generation">,
  reason: string,
): SourceStep {
  const { migration, destination, generation } = context;
  const tell: SourceEffect[] = link === "down" ? [] : [tellAbort(migration, reason)];
  return [
    { phase: "aborting", link, reason },
    [
      ...effects,
      { type: "persist", record: { phase: "aborted", migration, destination, generation, reason } },
      ...tell,
    ],
  ];
}

function tellAbort(migration: MigrationId, reason: string): SourceEffect {
  return { type: "send", message: { type: "abort", migration, reason } };
}

export function aborting(state: Phase<"aborting">, event: SourceEvent, context: SourceContext): SourceStep {
  switch (event.type) {
    case "connected":
      return [{ ...state, link: "up" }, [tellAbort(context.migration, state.reason)]];
    case "peer-lost":
      return [{ ...state, link: "down" }, []];
    case "received": {
      // Whatever else arrives was sent before the destination heard of it; only this says that it forgets, too.
      if (event.message.type !== "aborted") return [state, []];
      return [{ phase: "aborted", reason: state.reason }, [{ type: "forget" }]];
    }
    default:
      return [state, []];
  }
}
