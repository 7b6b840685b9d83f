/** The destination's state, events and effects. `destination.ts` draws the phases and says what each arrow means. */

import type { BlockBitmap } from "./block-bitmap.ts";
import { ProtocolError } from "./errors.ts";
import type { GenerationLogEntry } from "./generation-log.ts";
import type {
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
  | { type: "durable"; attempt: number }
  /** Answers `resume-domain`: it runs. */
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
  | {
      phase: "receiving";
      migration: MigrationId;
      source: HostId;
      domain: DomainDescription;
      generation: Generation;
    }
  /**
   * All of generation `generation` (the source's) is here except `missing`, which the stores keep durably, and the
   * memory, which no journal can keep: written while that arrives. The vote, which is sent, needs both. Only the
   * source knows whether the handover happened.
   */
  | {
      phase: "prepared";
      migration: MigrationId;
      source: HostId;
      domain: DomainDescription;
      generation: Generation;
    }
  /** The domain belongs to this host under `generation`. */
  | {
      phase: "owner";
      migration: MigrationId;
      source: HostId;
      domain: DomainDescription;
      generation: Generation;
    }
  | {
      phase: "synchronised";
      migration: MigrationId;
      source: HostId;
      domain: DomainDescription;
      generation: Generation;
      counts: PostCopyCounts;
    }
  | { phase: "aborted"; migration: MigrationId; reason: string };

/** What `begin` said; the same for the whole migration. */
export type Begun = { migration: MigrationId; generation: Generation; domain: DomainDescription };

export type IncomingStream = { attempt: number; taken: number; isReady: boolean };

/**
 * Who may speak before the handover. `lost`: nobody, until the source begins a session. `draining`: it did, and
 * gets its `accept` when `answersOpen` is 0: what an earlier session began must not speak in this one, nor
 * write a block after this one wrote it again.
 */
export type ReceptionLink = "lost" | "draining" | "up";

/** What a destination gathers before the handover. */
export type Reception = {
  readonly begun: Begun;
  readonly link: ReceptionLink;
  /** `store-blocks`, `digest` and `make-durable` effects not yet answered. */
  readonly answersOpen: number;
  readonly copies: readonly CopyAtDestination[];
  /** The ladder was announced: copies are open, and the journal says that they are being written. */
  readonly isOpen: boolean;
  readonly memory: IncomingStream | undefined;
  readonly log: readonly GenerationLogEntry[];
  readonly replicas: readonly ReplicaNote[];
  /** The journal says `prepared`: taken back before anything else is received. */
  readonly isPromised: boolean;
};

export type DestinationState =
  | { phase: "idle" }
  | { phase: "examining"; begun: Begun; isAttached: boolean }
  | { phase: "receiving"; reception: Reception }
  /** `prepare` came: waits until the memory is loaded and the rest durable, side by side. */
  | {
      phase: "loading";
      reception: Reception;
      attempt: number;
      load: "tail is coming" | "begun" | "done";
      isDurable: boolean;
    }
  /**
   * In doubt: only the source knows. The domain stays suspended here, however long that takes.
   * `reception` is undefined after a restart.
   */
  | { phase: "prepared"; begun: Begun; reception: Reception | undefined }
  /**
   * Past the point of no return: the domain is this host's. `problem`: why it does not run yet. `isAttached` is
   * false from a lost link until the source hands over again: till then we stay silent.
   */
  | {
      phase: "resuming";
      begun: Begun;
      isAttached: boolean;
      isNothingMissing: boolean;
      problem: string | undefined;
    }
  | { phase: "post-copy"; begun: Begun; link: PostCopyLink; pulls: readonly Pull[]; isFlushing: boolean }
  | { phase: "completed"; begun: Begun; counts: PostCopyCounts }
  | { phase: "aborted"; migration: MigrationId; reason: string };

/** As in `ReceptionLink`; `reporting`: the source handed over, and `resumed` is not sent yet. `pulls` wait for it. */
export type PostCopyLink = "lost" | "reporting" | "up";
export type Pull = { readonly vbd: VbdIndex; readonly runs: readonly BlockRun[] };

export type DestinationStep = readonly [DestinationState, readonly DestinationEffect[]];
export type Phase<Name extends DestinationState["phase"]> = Extract<DestinationState, { phase: Name }>;
export type Order<Type extends SourceMessage["type"]> = Extract<SourceMessage, { type: Type }>;

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
  /** Flush the vbds, blocks that are being stored included; then write `missing`, the log with `written` as the bitmap of `generation`, durably. */
  | {
      type: "make-durable";
      attempt: number;
      generation: Generation;
      log: readonly GenerationLogEntry[];
      replicas: readonly ReplicaNote[];
      written: readonly BlockBitmap[];
      missing: readonly BlockBitmap[];
    }
  | { type: "persist"; record: DestinationRecord }
  /** Export the vbds to the domain under `generation`, tracking from the first write on, and let it run. */
  | { type: "resume-domain"; generation: Generation }
  /** Asks for the event `missing`; and `need-blocks` again for every run that a guest still waits for. */
  | { type: "report-missing" }
  | { type: "flush" }
  /** Give back what `open-copies` reserved; the bytes that arrived stay, as a copy that nobody vouches for. */
  | { type: "close-copies" }
  /** The journal may forget this migration: nobody will ask for it any more. */
  | { type: "forget" }
  /** End the session; the source opens the next one. */
  | { type: "drop-link"; reason: string };

/** The peer broke the protocol: what it sent is not allowed in this phase. */
export function unexpected(state: DestinationState, message: SourceMessage): never {
  throw new ProtocolError({
    code: "PROTOCOL_UNEXPECTED_MESSAGE",
    phase: state.phase,
    message: message.type,
  });
}
