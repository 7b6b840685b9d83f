/** The source's state, events and effects. `source.ts` draws the phases and says what each arrow means. */

import type { BlockBitmap } from "./block-bitmap.ts";
import type { BlockSender } from "./block-sender.ts";
import { ProtocolError } from "./errors.ts";
import type { GenerationLog } from "./generation-log.ts";
import type { HashDescent } from "./hash-descent.ts";
import type {
  BlocksPurpose,
  CopyAtDestination,
  DestinationMessage,
  DomainDescription,
  HashLevel,
  HostId,
  MigrationId,
  PostCopyCounts,
  ReplicaNote,
  RungChoice,
  SourceMessage,
  VbdIndex,
} from "./messages.ts";
import { type BlockRun, blockCountOf, type Generation } from "./units.ts";

export type SourceContext = {
  readonly migration: MigrationId;
  readonly destination: HostId;
  readonly domain: DomainDescription;
  /** What the vbds occupy here, for a destination that has to make room. */
  readonly dataBytes: number;
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
  /** See `PrecopyLimits`. */
  readonly writeSlowdownMax?: number;
};

export type SourceEvent =
  | { type: "connected" }
  | { type: "peer-lost" }
  | { type: "received"; message: DestinationMessage }
  /**
   * Answers `start-tracking`: per vbd what the open generation wrote before rounds were armed. Where the
   * tracker cannot be trusted (it died with its host), `untrusted` says why and `written` is full.
   */
  | {
      type: "tracking";
      attempt: number;
      atMs: number;
      vbds: readonly { written: BlockBitmap; untrusted?: string }[];
    }
  /** Answers `scan-allocated`; undefined when the store cannot tell holes from data. */
  | { type: "allocated"; attempt: number; vbd: VbdIndex; blocks: BlockBitmap | undefined }
  /** Answers `compare-digests`: indexes (of regions or blocks) that differ. */
  | {
      type: "compared";
      attempt: number;
      vbd: VbdIndex;
      level: HashLevel;
      start: number;
      count: number;
      differing: readonly number[];
    }
  /** Answers `collect-dirty`. */
  | { type: "dirty"; attempt: number; atMs: number; blocks: readonly BlockBitmap[] }
  /** The hypervisor finished a pass over memory; `converged` when the rest fits its downtime goal. */
  | { type: "memory-round"; attempt: number; converged: boolean }
  | { type: "domain-frozen"; attempt: number }
  /** After the freeze: the tail was streamed; the stream is `memoryBytes` long since its begin. */
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

/**
 * What the journal keeps of a migration at its source. `attempt` in effects and events: climbs of the ladder,
 * memory streams and freezes are numbered, so that an answer to an earlier one, still on its way, is told apart.
 * Whatever asks for an answer is answered once, also when it was undone meanwhile, or answered by `failed`.
 */
export type SourceRecord =
  | { phase: "begun"; migration: MigrationId; destination: HostId; generation: Generation }
  /** The point of no return. */
  | { phase: "handed-over"; migration: MigrationId; destination: HostId; generation: Generation }
  | {
      phase: "completed";
      migration: MigrationId;
      destination: HostId;
      generation: Generation;
      counts: PostCopyCounts;
    }
  | { phase: "aborted"; migration: MigrationId; destination: HostId; generation: Generation; reason: string };

export type SourceEffect =
  | { type: "send"; message: Exclude<SourceMessage, { type: "blocks" | "memory" | "memory-open" }> }
  /** Read these blocks and send what was read. Their bits are already cleared. */
  | { type: "send-blocks"; ticket: number; purpose: BlocksPurpose; vbd: VbdIndex; runs: readonly BlockRun[] }
  /** Arm write rounds on every vbd, before the first block is read. */
  | { type: "start-tracking"; attempt: number }
  /** Ends rounds, and with them the slowing of writes. */
  | { type: "stop-tracking" }
  /**
   * From now on the domain's writes get at most `share` of the rate that they had since `start-tracking`. Ends with
   * `stop-tracking`, and when the domain is frozen.
   */
  | { type: "throttle-writes"; share: number }
  | { type: "collect-dirty"; attempt: number }
  | { type: "scan-allocated"; attempt: number; vbd: VbdIndex }
  /** Digest our own blocks and compare with the peer's `digests`. */
  | {
      type: "compare-digests";
      attempt: number;
      vbd: VbdIndex;
      level: HashLevel;
      start: number;
      count: number;
      digests: Uint8Array;
    }
  /** Start the hypervisor's live stream; it goes out on the memory stream. */
  | { type: "begin-memory"; attempt: number }
  /** The memory stream goes on after a reconnect: send again from `offset`. */
  | { type: "resume-memory"; attempt: number; offset: number }
  /** End the live stream; a domain that runs keeps running. */
  | { type: "cancel-memory" }
  | { type: "forget-memory"; offset: number }
  | { type: "freeze-domain"; attempt: number }
  /** The domain runs on here, and the live memory stream with it (pages dirtied meanwhile follow). */
  | { type: "thaw-domain" }
  /** The domain runs on here; there is no memory stream any more. */
  | { type: "unfreeze-domain" }
  /** The domain is frozen: close the vbds to it, wait for writes in flight, flush. */
  | { type: "fence"; attempt: number }
  | { type: "unfence" }
  | { type: "persist"; record: SourceRecord }
  /** The journal may forget this migration: nobody will ask for it any more. */
  | { type: "forget" }
  /** The domain runs elsewhere: end its frozen remains here. */
  | { type: "destroy-remains" }
  /** This host's vbds become the replica of `generation`. */
  | { type: "keep-replica"; generation: Generation }
  /** End the session; the next one goes on. */
  | { type: "drop-link"; reason: string };

/** `negotiating`: `begin` is sent and not yet answered on this connection. */
export type Link = "down" | "negotiating" | "up";

/** What outlives a lost link: the destination's volatile state that our counters are about. */
export type Trip = {
  /** The one that climbed the ladder: blocks that answer an older one were counted by the climb. */
  readonly attempt: number;
  readonly session: string;
  readonly choices: readonly RungChoice[];
  readonly sender: BlockSender;
  /** Hot blocks: left for post-copy. */
  readonly deferred: readonly BlockBitmap[];
  /**
   * `collect-dirty` and `fence` effects not yet answered. Each answer takes a round of writes with it, so a
   * freeze must wait for them all, or their blocks would be lost.
   */
  roundsOpen: number;
  /** Passes over the disk, from 1; rounds of the memory stage do not count. */
  iteration: number;
  roundStartedAtMs: number;
  sentBeforeRound: number;
  /** Of its write rate that the domain has: below 1 it is slowed. */
  writeShare: number;
};

export type MemoryStream = { attempt: number; ready: boolean; converged: boolean };

export type SourceState =
  | { phase: "idle" }
  | { phase: "negotiating"; link: Link; attempt: number }
  /** Finding out what to send. `scans`: vbds whose allocation is being looked up. */
  | {
      phase: "reconciling";
      attempt: number;
      session: string;
      copies: readonly CopyAtDestination[];
      trip: Trip | undefined;
      scans: ReadonlySet<VbdIndex>;
      descents: ReadonlyMap<VbdIndex, HashDescent>;
    }
  | { phase: "pre-copy"; link: Link; attempt: number; trip: Trip }
  | { phase: "memory-copy"; link: Link; attempt: number; trip: Trip; memory: MemoryStream }
  /** Asked the hypervisor to freeze, then the vbds' fence to fall: `prepare` needs what that finds. */
  | {
      phase: "freezing";
      attempt: number;
      trip: Trip;
      memory: MemoryStream;
      /** The stream's length, where its tail was sent before the fence answered. */
      memoryBytes: number | undefined;
    }
  | { phase: "preparing"; attempt: number; trip: Trip; memory: MemoryStream; isMemoryEnded: boolean }
  /** Past the point of no return. Nobody writes to the source's vbds any more. */
  | { phase: "handing-over"; link: Link }
  | { phase: "post-copy"; link: Link; sender: BlockSender }
  /** The source is no longer needed; the destination has yet to be told that we know. */
  | { phase: "finishing"; link: Link; counts: PostCopyCounts }
  | { phase: "completed"; counts: PostCopyCounts }
  /** The domain runs here; the destination has yet to be told. */
  | { phase: "aborting"; link: Link; reason: string }
  | { phase: "aborted"; reason: string };

export type SourceStep = readonly [SourceState, readonly SourceEffect[]];
export type Phase<Name extends SourceState["phase"]> = Extract<SourceState, { phase: Name }>;
export type Copying = Phase<"pre-copy"> | Phase<"memory-copy">;
export type Answer<Type extends DestinationMessage["type"]> = Extract<DestinationMessage, { type: Type }>;

/** The peer broke the protocol: what it sent is not allowed in this phase. */
export function unexpected(state: SourceState, message: DestinationMessage): never {
  throw new ProtocolError({
    code: "PROTOCOL_UNEXPECTED_MESSAGE",
    phase: state.phase,
    message: message.type,
  });
}

export function blockCountsOf({ domain }: SourceContext): number[] {
  return domain.vbds.map(({ sizeBytes }) => blockCountOf(sizeBytes));
}

/** Shipments up to the in-flight limit, as effects. */
export function fill(
  sender: BlockSender,
  purpose: "precopy" | "push",
  context: SourceContext,
): SourceEffect[] {
  return sender.take(context.inFlightBlocksMax).map(({ ticket, vbd, runs, urgent }) => {
    return { type: "send-blocks", ticket, purpose: urgent ? "pull" : purpose, vbd, runs };
  });
}
