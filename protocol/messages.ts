/**
 * Every message of a migration, as decoded values. PROTOCOL.md §3 says who sends which, and when; `wire.ts`
 * gives each its octets. Bitmaps travel run-length coded and arrive here decoded and range-checked.
 *
 * A session is one main stream and, from the memory stage on, one memory stream on a connection of its
 * own. Order holds within a stream, not between the two: `memory-ended` names the memory stream's length.
 */

import type { BlockBitmap } from "./block-bitmap.ts";
import type { GenerationLogEntry } from "./generation-log.ts";
import type { BlockRun, Generation } from "./units.ts";

export type MigrationId = string;
export type DomainId = string;
export type HostId = string;

/** Which vbd of the domain: its place in `begin.vbds`. */
export type VbdIndex = number;

export type VbdDescription = { name: string; sizeBytes: number };

/** What the destination needs to build the domain; `config` is the hypervisor adapter's own JSON. */
export type DomainDescription = {
  id: DomainId;
  name: string;
  hypervisor: string;
  memoryBytes: number;
  config: string;
  vbds: readonly VbdDescription[];
};

/** What a destination holds of one vbd before a migration. */
export type CopyAtDestination =
  /** A replica whose identity was checked: whole through `generation`. */
  | { kind: "replica"; generation: Generation }
  /** Bytes that nobody vouches for: a foreign write, a crash, an attempt that was cut short. */
  | { kind: "unknown"; reason: string }
  | { kind: "none" };

export type Rung = "bitmaps" | "hashes" | "allocated" | "everything";

/** The rung of the fallback ladder that was taken for one vbd, and why that one. */
export type RungChoice = { rung: Rung; reason: string };

export type HashLevel = "region" | "block";

/** Another host's replica, as the generation log's owner knows it. Travels with the domain. */
export type ReplicaNote = { host: HostId; generation: Generation };

/** `push` and `pull` belong to post-copy; `precopy` is everything before the freeze. */
export type BlocksPurpose = "precopy" | "push" | "pull";

export type PostCopyCounts = { pushed: number; pulled: number; superseded: number; late: number };

export type SourceMessage =
  /** Opens or re-opens a migration before the handover. A repeat with a known `migration` rolls back to pre-copy. */
  | {
      type: "begin";
      version: number;
      migration: MigrationId;
      generation: Generation;
      domain: DomainDescription;
      /** What the vbds occupy at the source: a destination without copies needs so much space. */
      dataBytes: number;
    }
  /** Which rung each vbd takes: the destination makes its copies ready and answers nothing. */
  | { type: "ladder"; choices: readonly RungChoice[] }
  /** Asks for digests of the destination's copy: `count` regions or blocks from `start`. */
  | { type: "ask-hashes"; vbd: VbdIndex; level: HashLevel; start: number; count: number }
  /**
   * Contents of `runs`, one after the other in `data` (the last block of a vbd may be short), and
   * `zeroes`: blocks that are all zero, for which no bytes travel.
   */
  | {
      type: "blocks";
      ticket: number;
      purpose: BlocksPurpose;
      vbd: VbdIndex;
      runs: readonly BlockRun[];
      zeroes: readonly BlockRun[];
      data: Uint8Array;
    }
  /** A memory stream begins: the destination makes the hypervisor ready to take it. A new `attempt` discards the old. */
  | { type: "memory-begin"; attempt: number }
  /** First message on a memory stream's connection: what follows belongs to `attempt` and starts at `offset`. */
  | { type: "memory-open"; migration: MigrationId; attempt: number; offset: number }
  /** Part of the hypervisor's own stream, on the memory stream. */
  | { type: "memory"; offset: number; data: Uint8Array }
  /** Closed generations, shipped before the freeze so that the downtime does not pay for them. */
  | { type: "log"; entries: readonly GenerationLogEntry[]; replicas: readonly ReplicaNote[] }
  /**
   * The domain is frozen: all that is needed to run generation + 1, except the missing blocks and the memory's
   * tail, which is on its way.
   * `written` is the source's last generation, `missing` what the destination has not received.
   */
  | {
      type: "prepare";
      attempt: number;
      written: readonly BlockBitmap[];
      missing: readonly BlockBitmap[];
    }
  /** After `prepare`: the memory stream of `attempt` is whole, and so long since its begin. */
  | { type: "memory-ended"; attempt: number; memoryBytes: number }
  /** The point of no return is durable here: the destination runs the domain under `generation`. */
  | { type: "handover"; migration: MigrationId; generation: Generation }
  /** This migration is over and the domain stays at the source. Only before the handover. */
  | { type: "abort"; migration: MigrationId; reason: string }
  /** The source knows that nothing is missing any more. */
  | { type: "finished"; migration: MigrationId };

export type DestinationMessage =
  /**
   * `session` names the destination's volatile state: another one than before means that its daemon was
   * restarted and that blocks which it had acknowledged may be lost. `memoryTaken` as in `memory-taken`.
   */
  | {
      type: "accept";
      version: number;
      session: string;
      copies: readonly CopyAtDestination[];
      memoryTaken: number;
    }
  /** Nothing was changed here. `code` is one of the CLI's documented refusals. */
  | { type: "refuse"; code: string; reason: string }
  | { type: "hashes"; vbd: VbdIndex; level: HashLevel; start: number; digests: Uint8Array }
  /** The blocks of `ticket` were written here, or were late and dropped. */
  | { type: "stored"; ticket: number }
  | { type: "memory-ready"; attempt: number }
  /** The hypervisor has taken the memory stream up to `offset`; the source may forget those bytes. */
  | { type: "memory-taken"; offset: number }
  /** Everything in `prepare` is durable, the memory is loaded, the domain waits suspended. */
  | { type: "prepared" }
  /** The domain runs here. Answers every `handover`, also a repeated one: then `missing` is what still is. */
  | { type: "resumed"; missing: readonly BlockBitmap[] }
  /** A guest read waits for these. */
  | { type: "pull"; vbd: VbdIndex; runs: readonly BlockRun[] }
  /** Nothing is missing and everything is durable: the source is no longer needed. */
  | { type: "synchronised"; counts: PostCopyCounts }
  /** The destination cannot go on before the handover (disk full, memory stream refused). */
  | { type: "failed"; code: string; reason: string }
  /** Answers `abort` and `finished`, and `handover` of a migration that this host does not know. */
  | { type: "aborted"; migration: MigrationId };

export type Message = SourceMessage | DestinationMessage;
