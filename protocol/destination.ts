/**
 * The destination's half of a three-phase migration: types of its state, events and effects. (Transitions follow.)
 */
import type { BlockBitmap } from "./block-bitmap.ts";
import type { GenerationLogEntry } from "./generation-log.ts";
import type {
  CopyAtDestination, DestinationMessage, DomainDescription, HashLevel, HostId, MigrationId, PostCopyCounts,
  ReplicaNote, RungChoice, SourceMessage, VbdIndex,
} from "./messages.ts";
import type { BlockRun, Generation } from "./units.ts";

export type DestinationContext = {
  /** The peer, as the network has proved it. */
  readonly source: HostId;
  /** New for every start of this host's volatile state; see `accept`. */
  readonly session: string;
};

export type DestinationEvent =
  | { type: "peer-lost" }
  | { type: "received"; message: SourceMessage }
  /** Answers `examine`: this host may take the domain, and this is what it holds already. */
  | { type: "examined"; copies: readonly CopyAtDestination[] }
  /** Answers `examine`: it may not, and nothing was changed. */
  | { type: "refused"; code: string; reason: string }
  /** Answers `digest`. */
  | { type: "digests"; vbd: VbdIndex; level: HashLevel; start: number; digests: Uint8Array }
  /** Answers `store-blocks`: written, or late and dropped. */
  | { type: "blocks-stored"; ticket: number }
  /** Answers `begin-memory`. */
  | { type: "memory-ready"; attempt: number }
  /** The hypervisor took the memory stream up to `offset`. */
  | { type: "memory-taken"; attempt: number; offset: number }
  /** Answers `load`: the hypervisor holds the whole state, suspended. */
  | { type: "loaded"; attempt: number }
  /** Answers `make-durable`. */
  | { type: "durable" }
  /** Answers `resume-domain`: it runs. `missing` is what guest reads would have to wait for. */
  | { type: "domain-resumed" }
  /** A guest read or a partial write waits for these missing blocks. */
  | { type: "need-blocks"; vbd: VbdIndex; runs: readonly BlockRun[] }
  /** The last missing block is here (or was overwritten). */
  | { type: "nothing-missing" }
  /** Answers `flush`: everything is durable, and the counts are final. */
  | { type: "flushed"; counts: PostCopyCounts }
  /** Answers `report-missing`. */
  | { type: "missing"; blocks: readonly BlockBitmap[] }
  /** An effect failed here; before the handover this ends the attempt. */
  | { type: "failed"; code: string; reason: string };

export type DestinationRecord =
  /** From here on the vbds' files are being written by `migration`: their old identity says nothing. */
  | { phase: "receiving"; migration: MigrationId; source: HostId; domain: DomainDescription; generation: Generation }
  /**
   * All of generation `generation` (the source's) is here except `missing`, which the stores keep durably.
   * Only the source knows whether the handover happened.
   */
  | {
      phase: "prepared";
      migration: MigrationId;
      source: HostId;
      domain: DomainDescription;
      generation: Generation;
    }
  /** The domain belongs to this host under `generation`. */
  | { phase: "owner"; migration: MigrationId; source: HostId; domain: DomainDescription; generation: Generation }
  | {
      phase: "synchronised";
      migration: MigrationId;
      source: HostId;
      domain: DomainDescription;
      generation: Generation;
      counts: PostCopyCounts;
    }
  | { phase: "aborted"; migration: MigrationId; reason: string };

export type DestinationEffect =
  | { type: "send"; message: DestinationMessage }
  /** May this host take the domain, and what does it hold of it? Changes nothing. */
  | { type: "examine"; domain: DomainDescription; generation: Generation }
  /** Reserve space, create what is not there, mark the copies as being written. After `persist receiving`. */
  | { type: "open-copies"; choices: readonly RungChoice[] }
  | { type: "digest"; vbd: VbdIndex; level: HashLevel; start: number; count: number }
  /** Write each block unless (in post-copy) it is no longer missing. */
  | { type: "store-blocks"; message: Extract<SourceMessage, { type: "blocks" }> }
  | { type: "begin-memory"; attempt: number }
  /** End the incoming guest; its memory is worth nothing any more. */
  | { type: "discard-memory" }
  /** Wait until the hypervisor has taken `memoryBytes` of the stream and holds the whole state. */
  | { type: "load"; attempt: number; memoryBytes: number }
  /** Flush the vbds; then write `missing`, the log with `written` as the bitmap of `generation`, durably. */
  | {
      type: "make-durable";
      generation: Generation;
      log: readonly GenerationLogEntry[];
      replicas: readonly ReplicaNote[];
      written: readonly BlockBitmap[];
      missing: readonly BlockBitmap[];
    }
  | { type: "persist"; record: DestinationRecord }
  /** Export the vbds to the domain under `generation`, tracking from the first write on, and let it run. */
  | { type: "resume-domain"; generation: Generation }
  | { type: "report-missing" }
  | { type: "flush" }
  /** Give back what `open-copies` reserved; the bytes that arrived stay, as a copy that nobody vouches for. */
  | { type: "close-copies" };
