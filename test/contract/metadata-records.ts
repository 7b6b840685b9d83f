/** Records as the tests of the metadata store them: well-formed, each with the changes asked for. */
import type { JournalEntry } from "../../storage/journal-records.ts";
import type {
  DomainRecord,
  HistoryRecord,
  PlacementRecord,
  ReplicaRecord,
  VbdRecord,
} from "../../storage/records.ts";

export function domainRecord(changes: Partial<DomainRecord> = {}): DomainRecord {
  return {
    id: "3f2a-alpha",
    name: "web",
    hypervisor: "wasm",
    memoryBytes: 64 << 20,
    config: '{"seed":7}',
    vbds: [{ name: "root", sizeBytes: 1 << 30 }],
    generation: 1,
    owner: "host-a",
    state: "running",
    createdAt: 1_700_000_000_000,
    ...changes,
  };
}

export function vbdRecord(changes: Partial<VbdRecord> = {}): VbdRecord {
  return { domain: "d", name: "root", path: "/vbds/root", sizeBytes: 4096, exportToken: "t0k3n", ...changes };
}

export function replicaRecord(changes: Partial<ReplicaRecord> = {}): ReplicaRecord {
  return { domain: "d", host: "host-a", generation: 1, updatedAt: 5, ...changes };
}

export function placementRecord(changes: Partial<PlacementRecord> = {}): PlacementRecord {
  return {
    domain: "d",
    name: "web",
    host: "host-a",
    hostName: "a",
    generation: 2,
    state: "running",
    seq: 1,
    updatedAt: 9,
    from: "host-a",
    ...changes,
  };
}

export function historyRecord(changes: Partial<HistoryRecord> = {}): HistoryRecord {
  return {
    migration: "m",
    domain: "d",
    from: "host-a",
    to: "host-b",
    generation: 1,
    startedAt: 1,
    endedAt: 2,
    outcome: "done",
    figures: "{}",
    ...changes,
  };
}

export function sourceEntry(migration: string, phase: "begun" | "handed-over" = "begun"): JournalEntry {
  return { role: "source", domain: "d", record: { phase, migration, destination: "host-b", generation: 1 } };
}
