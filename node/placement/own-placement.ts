/** What this host says of a domain: made of its own journal's records. */

import { type Placement, type PlacementState, REPLICAS_MAX } from "../../protocol/placement.ts";
import type { DomainRecord, ReplicaRecord } from "../../storage/records.ts";

export type Word = Omit<Placement, "seq" | "timeMs">;

export type OwnPlacementParts = {
  self: string;
  hostName: string;
  /** Undefined for a domain that is no more. */
  record: DomainRecord | undefined;
  replicas: readonly ReplicaRecord[];
  /** Per generation of a replica: what would have to be sent there now; lacks what nobody can tell. */
  dirtyBlocks: ReadonlyMap<number, number>;
  /** What it said last. */
  known: Placement | undefined;
  /** Who claims the domain under a higher generation, and wrongly. */
  rival: Placement | undefined;
};

/** Undefined where this host has nothing to say. */
export function ownPlacement(parts: OwnPlacementParts): Word | undefined {
  const { self, hostName, record, replicas, dirtyBlocks, known, rival } = parts;
  if (record === undefined) {
    if (known === undefined) return undefined;
    const { seq: _, timeMs: __, disputes: ___, ...said } = known;
    return { ...said, state: "gone", memoryBytes: 0, vbds: [], replicas: [] };
  }
  const state = stateOf(record);
  if (state === undefined) return undefined;
  const { id, name, generation, memoryBytes, vbds } = record;
  return {
    domain: id,
    name,
    host: self,
    hostName,
    generation,
    state,
    memoryBytes,
    vbds: vbds.map((vbd) => ({ name: vbd.name, sizeBytes: vbd.sizeBytes })),
    replicas: replicas
      // Of what a host holds of an attempt that is under way nobody can say anything yet.
      .filter(
        (replica) => replica.host !== self && replica.generation > 0 && replica.generation <= generation,
      )
      .slice(0, REPLICAS_MAX)
      .map((replica) => ({
        host: replica.host,
        generation: replica.generation,
        atMs: Math.floor(replica.updatedAt),
        ...dirtyOf(dirtyBlocks.get(replica.generation)),
      })),
    ...(rival === undefined ? {} : { disputes: { host: rival.host, generation: rival.generation } }),
  };
}

function dirtyOf(dirtyBlocks: number | undefined): { dirtyBlocks?: number } {
  return dirtyBlocks === undefined ? {} : { dirtyBlocks };
}

/** Whether it would say nothing new. What a guest writes is news only each time that it has doubled. */
export function isSameWord(word: Word, known: Placement): boolean {
  const { seq: _, timeMs: __, ...said } = known;
  return canonical(coarse(word)) === canonical(coarse(said));
}

function coarse(word: Word): Word {
  const replicas = word.replicas.map(({ dirtyBlocks, ...replica }) => {
    return { ...replica, ...dirtyOf(dirtyBlocks && Math.ceil(Math.log2(dirtyBlocks + 1))) };
  });
  return { ...word, replicas };
}

function canonical(word: Word): string {
  return JSON.stringify(word, (_, value: unknown) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
}

function stateOf({ state }: DomainRecord): PlacementState | undefined {
  switch (state) {
    case "running":
    case "suspended":
    case "stopped":
    case "crashed":
      return state;
    // Not handed over yet, or elsewhere.
    case "prepared":
    case "away":
      return undefined;
  }
}
