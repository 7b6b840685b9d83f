/**
 * The source's half of a three-phase migration (TPM) and of its incremental form (IM): PROTOCOL.md §4 to §6.
 *
 *   negotiating ─accept─▶ reconciling ─▶ pre-copy ─rest small─▶ memory-copy ─converged─▶ freezing
 *        ▲                    │              │                     ▲  │                    │ frozen, fenced
 *        └──────peer-lost─────┘              │                     │  │                    │
 *                                            │                     └──┼─peer-lost: thaw────┤
 *   aborting ◀──cancel, failed, refused──────┴────────────────────────┘                    ▼
 *      │ aborted                                                                       preparing
 *      ▼                                                                                   │ prepared
 *   aborted        finishing ◀─synchronised─ post-copy ◀─resumed─ handing-over ◀═══════════╝
 *                      │ aborted (it forgot, too)
 *                      ▼
 *                  completed
 *
 * The double arrow is the point of no return: `persist handed-over` precedes `send handover`. Before it the
 * source owns the domain and may always take it back; after it the destination may be running the domain,
 * so the source never runs it again, whatever happens to the link or to either daemon.
 *
 * A lost link before the handover keeps what arrived: pre-copy and the memory stream go on where they were
 * when the destination names the same session. A domain that was frozen runs again at once meanwhile.
 *
 * `step` does no I/O and reads no clock. It owns its bitmaps and mutates them in place; phases are replaced.
 * The driver performs the effects in order, and a `persist` is durable before the next effect begins.
 * Messages arrive decoded and range-checked; one that the phase does not allow is a `ProtocolError`.
 */

import { unreachable } from "./errors.ts";
import {
  abort,
  aborting,
  abortWith,
  finishing,
  freezing,
  handingOver,
  postCopy,
  preparing,
} from "./source-handover.ts";
import { negotiating, reconciling } from "./source-negotiation.ts";
import { memoryCopy, preCopy } from "./source-precopy.ts";
import type { SourceContext, SourceEvent, SourceRecord, SourceState, SourceStep } from "./source-state.ts";

export type * from "./source-state.ts";

export const initial: SourceState = { phase: "idle" };

/** The state and effects with which a source begins again from its journal after a restart. */
export function restore(record: SourceRecord): SourceStep {
  switch (record.phase) {
    case "begun":
      // The guest may have been frozen when the daemon died; nothing was handed over, so it runs on here.
      return abortWith(
        [{ type: "unfence" }, { type: "unfreeze-domain" }],
        "down",
        record,
        "the source was restarted",
      );
    case "handed-over":
      return [{ phase: "handing-over", link: "down" }, []];
    case "completed":
      return [{ phase: "finishing", link: "down", counts: record.counts }, []];
    case "aborted":
      return [{ phase: "aborting", link: "down", reason: record.reason }, []];
    default:
      return unreachable(record);
  }
}

/** Starts a migration: durable before anything is visible, so that a restart knows to tidy up. */
export function start(context: SourceContext): SourceStep {
  const { migration, destination, generation } = context;
  return [
    { phase: "negotiating", link: "down", attempt: 1 },
    [{ type: "persist", record: { phase: "begun", migration, destination, generation } }],
  ];
}

export function step(state: SourceState, event: SourceEvent, context: SourceContext): SourceStep {
  if (isBeforeHandover(state)) {
    if (event.type === "cancel") return abort(state, event.reason, context);
    if (event.type === "failed") return abort(state, event.reason, context);
    if (event.type === "received") {
      const { message } = event;
      if (message.type === "refuse" || message.type === "failed") {
        return abort(state, `${message.code}: ${message.reason}`, context);
      }
    }
  }
  switch (state.phase) {
    case "idle":
      return [state, []];
    case "negotiating":
      return negotiating(state, event, context);
    case "reconciling":
      return reconciling(state, event, context);
    case "pre-copy":
      return preCopy(state, event, context);
    case "memory-copy":
      return memoryCopy(state, event, context);
    case "freezing":
      return freezing(state, event);
    case "preparing":
      return preparing(state, event, context);
    case "handing-over":
      return handingOver(state, event, context);
    case "post-copy":
      return postCopy(state, event, context);
    case "aborting":
      return aborting(state, event, context);
    case "finishing":
      return finishing(state, event, context);
    case "completed":
    case "aborted":
      return [state, []];
    default:
      return unreachable(state);
  }
}

/** May the source still take the domain back? The point of no return, as a question. */
export function isBeforeHandover(state: SourceState): boolean {
  switch (state.phase) {
    case "idle":
    case "negotiating":
    case "reconciling":
    case "pre-copy":
    case "memory-copy":
    case "freezing":
    case "preparing":
      return true;
    case "handing-over":
    case "post-copy":
    case "finishing":
    case "completed":
    case "aborting":
    case "aborted":
      return false;
    default:
      return unreachable(state);
  }
}
