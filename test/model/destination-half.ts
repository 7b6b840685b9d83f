/** What the destination's driver does for its machine, on the model's disk, guest and journal. */

import type { DestinationEffect, DestinationEvent } from "../../protocol/destination.ts";
import type { CopyAtDestination } from "../../protocol/messages.ts";
import {
  type Cut,
  commit,
  EffectFailure,
  endSession,
  feed,
  machineOf,
  persistDestination,
} from "./daemon.ts";
import {
  bitmapOf,
  type DestinationJob,
  type DestinationMachine,
  type Draft,
  type Host,
  type HostName,
  maskOf,
  Violation,
} from "./state.ts";

export function performDestination(
  draft: Draft,
  name: HostName,
  machine: DestinationMachine,
  effect: DestinationEffect,
): void {
  const host = draft.host(name);
  switch (effect.type) {
    case "send": {
      const link = draft.link(machine.migration);
      if (link.attached !== "now" || link.isBroken) return;
      link.toSource = [...link.toSource, effect.message];
      return;
    }
    case "examine":
    case "digest":
    case "store-blocks":
    case "begin-memory":
    case "load":
    case "make-durable":
    case "resume-domain":
    case "flush":
      machine.pending = [...machine.pending, { job: effect }];
      return;
    case "open-copies": {
      const blank = draft.truth.newest.map(() => 0);
      if (host.disk === undefined || host.disk.isAside)
        host.disk = { now: blank, durable: blank, isAside: false };
      machine.isOpen = true;
      machine.onlyBitmaps = effect.choices.every(({ rung }) => rung === "bitmaps");
      return;
    }
    case "close-copies":
      closeCopies(host, machine);
      return;
    case "discard-memory":
      machine.incoming = undefined;
      if (host.guest?.state === "suspended" && isPromised(draft, host, machine)) {
        throw new Violation("a destination discards what it promised to keep, after the source handed over");
      }
      if (host.guest?.state !== "running") host.guest = undefined;
      return;
    case "persist":
      if (effect.record.phase === "owner") owning(draft, host, effect.record.generation + 1);
      persistDestination(host, machine, effect.record);
      if (effect.record.phase === "synchronised") host.presence = undefined;
      return;
    case "report-missing": {
      const blocks = [bitmapOf(host.presence?.now ?? 0, host.disk!.now.length)];
      machine.pending = [...machine.pending, { type: "missing", blocks }];
      return;
    }
    case "forget":
      commit(host, { journalRemoved: machine.migration });
      return;
    case "drop-link":
      endSession(draft, "destination", machine.migration);
      return;
  }
}

function isPromised(draft: Draft, host: Host, { migration, peer }: DestinationMachine): boolean {
  const entry = draft.peek(peer).journal.entries[migration];
  return entry?.record.phase === "handed-over" && host.journal.domain?.owner !== peer;
}

/** From this record on the domain may run here, so from here on the source's memory is worth nothing. */
function owning(draft: Draft, host: Host, generation: number): void {
  if (host.guest === undefined)
    throw new Violation("a host takes a domain over whose memory it does not have");
  draft.truth = { ...draft.truth, ran: Math.max(draft.truth.ran, generation) };
}

/** A replica that was brought forward by bitmaps is still that replica. */
function closeCopies(host: Host, machine: DestinationMachine): void {
  const { isOpen, onlyBitmaps } = machine;
  machine.isOpen = false;
  if (isOpen) host.disk = { ...host.disk!, durable: host.disk!.now };
  const replica = host.journal.replicas.find((candidate) => candidate.host === host.name);
  if (replica === undefined) return;
  const state = isOpen && onlyBitmaps && replica.generation > 0 ? "whole" : "unknown";
  commit(host, {
    replicas: [{ domain: "d", host: host.name, generation: replica.generation, updatedAt: 0, state }],
  });
}

/** Work that was begun comes to its end. */
export function finishDestinationJob(
  draft: Draft,
  name: HostName,
  migration: string,
  index: number,
  cut?: Cut,
): void {
  const host = draft.host(name);
  const machine = machineOf(host, migration) as DestinationMachine;
  const entry = machine.pending[index]!;
  machine.pending = machine.pending.toSpliced(index, 1);
  if (!("job" in entry)) {
    feed(draft, name, migration, entry, cut);
    return;
  }
  let event: DestinationEvent;
  try {
    event = answerOf(draft, host, machine, entry.job);
  } catch (error) {
    if (!(error instanceof EffectFailure)) throw error;
    event = { type: "failed", code: error.code, reason: error.code };
  }
  feed(draft, name, migration, event, cut);
}

function answerOf(
  draft: Draft,
  host: Host,
  machine: DestinationMachine,
  job: DestinationJob,
): DestinationEvent {
  switch (job.type) {
    case "examine":
      return examine(draft, host, machine, job);
    case "digest": {
      const { level, start, count } = job;
      const disk = host.disk!.now;
      const digests = new Uint8Array(count * 16);
      for (let index = 0; index < count; index++) {
        if (level === "block") digests[index * 16] = disk[start + index]!;
        else digests.set(disk, index * 16);
      }
      return { ...job, type: "digests", digests };
    }
    case "store-blocks":
      return store(draft, host, machine, job);
    case "begin-memory":
      // A domain of this name is here already: remains of an earlier stay, which nobody has ended yet.
      if (host.guest !== undefined) throw new EffectFailure("HYPERVISOR_BUSY");
      host.guest = { state: "incoming", memory: -1 };
      startGeneration(host, machine);
      machine.incoming = job.attempt;
      return { type: "memory-ready", attempt: job.attempt };
    case "load":
      if (host.guest === undefined || host.guest.state === "running") throw new EffectFailure("HYPERVISOR");
      host.guest = { state: "suspended", memory: job.memoryBytes };
      return { type: "loaded", attempt: job.attempt };
    case "make-durable": {
      if (!machine.isOpen) throw new EffectFailure("NOT_OPEN");
      const { attempt, generation, log, replicas, written, missing } = job;
      machine.prepared = { generation, log, replicas, written };
      host.disk = { ...host.disk!, durable: host.disk!.now };
      const mask = maskOf(missing[0]!);
      host.presence = { generation: generation + 1, now: mask, durable: mask, from: machine.peer };
      startGeneration(host, machine);
      return { type: "durable", attempt };
    }
    case "resume-domain":
      return resume(draft, host, machine);
    case "flush":
      host.disk = { ...host.disk!, durable: host.disk!.now };
      if (host.presence !== undefined) host.presence = { ...host.presence, durable: host.presence.now };
      return { type: "flushed", counts: { pushed: 0, pulled: 0, superseded: 0, late: 0 } };
  }
}

function examine(
  draft: Draft,
  host: Host,
  machine: DestinationMachine,
  { generation }: Extract<DestinationJob, { type: "examine" }>,
): DestinationEvent {
  const { domain, replicas } = host.journal;
  const isForeign = domain?.generation === generation && domain.owner !== machine.peer;
  if (domain !== undefined && (isForeign || domain.generation > generation || domain.owner === host.name)) {
    return { type: "refused", code: "NOT_OWNER", reason: "" };
  }
  // Its way out of here is not over: what is left of it would be ended when it is back.
  const isLeaving = host.daemon!.machines.some(({ role, state }) => {
    return role === "source" && !["aborting", "aborted", "finishing", "completed"].includes(state.phase);
  });
  if (isLeaving && draft.parts.daemon.takesBackTooEarly !== true) {
    return { type: "refused", code: "MIGRATION_BUSY", reason: "" };
  }
  const replica = replicas.find((candidate) => candidate.host === host.name);
  let copy: CopyAtDestination = { kind: "none" };
  if (host.disk !== undefined && !host.disk.isAside) {
    copy =
      replica?.state === "whole"
        ? { kind: "replica", generation: replica.generation }
        : { kind: "unknown", reason: "" };
  }
  return { type: "examined", copies: [copy] };
}

function startGeneration(host: Host, machine: DestinationMachine): void {
  const { state } = machine;
  const generation =
    1 +
    ("begun" in state ? state.begun.generation : "reception" in state ? state.reception.begun.generation : 0);
  if (host.tracker.generation === generation && host.tracker.isTrusted) return;
  host.tracker = { generation, written: 0, isTrusted: true };
}

function store(
  draft: Draft,
  host: Host,
  machine: DestinationMachine,
  { message }: Extract<DestinationJob, { type: "store-blocks" }>,
): DestinationEvent {
  const isExported = host.daemon!.exported !== undefined;
  if (!isExported && !machine.isOpen) throw new EffectFailure("NOT_OPEN");
  const now = [...host.disk!.now];
  const blocks = message.runs.flatMap(({ start, count }) =>
    Array.from({ length: count }, (_, i) => start + i),
  );
  for (const [index, block] of blocks.entries()) {
    const isMissing = ((host.presence?.now ?? 0) & (1 << block)) !== 0;
    if (isExported && !isMissing && draft.parts.daemon.storesLateBlocks !== true) continue;
    now[block] = message.data[index]!;
    if (isExported) arrived(host, machine, block);
  }
  host.disk = { ...host.disk!, now };
  return { type: "blocks-stored", ticket: message.ticket };
}

/** A missing block is here, or was overwritten. Its mark is durable only with the next flush. */
export function arrived(host: Host, machine: DestinationMachine | undefined, block: number): void {
  const presence = host.presence;
  if (presence === undefined || (presence.now & (1 << block)) === 0) return;
  host.presence = { ...presence, now: presence.now & ~(1 << block) };
  if (host.presence.now !== 0 || machine === undefined) return;
  machine.pending = [...machine.pending, { type: "nothing-missing" }];
}

function resume(draft: Draft, host: Host, machine: DestinationMachine): DestinationEvent {
  const { domain } = host.journal;
  if (domain?.owner !== host.name) throw new EffectFailure("NOT_OWNER");
  machine.isOpen = false;
  machine.incoming = undefined;
  host.daemon!.exported = domain.generation;
  if (!host.tracker.isTrusted || host.tracker.generation !== domain.generation) {
    host.tracker = { generation: domain.generation, written: -1, isTrusted: false };
  }
  if (host.guest !== undefined && host.guest.state !== "running") {
    if (host.guest.state === "incoming") throw new Violation("a domain without memory is let run");
    host.guest = { ...host.guest, state: "running" };
    draft.truth = { ...draft.truth, ran: Math.max(draft.truth.ran, domain.generation) };
  }
  if ((host.presence?.now ?? 0) === 0) machine.pending = [...machine.pending, { type: "nothing-missing" }];
  return { type: "domain-resumed" };
}
