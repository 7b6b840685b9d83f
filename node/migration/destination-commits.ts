/** What a record of the destination's machine changes in this host's metadata, in one durable batch. */

import type { DestinationRecord } from "../../protocol/destination.ts";
import { GenerationLog } from "../../protocol/generation-log.ts";
import type { DomainDescription } from "../../protocol/messages.ts";
import { blockCountOf } from "../../protocol/units.ts";
import type { Commit } from "../../storage/migration-journal.ts";
import type { DomainRecord, ReplicaRecord } from "../../storage/records.ts";
import { closeGeneration, storedEntries } from "../domains/stored-log.ts";
import type { PreparedState } from "./destination-driver.ts";

export type DestinationFacts = {
  self: string;
  nowMs: number;
  known: DomainRecord | undefined;
  ownReplica: ReplicaRecord | undefined;
  prepared: PreparedState | undefined;
};

export function destinationCommit(
  domainId: string,
  record: DestinationRecord,
  facts: DestinationFacts,
): Commit {
  const journal = { role: "destination", domain: domainId, record } as const;
  switch (record.phase) {
    case "receiving":
      return { journal, replicas: beingWritten(domainId, facts) };
    case "prepared":
      return { journal, ...prepared(record, facts) };
    case "owner":
      return {
        journal,
        domain: domainRecord(record.domain, record.generation + 1, facts, "running"),
        replicas: [noReplica(domainId, facts)],
      };
    default:
      return { journal };
  }
}

/** The copy is the domain itself now. Generation 0: no replica. */
function noReplica(domain: string, { self, nowMs }: DestinationFacts): ReplicaRecord {
  const reason = "the domain runs on it";
  return { domain, host: self, generation: 0, updatedAt: nowMs, state: "unknown", reason };
}

/** From now on the copy's label says only what it was. */
function beingWritten(domain: string, { self, nowMs, ownReplica }: DestinationFacts): ReplicaRecord[] {
  const reason = "a migration to this host was cut short";
  const generation = ownReplica?.generation ?? 0;
  return [
    { domain, host: self, generation, updatedAt: nowMs, dirtySince: nowMs, state: "receiving", reason },
  ];
}

/** The log travels with the domain: it is here, durably, before the source may forget anything. */
function prepared(
  { domain, generation, source }: Extract<DestinationRecord, { phase: "prepared" }>,
  { self, nowMs, prepared: state }: DestinationFacts,
): Commit {
  if (state === undefined) return {};
  const blockCounts = domain.vbds.map(({ sizeBytes }) => blockCountOf(sizeBytes));
  const log = GenerationLog.of(blockCounts, state.log, generation - 1);
  const notes = state.replicas.filter(({ host }) => host !== self && host !== source);
  const replicas = [...notes, { host: source, generation }];
  const closed = closeGeneration(log, {
    generation,
    written: state.written,
    replicas: replicas.map((note) => note.generation),
  });
  return {
    log: { domain: domain.id, entries: storedEntries(closed.entries) },
    replicas: replicas.map((note) => ({ domain: domain.id, ...note, updatedAt: nowMs })),
  };
}

function domainRecord(
  { id, name, hypervisor, memoryBytes, config, vbds }: DomainDescription,
  generation: number,
  { self, nowMs, known }: DestinationFacts,
  state: DomainRecord["state"],
): DomainRecord {
  const createdAt = known?.createdAt ?? nowMs;
  return {
    id,
    name,
    hypervisor,
    memoryBytes,
    config,
    vbds: vbds.map((vbd) => ({ name: vbd.name, sizeBytes: vbd.sizeBytes })),
    generation,
    owner: self,
    state,
    createdAt,
  };
}
