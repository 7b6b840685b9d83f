/**
 * What people do, and what a host does when it hears of a higher generation: the model's form of `node/recovery`.
 * Every host asks the other, decides by the real `decide`, and carries out its own part only.
 */

import { closeGeneration, storedEntries } from "../../node/domains/stored-log.ts";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { CertificateKind } from "../../protocol/custody.ts";
import { GenerationLog } from "../../protocol/generation-log.ts";
import type { Decision, Testimony } from "../../protocol/recovery.ts";
import type { DomainRecord } from "../../storage/records.ts";
import { certified, doubted } from "./custody.ts";
import { commit, feed, removeMachine } from "./daemon.ts";
import { DOMAIN_ID, domainRecord } from "./domain.ts";
import { type Draft, type Host, type HostName, Violation } from "./state.ts";

export function testimonyOf(host: Host): Testimony {
  const { domain, entries, replicas } = host.journal;
  const own = replicas.find((replica) => replica.host === host.name);
  let outgoing: Testimony["outgoing"];
  let incoming: Testimony["incoming"];
  for (const { role, record } of Object.values(entries)) {
    if (role === "source") {
      const { migration, destination: peer, generation, phase } = record;
      if (outgoing === undefined || generation >= outgoing.generation)
        outgoing = { migration, peer, generation, phase };
    } else if (record.phase !== "aborted" && record.phase !== "synchronised") {
      const { migration, source: peer, generation, phase } = record;
      const missingBlocks =
        host.presence?.generation === generation + 1 ? countOf(host.presence.now) : undefined;
      incoming = { migration, peer, generation, phase, missingBlocks };
    }
  }
  return {
    host: host.name,
    claim: domain === undefined ? undefined : { owner: domain.owner, generation: domain.generation },
    guest: host.guest?.state ?? "none",
    isStopped: domain?.state === "stopped",
    outgoing,
    incoming,
    replica:
      own?.state === "whole" && own.generation > 0 && host.disk?.isAside === false
        ? own.generation
        : undefined,
  };
}

function countOf(mask: number): number {
  return [...mask.toString(2)].filter((digit) => digit === "1").length;
}

/** The operator says `recover` at a host, which asks the other one. */
export function ask(draft: Draft, name: HostName, other: HostName, turns: number): void {
  const host = draft.host(name);
  const theirs = testimonyOf(draft.peek(other));
  const daemon = host.daemon!;
  daemon.recoveries = [...daemon.recoveries, { asked: testimonyOf(host), theirs, turns }];
}

/** It acts on what it heard, which may be old by now. */
export function act(draft: Draft, name: HostName, index: number): void {
  const host = draft.host(name);
  const daemon = host.daemon!;
  const { asked, theirs, turns } = daemon.recoveries[index]!;
  daemon.recoveries = daemon.recoveries.toSpliced(index, 1);
  const { actsOnOldWord } = draft.parts.daemon;
  // The real one testifies anew, with the domain locked and its machines stopped.
  const mine = actsOnOldWord ? asked : testimonyOf(host);
  const other = theirs.host as HostName;
  const isOtherUp = draft.peek(other).daemon !== undefined;
  if (!draft.parts.isAbout(asked, mine)) {
    if (turns > 0 && isOtherUp) ask(draft, name, other, turns - 1);
    return;
  }
  const decision = draft.parts.decide({ mine, theirs });
  if (!("at" in decision)) return;
  if (decision.at === name) carryOut(draft, host, decision);
  if (turns > 0 && isOtherUp) ask(draft, other, name, turns - 1);
}

function carryOut(draft: Draft, host: Host, decision: Extract<Decision, { at: string }>): void {
  const { domain } = host.journal;
  switch (decision.do) {
    case "finish-handover":
      // The session is opened again anyway.
      return;
    case "roll-back": {
      const { migration } = decision;
      const machine = host.daemon!.machines.find((candidate) => candidate.migration === migration);
      if (machine?.role !== "destination") return;
      feed(draft, host.name, migration, {
        type: "received",
        message: { type: "abort", migration, reason: "recover" },
      });
      return;
    }
    case "renounce": {
      const { migration, owner, generation } = decision;
      forsake(host);
      if (host.guest?.state !== "running") host.guest = undefined;
      const base = domain ?? domainRecord({ owner, blockCount: draft.truth.newest.length });
      commit(host, {
        journalRemoved: migration,
        domain: { ...base, owner, generation, state: "away" },
      });
      return;
    }
    case "take-back": {
      const { generation, migration } = decision;
      forsake(host);
      const from = domain!.owner;
      own(draft, host, { ...domain!, generation }, { kind: "taken back", from, journalRemoved: migration });
      return;
    }
    case "let-go":
      forsake(host);
      host.daemon!.exported = undefined;
      if (host.guest?.state !== "running") host.guest = undefined;
      commit(host, { journalRemoved: decision.migration });
      return;
    case "resume":
    case "boot":
      // The machines' own: a migration that is under way runs the domain itself.
      if (host.daemon!.machines.some(isBusy)) return;
      run(draft, host, domain!);
      return;
    case "fence":
      if (doubted(draft, host, decision) === undefined) fence(draft, host, decision);
      return;
  }
}

function isBusy(machine: { role: string; state: { phase: string } }): boolean {
  const over =
    machine.role === "source"
      ? ["aborting", "aborted", "finishing", "completed"]
      : ["idle", "aborted", "completed", "post-copy"];
  return !over.includes(machine.state.phase);
}

/** The machines of the domain go, without a word to anybody. */
function forsake(host: Host): void {
  for (const { migration } of host.daemon!.machines) removeMachine(host, migration);
}

/** The record becomes this host's, durably, and the domain runs under its generation. */
function own(
  draft: Draft,
  host: Host,
  record: DomainRecord,
  { kind, from, ...changes }: { kind: CertificateKind; from: string; journalRemoved?: string },
): void {
  const blockCount = draft.truth.newest.length;
  const { generation } = record;
  if (host.journal.domain?.owner === host.name && host.journal.domain.generation >= generation) {
    throw new Violation(
      "a generation that is this host's already is begun anew, and what it wrote is forgotten",
    );
  }
  const domain: DomainRecord = { ...record, owner: host.name, state: "running" };
  host.tracker = { generation, written: 0, isTrusted: true };
  const empty = [new BlockBitmap(blockCount)];
  const entries = host.journal.log.map(({ first, last, written }) => {
    return { first, last, written: written.map((bytes) => BlockBitmap.decode(bytes, blockCount)) };
  });
  const latest = entries.at(-1)?.last;
  let log = GenerationLog.of([blockCount], entries, latest);
  // Generations that nobody has run wrote nothing.
  for (let closed = (latest ?? generation - 1) + 1; closed < generation; closed++) {
    log = closeGeneration(log, { generation: closed, written: empty, replicas: [] });
  }
  commit(host, {
    ...changes,
    domain,
    replicas: [{ domain: DOMAIN_ID, host: host.name, generation: 0, updatedAt: 0, state: "unknown" }],
    log: { domain: DOMAIN_ID, entries: storedEntries(log.entries) },
  });
  certified(draft, host, { kind, generation, from, to: host.name });
  run(draft, host, domain);
}

function run(draft: Draft, host: Host, domain: DomainRecord): void {
  const { generation } = domain;
  host.daemon!.exported = generation;
  if (!host.tracker.isTrusted || host.tracker.generation !== generation) {
    host.tracker = { generation, written: -1, isTrusted: false };
  }
  host.guest = { state: "running", memory: host.guest?.memory ?? draft.truth.memory };
  commit(host, { domain: { ...domain, state: "running" } });
  draft.truth = { ...draft.truth, ran: Math.max(draft.truth.ran, generation) };
}

/**
 * The operator's word that the other host is fenced, or that the side of this one is right and the rival's is not.
 * Whoever runs, the newest data is now what is here.
 */
export function adopt(draft: Draft, name: HostName, rival?: HostName): boolean {
  const host = draft.host(name);
  const mine = testimonyOf(host);
  const theirs = rival === undefined ? "unreachable" : testimonyOf(draft.peek(rival));
  const decision = draft.parts.decide({ mine, theirs });
  if (decision.do !== (rival === undefined ? "wait" : "conflict")) return false;
  if (!("adoption" in decision) || "refused" in decision.adoption) return false;
  const { generation } = decision.adoption;
  const entry = mine.outgoing ?? mine.incoming;
  forsake(host);
  if (host.guest?.state === "incoming") host.guest = undefined;
  const { newest, memory } = draft.truth;
  draft.truth = {
    ...draft.truth,
    newest: newest.map((_, block) => host.disk!.now[block]!),
    memory: host.guest?.memory ?? memory,
    adoptions: draft.truth.adoptions + 1,
    wordWasFalse: draft.hostNames.some((other) => other !== name && mayRun(draft.peek(other))),
  };
  const base = host.journal.domain ?? domainRecord({ owner: name, blockCount: newest.length });
  const raised = draft.parts.daemon.adoptsWithoutRaising ? base.generation : generation;
  // The metadata would refuse the other owner of a known generation.
  if (raised !== generation) host.journal = { ...host.journal, domain: undefined };
  const from = mine.claim?.owner ?? entry?.peer ?? name;
  const removed = entry === undefined ? {} : { journalRemoved: entry.migration };
  own(draft, host, { ...base, generation: raised }, { kind: "adopted", from, ...removed });
  return true;
}

/** It runs the domain, or its journal lets it do so as soon as it is up. */
function mayRun({ name, guest, journal }: Host): boolean {
  return guest !== undefined || journal.domain?.owner === name;
}

/** A host hears that the domain is another's under a higher generation than its own. */
export function learn(draft: Draft, name: HostName, from: HostName): boolean {
  const claim = draft.peek(from).journal.domain;
  const { domain } = draft.peek(name).journal;
  if (draft.parts.daemon.neverFences || claim?.owner !== from || domain === undefined) return false;
  if (domain.generation >= claim.generation || domain.owner !== name) return false;
  if (doubted(draft, draft.peek(name), claim) !== undefined) return false;
  fence(draft, draft.host(name), claim);
  return true;
}

/** Its vbds are kept aside: nothing that it wrote is deleted, and nothing of it is sent to anybody. */
function fence(
  _draft: Draft,
  host: Host,
  { owner, generation }: { owner: string; generation: number },
): void {
  forsake(host);
  host.daemon!.exported = undefined;
  host.guest = undefined;
  const entries = Object.keys(host.journal.entries);
  commit(host, { domain: { ...host.journal.domain!, owner, generation, state: "away" } });
  for (const migration of entries) commit(host, { journalRemoved: migration });
  const replica = {
    domain: DOMAIN_ID,
    host: host.name,
    generation: 0,
    updatedAt: 0,
    state: "unknown",
  } as const;
  commit(host, { replicas: [replica] });
  if (host.disk !== undefined) host.disk = { ...host.disk, isAside: true };
  host.presence = undefined;
}
