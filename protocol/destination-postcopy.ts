/** The destination from `prepared` on: in doubt, then the domain's host, then synchronised. */

import {
  type Begun,
  type DestinationContext,
  type DestinationEffect,
  type DestinationEvent,
  type DestinationStep,
  type Order,
  type Phase,
  unexpected,
} from "./destination-state.ts";
import { PROTOCOL_VERSION } from "./limits.ts";
import type { DestinationMessage, PostCopyCounts } from "./messages.ts";

export function prepared(
  state: Phase<"prepared">,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationStep {
  if (event.type !== "received") return [state, []];
  const { begun } = state;
  const { message } = event;
  switch (message.type) {
    case "handover": {
      if (!isOurs(begun, message)) return unexpected(state, message);
      const { source } = context;
      return [
        { phase: "resuming", begun, isAttached: true, problem: undefined },
        [
          // Durable first: a host that forgot that it owns the domain would leave it running nowhere.
          { type: "persist", record: { phase: "owner", source, ...begun } },
          { type: "resume-domain", generation: message.generation },
        ],
      ];
    }
    case "begin":
      return rolledBack(state, message, context);
    case "abort": {
      if (message.migration !== begun.migration) return unexpected(state, message);
      const { migration } = begun;
      const { reason } = message;
      return [
        { phase: "aborted", migration, reason },
        [
          { type: "persist", record: { phase: "aborted", migration, reason } },
          { type: "discard-memory" },
          { type: "close-copies" },
          send({ type: "aborted", migration }),
          { type: "forget" },
        ],
      ];
    }
    default:
      return unexpected(state, message);
  }
}

/** The source lost the link before it passed its point of no return: it copies on, and prepares again. */
function rolledBack(
  state: Phase<"prepared">,
  message: Order<"begin">,
  { source, session }: DestinationContext,
): DestinationStep {
  const { begun, reception } = state;
  if (message.migration !== begun.migration) return unexpected(state, message);
  if (reception === undefined) {
    // We were restarted meanwhile: what arrived is on the disk, but no counter of it is left. Look anew.
    const { migration, domain, generation } = begun;
    const reason = "the destination was restarted while it was prepared";
    return [
      { phase: "examining", begun },
      [
        { type: "persist", record: { phase: "aborted", migration, reason } },
        { type: "discard-memory" },
        { type: "close-copies" },
        { type: "examine", domain, generation },
      ],
    ];
  }
  const { copies, memory } = reception;
  return [
    { phase: "receiving", reception },
    [
      { type: "persist", record: { phase: "receiving", source, ...begun } },
      send({ type: "accept", version: PROTOCOL_VERSION, session, copies, memoryTaken: memory?.taken ?? 0 }),
    ],
  ];
}

export function resuming(state: Phase<"resuming">, event: DestinationEvent): DestinationStep {
  switch (event.type) {
    case "domain-resumed": {
      const { begun, isAttached } = state;
      return [
        { phase: "post-copy", begun, isAttached, isFlushing: false },
        isAttached ? [{ type: "report-missing" }] : [],
      ];
    }
    case "failed":
      // Nobody may undo a handover: the domain stays suspended here, whole, and says why.
      return [{ ...state, problem: event.reason }, []];
    case "peer-lost":
      return [{ ...state, isAttached: false }, []];
    case "received":
      if (event.message.type === "handover" && isOurs(state.begun, event.message)) {
        return [{ ...state, isAttached: true }, []];
      }
      return unexpected(state, event.message);
    default:
      return [state, []];
  }
}

export function postCopy(
  state: Phase<"post-copy">,
  event: DestinationEvent,
  { source }: DestinationContext,
): DestinationStep {
  const { begun, isAttached } = state;
  switch (event.type) {
    case "need-blocks": {
      const { vbd, runs } = event;
      return [state, isAttached ? [send({ type: "pull", vbd, runs })] : []];
    }
    case "blocks-stored":
      return [state, isAttached ? [send({ type: "stored", ticket: event.ticket })] : []];
    case "missing":
      return [state, isAttached ? [send({ type: "resumed", missing: event.blocks })] : []];
    case "nothing-missing":
      if (state.isFlushing) return [state, []];
      return [{ ...state, isFlushing: true }, [{ type: "flush" }]];
    case "flushed": {
      const { counts } = event;
      return [
        { phase: "completed", begun, counts },
        [
          // Durable first: the source gives up its role as soon as it hears this.
          { type: "persist", record: { phase: "synchronised", source, ...begun, counts } },
          ...(isAttached ? [synchronised(counts)] : []),
        ],
      ];
    }
    case "failed":
      // A block could not be stored; it stays missing and is asked for again on the next session.
      return [{ ...state, isFlushing: false }, [{ type: "drop-link", reason: event.reason }]];
    case "peer-lost":
      return [{ ...state, isAttached: false }, []];
    case "received": {
      const { message } = event;
      if (message.type === "blocks" && message.purpose !== "precopy") {
        return [state, [{ type: "store-blocks", message }]];
      }
      // A source that lost the link hands over again: tell it what is still missing.
      if (message.type === "handover" && isOurs(begun, message)) {
        return [{ ...state, isAttached: true }, [{ type: "report-missing" }]];
      }
      return unexpected(state, message);
    }
    default:
      return [state, []];
  }
}

export function completed(state: Phase<"completed">, event: DestinationEvent): DestinationStep {
  if (event.type !== "received") return [state, []];
  const { message } = event;
  switch (message.type) {
    case "handover":
      // Our `synchronised` was lost with the link.
      if (!isOurs(state.begun, message)) return unexpected(state, message);
      return [state, [synchronised(state.counts)]];
    case "finished":
      return [state, [{ type: "forget" }]];
    case "blocks":
      // Late: the guest overwrote the last missing block while this one was on its way.
      return [state, [send({ type: "stored", ticket: message.ticket })]];
    default:
      return unexpected(state, message);
  }
}

function synchronised(counts: PostCopyCounts): DestinationEffect {
  return send({ type: "synchronised", counts });
}

function isOurs(begun: Begun, message: Order<"handover">): boolean {
  return message.migration === begun.migration && message.generation === begun.generation + 1;
}

function send(message: DestinationMessage): DestinationEffect {
  return { type: "send", message };
}
