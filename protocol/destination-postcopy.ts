/** The destination from `prepared` on: in doubt, then the domain's host, then synchronised. */

import {
  type Begun,
  type DestinationContext,
  type DestinationEffect,
  type DestinationEvent,
  type DestinationStep,
  type Order,
  type Phase,
  type Reception,
  unexpected,
} from "./destination-state.ts";
import { PROTOCOL_VERSION } from "./limits.ts";
import type { DestinationMessage, PostCopyCounts } from "./messages.ts";

export function prepared(
  state: Phase<"prepared">,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationStep {
  const { begun, reception } = state;
  if (event.type === "peer-lost" && reception !== undefined) {
    return [{ ...state, reception: { ...reception, link: "lost" } }, []];
  }
  // The promise could not be made durable, or what was loaded is lost: without an answer the source thaws.
  if (event.type === "failed") return [state, [{ type: "drop-link", reason: event.reason }]];
  if (event.type !== "received") return [state, []];
  const { message } = event;
  switch (message.type) {
    case "handover": {
      if (!isOurs(begun, message)) return unexpected(state, message);
      return [
        { phase: "resuming", begun, isAttached: true, isNothingMissing: false, problem: undefined },
        resume(begun, context),
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
          // Then durable: an attempt that the journal calls aborted has nothing left to tidy up.
          { type: "discard-memory" },
          { type: "close-copies" },
          { type: "persist", record: { phase: "aborted", migration, reason } },
          { type: "forget" },
          send({ type: "aborted", migration }),
        ],
      ];
    }
    default:
      return unexpected(state, message);
  }
}

function resume(begun: Begun, { source }: DestinationContext): DestinationEffect[] {
  return [
    // Durable first: a host that forgot that it owns the domain would leave it running nowhere.
    { type: "persist", record: { phase: "owner", source, ...begun } },
    { type: "resume-domain", generation: begun.generation + 1 },
  ];
}

/** The source lost the link before it passed its point of no return: it copies on, and prepares again. */
function rolledBack(
  state: Phase<"prepared">,
  message: Order<"begin">,
  context: DestinationContext,
): DestinationStep {
  const { begun, reception } = state;
  if (message.migration !== begun.migration) return unexpected(state, message);
  if (reception === undefined) {
    // We were restarted meanwhile: what arrived is on the disk, but no counter of it is left. Look anew.
    const { migration, domain, generation } = begun;
    const reason = "the destination was restarted while it was prepared";
    return [
      { phase: "examining", begun, isAttached: true },
      [
        { type: "discard-memory" },
        { type: "close-copies" },
        { type: "persist", record: { phase: "aborted", migration, reason } },
        { type: "examine", domain, generation },
      ],
    ];
  }
  return attach(reception, context);
}

/** The source begins a session. It is accepted once nothing of an earlier one is on its way. */
export function attach(reception: Reception, context: DestinationContext): DestinationStep {
  if (reception.answersOpen > 0) {
    return [{ phase: "receiving", reception: { ...reception, link: "draining" } }, []];
  }
  const next: Reception = { ...reception, link: "up", isPromised: false };
  const record = { phase: "receiving", source: context.source, ...reception.begun } as const;
  // Or an operator could adopt what the next blocks are written over.
  const takeBack: DestinationEffect[] = reception.isPromised ? [{ type: "persist", record }] : [];
  return [{ phase: "receiving", reception: next }, [...takeBack, accept(next, context)]];
}

export function accept({ copies, memory }: Reception, { session }: DestinationContext): DestinationEffect {
  return send({
    type: "accept",
    version: PROTOCOL_VERSION,
    session,
    copies,
    memoryTaken: memory?.taken ?? 0,
  });
}

export function resuming(
  state: Phase<"resuming">,
  event: DestinationEvent,
  context: DestinationContext,
): DestinationStep {
  const { begun } = state;
  switch (event.type) {
    case "domain-resumed": {
      const { isAttached, isNothingMissing } = state;
      return [
        {
          phase: "post-copy",
          begun,
          link: isAttached ? "reporting" : "lost",
          pulls: [],
          isFlushing: isNothingMissing,
        },
        [
          ...(isAttached ? [{ type: "report-missing" } as const] : []),
          ...(isNothingMissing ? [{ type: "flush" } as const] : []),
        ],
      ];
    }
    case "nothing-missing":
      // The domain ran before we heard that it does.
      return [{ ...state, isNothingMissing: true }, []];
    case "failed":
      // Nobody may undo a handover: the domain stays suspended here, whole, and says why. The source's next
      // session tries again; the driver waits longer before each.
      return [{ ...state, problem: event.reason }, [{ type: "drop-link", reason: event.reason }]];
    case "peer-lost":
      return [{ ...state, isAttached: false }, []];
    case "received": {
      if (event.message.type !== "handover" || !isOurs(begun, event.message)) {
        return unexpected(state, event.message);
      }
      if (state.problem === undefined) return [{ ...state, isAttached: true }, []];
      // A session later, what was in the way may be gone: of the domain, or of the record.
      return [{ ...state, isAttached: true, problem: undefined }, resume(begun, context)];
    }
    default:
      return [state, []];
  }
}

export function postCopy(
  state: Phase<"post-copy">,
  event: DestinationEvent,
  { source }: DestinationContext,
): DestinationStep {
  const { begun, link } = state;
  switch (event.type) {
    case "need-blocks": {
      const { vbd, runs } = event;
      // A pull that overtook `resumed` would reach a source that does not know yet that the domain runs here.
      if (link === "reporting") return [{ ...state, pulls: [...state.pulls, { vbd, runs }] }, []];
      return [state, link === "up" ? [send({ type: "pull", vbd, runs })] : []];
    }
    case "blocks-stored":
      return [state, link === "up" ? [send({ type: "stored", ticket: event.ticket })] : []];
    case "missing":
      return reported(state, event);
    case "nothing-missing":
      return flush(state, []);
    case "flushed": {
      const { counts } = event;
      return [
        { phase: "completed", begun, counts },
        [
          // Durable first: the source gives up its role as soon as it hears this.
          { type: "persist", record: { phase: "synchronised", source, ...begun, counts } },
          ...(link === "lost" ? [] : [synchronised(counts)]),
        ],
      ];
    }
    case "failed":
      // A block could not be stored; it stays missing and is asked for again on the next session.
      return [{ ...state, isFlushing: false }, [{ type: "drop-link", reason: event.reason }]];
    case "peer-lost":
      return [{ ...state, link: "lost", pulls: [] }, []];
    case "received": {
      const { message } = event;
      if (message.type === "blocks" && message.purpose !== "precopy") {
        return [state, [{ type: "store-blocks", message }]];
      }
      // A source that lost the link hands over again: tell it what is still missing.
      if (message.type === "handover" && isOurs(begun, message)) {
        return [{ ...state, link: "reporting", pulls: [] }, [{ type: "report-missing" }]];
      }
      return unexpected(state, message);
    }
    default:
      return [state, []];
  }
}

function reported(
  state: Phase<"post-copy">,
  { blocks }: Extract<DestinationEvent, { type: "missing" }>,
): DestinationStep {
  // An answer to an earlier session's handover serves this one's, too: less is missing by now, never more.
  if (state.link !== "reporting") return [state, []];
  const effects = [
    send({ type: "resumed", missing: blocks }),
    ...state.pulls.map((pull) => send({ type: "pull", ...pull })),
  ];
  const next: Phase<"post-copy"> = { ...state, link: "up", pulls: [] };
  // A flush that failed is tried again by the next session.
  return blocks.every(({ population }) => population === 0) ? flush(next, effects) : [next, effects];
}

function flush(state: Phase<"post-copy">, effects: readonly DestinationEffect[]): DestinationStep {
  if (state.isFlushing) return [state, effects];
  return [{ ...state, isFlushing: true }, [...effects, { type: "flush" }]];
}

export function completed(
  state: Phase<"completed">,
  event: DestinationEvent,
  { source }: DestinationContext,
): DestinationStep {
  const { begun, counts } = state;
  if (event.type === "failed") return [state, [{ type: "drop-link", reason: event.reason }]];
  if (event.type !== "received") return [state, []];
  const { message } = event;
  switch (message.type) {
    case "handover":
      // Our `synchronised` was lost with the link, or could not be made durable.
      if (!isOurs(begun, message)) return unexpected(state, message);
      return [
        state,
        [
          { type: "persist", record: { phase: "synchronised", source, ...begun, counts } },
          synchronised(counts),
        ],
      ];
    case "finished": {
      const { migration } = begun;
      if (message.migration !== migration) return unexpected(state, message);
      return [state, [{ type: "forget" }, send({ type: "aborted", migration })]];
    }
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
