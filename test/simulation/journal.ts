/** What a host durably knows: one synced batch at a time, all of it or nothing. */
import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { DestinationRecord } from "../../protocol/destination.ts";
import { GenerationLog, type GenerationLogEntry } from "../../protocol/generation-log.ts";
import type { ReplicaNote } from "../../protocol/messages.ts";
import type { SourceRecord } from "../../protocol/source.ts";
import type { Generation } from "../../protocol/units.ts";
import type { Process } from "./process.ts";

export type Prepared = {
  generation: Generation;
  log: readonly GenerationLogEntry[];
  replicas: readonly ReplicaNote[];
  written: readonly BlockBitmap[];
};

export type JournalEntry =
  | { role: "source"; peer: string; generation: Generation; record: SourceRecord }
  | { role: "destination"; peer: string; record: DestinationRecord };

export type JournalState = {
  readonly domain: { readonly generation: Generation; readonly owner: string } | undefined;
  /** What this host's images are. `live`: the domain's own. */
  readonly copy:
    | { kind: "none" }
    | { kind: "unknown"; reason: string }
    | { kind: "replica"; generation: Generation }
    | { kind: "live" };
  readonly log: readonly GenerationLogEntry[];
  readonly replicas: readonly ReplicaNote[];
  readonly entries: ReadonlyMap<string, JournalEntry>;
  readonly prepared: ReadonlyMap<string, Prepared>;
};

export class Journal {
  /** Of a hundred commits, how many fail. What a failed one wrote may be there or not. */
  readonly #failing: () => number;
  state: JournalState = {
    domain: undefined,
    copy: { kind: "none" },
    log: [],
    replicas: [],
    entries: new Map(),
    prepared: new Map(),
  };

  constructor(failing: () => number) {
    this.#failing = failing;
  }

  /** Durable when it resolves. `then` happens with it. */
  commit(
    process: Process,
    change: (state: JournalState) => JournalState,
    then: () => void = () => {},
  ): Promise<void> {
    return process.call(process.prng.between(0, 8), () => {
      const fails = process.prng.chance(this.#failing());
      if (fails && process.prng.chance(50)) throw new Error("the journal could not be written");
      this.state = change(this.state);
      then();
      if (fails) throw new Error("the journal was perhaps not written");
    });
  }

  /** A record that could not be removed would wait for the next start: nothing to learn from, so it never fails. */
  forget(process: Process, migration: string): Promise<void> {
    return process.call(process.prng.between(0, 8), () => {
      this.state = forgotten(this.state, migration);
    });
  }
}

export function sourcePersisted(
  state: JournalState,
  host: { peer: string; generation: Generation },
  record: SourceRecord,
): JournalState {
  const { peer, generation } = host;
  const entries = new Map(state.entries).set(record.migration, { role: "source", peer, generation, record });
  if (record.phase !== "handed-over") return { ...state, entries };
  return {
    ...state,
    entries,
    domain: { generation: generation + 1, owner: record.destination },
    copy: { kind: "replica", generation },
  };
}

export function destinationPersisted(
  state: JournalState,
  host: { self: string; peer: string; blockCounts: readonly number[] },
  record: DestinationRecord,
): JournalState {
  const { self, peer, blockCounts } = host;
  const { migration, phase } = record;
  const entries = new Map(state.entries).set(migration, { role: "destination", peer, record });
  switch (phase) {
    case "receiving":
      return { ...state, entries, copy: { kind: "unknown", reason: `${migration} was writing it` } };
    case "owner": {
      const { generation, log, replicas, written } = state.prepared.get(migration)!;
      const notes = replicas.filter(({ host }) => host !== self && host !== peer);
      const known = [...notes, { host: peer, generation }];
      const { entries: kept } = GenerationLog.of(blockCounts, log, generation - 1)
        .append({ first: generation, last: generation, written })
        .merge(known.map((note) => note.generation));
      return {
        ...state,
        entries,
        domain: { generation: generation + 1, owner: self },
        copy: { kind: "live" },
        log: kept,
        replicas: known,
      };
    }
    case "prepared":
    case "synchronised":
    case "aborted":
      return { ...state, entries };
  }
}

function forgotten(state: JournalState, migration: string): JournalState {
  const entries = new Map(state.entries);
  const prepared = new Map(state.prepared);
  entries.delete(migration);
  prepared.delete(migration);
  return { ...state, entries, prepared };
}
