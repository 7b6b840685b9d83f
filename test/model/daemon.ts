/**
 * The host around the machines, as `node/migration` builds it: feeds them events, performs their effects in
 * order, changes the journal by the same commits, begins again from it. Between any two effects the host may die.
 */

import { destinationCommit } from "../../node/migration/destination-commits.ts";
import { sourceCommit } from "../../node/migration/source-commits.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { isBeforeHandover } from "../../protocol/source.ts";
import type { Commit } from "../../storage/migration-journal.ts";
import type { DomainRecord } from "../../storage/records.ts";
import { certified } from "./custody.ts";
import { performDestination } from "./destination-half.ts";
import { contextOf, DOMAIN_ID } from "./domain.ts";
import { performSource } from "./source-half.ts";
import {
  bitmapOf,
  cloned,
  type Daemon,
  type DestinationMachine,
  type Draft,
  type Host,
  type HostName,
  type Link,
  type Machine,
  type SourceMachine,
  Violation,
} from "./state.ts";

/** Of each step only the first effects happen; then its host dies. */
export type Cut = { effects: number; count: number };

/** An effect that failed: what the drivers' `failed` makes of it. */
export class EffectFailure extends Error {
  readonly code: string;
  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

export function machineOf(host: Host, migration: string): Machine | undefined {
  return host.daemon?.machines.find((machine) => machine.migration === migration);
}

/** Gives one event to a machine and performs what it asks for. `cut` stops it half-way. */
export function feed(
  draft: Draft,
  name: HostName,
  migration: string,
  event:
    | Parameters<Draft["parts"]["source"]["step"]>[1]
    | Parameters<Draft["parts"]["destination"]["step"]>[1],
  cut?: Cut,
): void {
  const machine = machineOf(draft.host(name), migration)!;
  let effects: readonly { type: string }[];
  machine.state = cloned(machine.state);
  try {
    if (machine.role === "source") {
      const step = draft.parts.source.step(machine.state, event as never, machine.context);
      machine.state = step[0];
      effects = step[1];
    } else {
      const step = draft.parts.destination.step(machine.state, event as never, machine.context);
      machine.state = step[0];
      effects = step[1];
    }
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw new Violation(`a step failed: ${String(error)}`);
    failed(draft, name, machine, error.code, cut);
    return;
  }
  perform(draft, name, migration, effects, cut);
}

/** The effects of a step, a start or a restore. */
export function perform(
  draft: Draft,
  name: HostName,
  migration: string,
  effects: readonly { type: string }[],
  cut?: Cut,
): void {
  const machine = machineOf(draft.host(name), migration)!;
  try {
    for (const effect of effects) {
      if (cut !== undefined && cut.count++ >= cut.effects) return;
      if (machine.role === "source") performSource(draft, name, machine, effect as never);
      else performDestination(draft, name, machine, effect as never);
    }
  } catch (error) {
    if (!(error instanceof EffectFailure)) throw error;
    failed(draft, name, machine, error.code, cut);
  }
}

/** As `#failed` of the two drivers. */
function failed(draft: Draft, name: HostName, machine: Machine, code: string, cut: Cut | undefined): void {
  const { migration } = machine;
  if (machine.role === "source") {
    if (isBeforeHandover(machine.state)) feed(draft, name, migration, { type: "failed", reason: code }, cut);
    return;
  } else if (!code.startsWith("PROTOCOL_")) {
    feed(draft, name, migration, { type: "failed", code, reason: code }, cut);
    return;
  }
  endSession(draft, machine.role, migration);
}

/** One side gives the session up. It hears no more of it; the other side finds out later. */
export function endSession(draft: Draft, role: Machine["role"], migration: string): void {
  const link = draft.link(migration);
  if (role === "source" ? !link.sourceIsUp : link.attached !== "now") return;
  breakLink(draft, link);
  if (role === "source") link.toSource = [];
  else link.toDestination = [];
}

/** Nothing is sent any more. What has been sent may still be heard, until its receiver notices. */
export function breakLink(draft: Draft, link: Link): void {
  if (link.isBroken) return;
  link.isBroken = true;
  link.toDestination = link.toDestination.map((item) => {
    return item.type === "lazy" ? readBlocks(draft.peek(link.source), item) : item;
  });
}

export function readBlocks(source: Host, item: Extract<Link["toDestination"][number], { type: "lazy" }>) {
  if (item.read !== undefined) return item;
  const { ticket, purpose, vbd, runs } = item.effect;
  const values = runs.flatMap(({ start, count }) => source.disk!.now.slice(start, start + count));
  return {
    ...item,
    read: { type: "blocks", ticket, purpose, vbd, runs, zeroes: [], data: Uint8Array.from(values) } as const,
  };
}

// The journal.

export function commit(host: Host, changes: Commit): void {
  const { journal } = host;
  if (changes.domain !== undefined) refuseLowered(journal.domain, changes.domain);
  const entries = { ...journal.entries };
  if (changes.journalRemoved !== undefined) delete entries[changes.journalRemoved];
  if (changes.journal !== undefined) entries[changes.journal.record.migration] = changes.journal;
  const replicas = new Map(journal.replicas.map((replica) => [replica.host, replica]));
  for (const replica of changes.replicas ?? []) replicas.set(replica.host, replica);
  host.journal = {
    domain: changes.domain ?? journal.domain,
    replicas: [...replicas.values()].toSorted((a, b) => (a.host < b.host ? -1 : 1)),
    entries: Object.fromEntries(Object.entries(entries).toSorted(([a], [b]) => (a < b ? -1 : 1))),
    log: changes.log?.entries ?? journal.log,
    custody: journal.custody,
  };
}

/** As the domain repository does. */
function refuseLowered(stored: DomainRecord | undefined, offered: DomainRecord): void {
  if (stored === undefined || offered.generation > stored.generation) return;
  if (offered.generation < stored.generation) throw new EffectFailure("METADATA_GENERATION_LOWERED");
  if (offered.owner !== stored.owner) throw new EffectFailure("METADATA_OWNER_CHANGED");
}

export function persistSource(
  draft: Draft,
  host: Host,
  machine: SourceMachine,
  record: Parameters<typeof sourceCommit>[0],
): void {
  const { context, written } = machine;
  const facts = { self: host.name, nowMs: 0, domain: host.journal.domain!, context };
  const blockCount = host.disk!.now.length;
  commit(host, sourceCommit(record, { ...facts, written: [bitmapOf(written, blockCount)] }));
  if (record.phase !== "handed-over") return;
  const generation = record.generation + 1;
  certified(draft, host, { kind: "handover", generation, from: host.name, to: record.destination });
}

export function persistDestination(
  host: Host,
  machine: DestinationMachine,
  record: Parameters<typeof destinationCommit>[1],
): void {
  const { domain, replicas } = host.journal;
  const ownReplica = replicas.find((replica) => replica.host === host.name);
  const facts = { self: host.name, nowMs: 0, known: domain, ownReplica, prepared: machine.prepared };
  commit(host, destinationCommit(DOMAIN_ID, record, facts));
}

// Life and death of the daemon.

/** The daemon dies; with `power` its host does, and its guest with it. `kept`: a mask of blocks whose last write survived. */
export function die(draft: Draft, name: HostName, { power }: { power: boolean }): void {
  const host = draft.host(name);
  for (const [migration, { source, destination }] of Object.entries(draft.links)) {
    if (source !== name && destination !== name) continue;
    const link = draft.link(migration);
    breakLink(draft, link);
    if (source === name) {
      link.sourceIsUp = false;
      link.toSource = [];
    } else {
      link.attached = "none";
      link.toDestination = [];
    }
  }
  host.daemon = undefined;
  if (host.presence !== undefined) host.presence = { ...host.presence, now: host.presence.durable };
  if (!power) return;
  if (host.disk !== undefined) host.disk = { ...host.disk, now: host.disk.durable };
  host.tracker = { ...host.tracker, isTrusted: false };
  host.guest = undefined;
  if (host.journal.domain?.owner !== name) return;
  // What the guest wrote here and had not flushed is lost, as in any crash of a host; what came to it is not.
  const newest = draft.truth.newest.map((value, block) => {
    return (host.tracker.written & (1 << block)) === 0 ? value : host.disk!.now[block]!;
  });
  draft.truth = { ...draft.truth, newest };
}

export function boot(draft: Draft, name: HostName): void {
  const host = draft.host(name);
  const daemon: Daemon = { exported: undefined, rounds: undefined, machines: [], recoveries: [] };
  ageSessions(draft, name);
  host.daemon = daemon;
  const { domain } = host.journal;
  const entries = Object.values(host.journal.entries);
  const isIncoming = entries.some(({ role, record }) => role === "destination" && record.phase === "owner");
  const mayOpen = draft.parts.daemon.exportsWithoutLooking === true || domain?.owner === name;
  if (domain !== undefined && mayOpen && !isIncoming) {
    if (host.guest !== undefined) daemon.exported = domain.generation;
    if (host.guest?.state === "suspended" && draft.parts.daemon.exportsWithoutLooking) {
      host.guest = { ...host.guest, state: "running" };
    }
    if (host.guest === undefined && domain.state === "running")
      commit(host, { domain: { ...domain, state: "crashed" } });
  }
  for (const entry of entries) {
    if (entry.role === "source") restoreSource(draft, host, entry.record);
    else restoreDestination(draft, host, entry.record);
  }
}

/**
 * A host's present session has its name and 0, and those before it 1, 2, …: nobody remembers more than he needs, and
 * worlds that differ in how often a host began are the same.
 */
function ageSessions(draft: Draft, name: HostName): void {
  for (const other of draft.hostNames) {
    for (const machine of draft.host(other).daemon?.machines ?? []) {
      if (machine.role === "source" && machine.peer === name) machine.state = aged(machine.state, name);
    }
  }
  for (const [migration, { destination }] of Object.entries(draft.links)) {
    if (destination !== name) continue;
    const link = draft.link(migration);
    link.toSource = link.toSource.map((message) => aged(message, name));
  }
}

function aged<T>(value: T, name: HostName): T {
  const copy = cloned(value);
  const walk = (item: unknown): void => {
    if (typeof item !== "object" || item === null || ArrayBuffer.isView(item)) return;
    const fields = item as Record<string, unknown>;
    for (const [key, field] of Object.entries(fields)) {
      if (key !== "session") walk(field);
      else if (typeof field === "string") fields[key] = `${name}${Number(field.slice(1)) + 1}`;
    }
  };
  walk(copy);
  return copy;
}

function restoreSource(
  draft: Draft,
  host: Host,
  record: Parameters<Draft["parts"]["source"]["restore"]>[0],
): void {
  const { domain } = host.journal;
  if (domain === undefined) return;
  const [state, effects] = draft.parts.source.restore(record);
  const context = contextOf(
    { ...domain, generation: record.generation },
    { migration: record.migration, destination: record.destination, log: host.journal.log, replicas: [] },
  );
  addMachine(host, {
    role: "source",
    migration: record.migration,
    peer: record.destination as HostName,
    context,
    state,
    pending: [],
    stream: undefined,
    written: 0,
  });
  perform(draft, host.name, record.migration, effects);
}

export function restoreDestination(
  draft: Draft,
  host: Host,
  record: Parameters<Draft["parts"]["destination"]["restore"]>[0],
): void {
  if (record.phase === "aborted") {
    commit(host, { journalRemoved: record.migration });
    return;
  }
  const [state, effects] = draft.parts.destination.restore(record, {
    isMemoryLost: host.guest?.state !== "suspended",
  });
  addMachine(host, destinationMachine(host, record.migration, record.source as HostName, state));
  perform(draft, host.name, record.migration, effects);
}

export function destinationMachine(
  host: Host,
  migration: string,
  source: HostName,
  state: DestinationMachine["state"],
): DestinationMachine {
  return {
    role: "destination",
    migration,
    peer: source,
    context: { source, session: `${host.name}0` },
    state,
    pending: [],
    incoming: undefined,
    isOpen: false,
    onlyBitmaps: false,
    prepared: undefined,
  };
}

export function addMachine(host: Host, machine: Machine): void {
  const daemon = host.daemon!;
  daemon.machines = [...daemon.machines.filter(({ migration }) => migration !== machine.migration), machine];
}

export function removeMachine(host: Host, migration: string): void {
  const daemon = host.daemon!;
  daemon.machines = daemon.machines.filter((machine) => machine.migration !== migration);
}
