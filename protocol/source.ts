/**
 * The source's half of a three-phase migration: types of its state, events and effects. (Transitions follow.)
 */
import type { BlockBitmap } from "./block-bitmap.ts";
import type { GenerationLog } from "./generation-log.ts";
import type {
  BlocksPurpose, DestinationMessage, DomainDescription, HashLevel, HostId, MigrationId, PostCopyCounts,
  ReplicaNote, RungChoice, SourceMessage, VbdIndex,
} from "./messages.ts";
import type { BlockRun, Generation } from "./units.ts";

export type SourceContext = {
  readonly migration: MigrationId;
  readonly destination: HostId;
  readonly domain: DomainDescription;
  /** The stay that ends here; the handover creates `generation + 1`. */
  readonly generation: Generation;
  readonly log: GenerationLog;
  readonly replicas: readonly ReplicaNote[];
  /** Blocks sent and not yet acknowledged: bounds memory on both hosts. */
  readonly inFlightBlocksMax: number;
  readonly iterationsMax: number;
  /** Pre-copy may send this many times the vbds' size before it freezes regardless (as Xen: 3). */
  readonly totalSentFactorMax: number;
  /** Freeze once so many blocks are left: they go in post-copy. */
  readonly remainingBlocksToFreeze: number;
  /** A block that was sent so often and is dirty again is hot: it waits for post-copy. */
  readonly hotSendsMax: number;
};

export type SourceEvent =
  | { type: "connected" }
  | { type: "peer-lost" }
  | { type: "received"; message: DestinationMessage }
  /** Answers `start-tracking`: what the open generation wrote before rounds were armed. */
  | { type: "tracking"; written: readonly BlockBitmap[] }
  /** Answers `scan-allocated`; undefined when the store cannot tell holes from data. */
  | { type: "allocated"; vbd: VbdIndex; blocks: BlockBitmap | undefined }
  /** Answers `compare-digests`: indexes (of regions or blocks) that differ. */
  | { type: "compared"; vbd: VbdIndex; level: HashLevel; start: number; count: number; differing: readonly number[] }
  /** Answers `collect-dirty`. */
  | { type: "dirty"; attempt: number; atMs: number; blocks: readonly BlockBitmap[] }
  /** The hypervisor finished a pass over memory; `converged` when the rest fits its downtime goal. */
  | { type: "memory-round"; attempt: number; converged: boolean }
  | { type: "domain-frozen"; attempt: number }
  /** After the freeze: the hypervisor's stream is complete, `memoryBytes` long since its begin. */
  | { type: "memory-ended"; attempt: number; memoryBytes: number }
  /** Answers `fence`: no write can land any more, all is flushed. */
  | {
      type: "fenced";
      attempt: number;
      dirty: readonly BlockBitmap[];
      written: readonly BlockBitmap[];
    }
  /** The operator's wish. */
  | { type: "cancel"; reason: string }
  /** An effect failed here (a read error, the hypervisor refused). */
  | { type: "failed"; reason: string };

export type SourceRecord =
  | { phase: "begun"; migration: MigrationId; destination: HostId; generation: Generation }
  /** The point of no return. */
  | { phase: "handed-over"; migration: MigrationId; destination: HostId; generation: Generation }
  | { phase: "completed"; migration: MigrationId; counts: PostCopyCounts }
  | { phase: "aborted"; migration: MigrationId; reason: string };

export type SourceEffect =
  | { type: "send"; message: Exclude<SourceMessage, { type: "blocks" | "memory" | "memory-open" }> }
  /** Read these blocks and send what was read. Their bits are already cleared. */
  | { type: "send-blocks"; ticket: number; purpose: BlocksPurpose; vbd: VbdIndex; runs: readonly BlockRun[] }
  /** Arm write rounds on every vbd, before the first block is read. */
  | { type: "start-tracking" }
  | { type: "stop-tracking" }
  | { type: "collect-dirty"; attempt: number }
  | { type: "scan-allocated"; vbd: VbdIndex }
  /** Digest our own blocks and compare with the peer's `digests`. */
  | { type: "compare-digests"; vbd: VbdIndex; level: HashLevel; start: number; digests: Uint8Array }
  /** Start the hypervisor's live stream; it goes out on the memory stream. */
  | { type: "begin-memory"; attempt: number }
  /** The memory stream goes on after a reconnect: send again from `offset`. */
  | { type: "resume-memory"; attempt: number; offset: number }
  /** The hypervisor may forget what it streamed; the domain keeps running here. */
  | { type: "cancel-memory"; attempt: number }
  | { type: "forget-memory"; offset: number }
  | { type: "freeze-domain"; attempt: number }
  /** The domain runs on here, and the live memory stream with it (pages dirtied meanwhile follow). */
  | { type: "thaw-domain"; attempt: number }
  /** Close the vbds to the domain, wait for writes in flight, flush. */
  | { type: "fence"; attempt: number }
  | { type: "unfence" }
  | { type: "persist"; record: SourceRecord }
  /** The domain runs elsewhere: end its frozen remains here. */
  | { type: "destroy-remains" }
  /** This host's vbds become the replica of `generation`. */
  | { type: "keep-replica"; generation: Generation };

/** What the ladder decided, for reports. */
export type SourceLadder = readonly RungChoice[];
