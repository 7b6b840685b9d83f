/**
 * Everything that can be asked of a daemon on its local socket: one table of methods, and what their
 * parameters, results and events look like. The command line is one client of it, tests are another.
 *
 * Sizes are in bytes, times are RFC 3339 in UTC, durations end in their unit. An absent field is
 * something the answering host does not know; it is never a made-up zero.
 */

import type { Rung } from "../../protocol/messages.ts";
import type { Generation } from "../../protocol/units.ts";

export type HostInfo = {
  host: string;
  hostName: string;
  version: string;
  protocolVersion: number;
  pid: number;
  startedAt: string;
  dataDir: string;
  /** The id of its cluster; absent while it belongs to none. */
  cluster?: string;
  /** Where this host is dialled. */
  addresses: readonly string[];
  hypervisors: readonly string[];
  domains: number;
};

export type HostRow = {
  host: string;
  hostName: string;
  self: boolean;
  /** As membership has it; `unknown`: a host of the list that was never heard of. `revoked`: no member any more. */
  state: "alive" | "suspect" | "dead" | "left" | "unknown" | "revoked";
  addresses: readonly string[];
  domains?: number;
  freeBytes?: number;
  roundTripMs?: number;
  /** Whose word this is, and how old it is. */
  seenBy: string;
  ageSeconds: number;
};

export type MemberRow = HostRow & {
  /** Since when it is believed to be in its state. */
  stateSeconds?: number;
  /** Rises whenever the host has something new to say of itself. */
  incarnation?: number;
  /** Names of those who say that it is suspect or dead. */
  accusers?: readonly string[];
  /** Names of domains that this host and another one claim, each for itself. */
  conflicts?: readonly string[];
  /** `revoked`: by whom, and why. */
  revoked?: { byName: string; reason: string };
};

/** Something became known to the host that is watched. */
export type WatchEvent =
  | { kind: "member"; at: string; host: string; hostName: string; from?: string; to?: string }
  | {
      kind: "domain";
      at: string;
      domain: string;
      name?: string;
      /** Absent when the domain is gone. */
      host?: string;
      hostName?: string;
      generation?: Generation;
      state?: DomainRowState;
      /** Names of others who claim it, too. */
      conflict?: readonly string[];
    };

/**
 * `sizeBytes` alone: a new, empty vbd. `path`: this file or device becomes the vbd, in place. `image`: a new
 * vbd that starts as a copy of this file, at least `sizeBytes` large. `flatten`: a qcow2 image is not refused, what
 * its guest sees is copied.
 */
export type VbdRequest = {
  name: string;
  sizeBytes?: number;
  path?: string;
  image?: string;
  flatten?: boolean;
};

export type CreateParams = {
  name: string;
  hypervisor: string;
  memoryBytes: number;
  vbds: readonly VbdRequest[];
  /** The hypervisor adapter's own settings, JSON. */
  config: string;
};

/** `undecided`: only `recover` may say where the domain runs. `unknown`: its host does not answer. */
export type DomainRowState =
  | "running"
  | "suspended"
  | "incoming"
  | "shutoff"
  | "crashed"
  | "undecided"
  | "unknown";

export type ReplicaSummary = {
  hostName: string;
  generation: Generation;
  /** What a migration to that host would have to send now. */
  dirtyBlocks?: number;
  /** Since the domain's host last knew this of the replica. */
  ageSeconds?: number;
};

export type Progress = {
  /** As the state machine names it: `reconcile`, `pre-copy`, `freeze-and-copy`, `post-copy` … */
  phase: string;
  iteration: number;
  sentBytes: number;
  totalBytes?: number;
  memoryBytes: number;
  rateBytesPerSecond: number;
  dirtyRateBytesPerSecond: number;
  remainingBlocks: number;
  etaSeconds?: number;
  /** False while the link is down: the migration waits for it. */
  connected: boolean;
};

export type MigrationSummary = Progress & { migration: string; fromName: string; toName: string };

export type DomainRow = {
  id: string;
  name: string;
  state: DomainRowState;
  host: string;
  hostName: string;
  generation: Generation;
  memoryBytes: number;
  vbds: readonly { name: string; sizeBytes: number }[];
  replicas: readonly ReplicaSummary[];
  migration?: MigrationSummary;
  /** Others who claim the domain: only `recover` settles that, and nobody's data is touched before. */
  conflict?: readonly { host: string; hostName: string; generation: Generation }[];
  /** Who said so, and how long ago. */
  seenBy: string;
  ageSeconds: number;
};

export type DomainDetail = DomainRow & {
  hypervisor: string;
  config?: string;
  createdAt?: string;
  stateDetail?: string;
  vbdFiles?: readonly { name: string; path: string; attachment: string; bytesAllocated?: number }[];
  /** Figures of the guest itself, as its hypervisor adapter reports them. */
  guest?: Record<string, unknown>;
  lastHop?: HopReport;
  /** Where the domain's only right copy is, and what is safe to do now, in one sentence. */
  advice: string;
};

export type PlanVbd = { name: string; rung: Rung; reason: string; blocks: number; bytes: number };

export type PlanRow = {
  host: string;
  hostName: string;
  reachable: boolean;
  vbds: readonly PlanVbd[];
  bytes: number;
  /** Why that host would refuse the domain. */
  refusal?: string;
};

/** For this migration, instead of the host's configuration. */
export type MigrateOptions = {
  iterationsMax?: number;
  /** A block that was sent so often and is dirty again waits for post-copy. */
  hotSendsMax?: number;
  /** The part of its write rate, 0 to 0.95, that the domain may lose. */
  writeSlowdownMax?: number;
  bandwidthMaxBytesPerSecond?: number;
};

/** One finished migration. `rung` and `reason` are the costliest ones of its vbds. */
export type HopReport = {
  migration: string;
  domain: string;
  from: string;
  to: string;
  generation: Generation;
  rung: Rung;
  reason: string;
  diskBytesSent: number;
  blocksChanged: number;
  blocksResent: number;
  bytesAllocated: number;
  memoryBytesSent: number;
  downtimeMs: number;
  disruptionMs: number;
  totalMs: number;
  pushed: number;
  pulled: number;
  superseded: number;
  iterations: number;
  /** The share of its write rate that the domain kept in pre-copy; 1 when it was not slowed. */
  writeShare: number;
  /** Blocks that were left when the domain was frozen: they went in post-copy, or were overwritten first. */
  blocksLeft: number;
  verified?: boolean;
};

export type ReplicaRow = {
  domain: string;
  name: string;
  host: string;
  hostName: string;
  generation: Generation;
  /** The domain's generation now: what the replica lacks was written since its own. */
  ownerGeneration: Generation;
  dirtyBlocks?: number;
  dirtyBytes?: number;
  bytesAllocated?: number;
  seenBy: string;
  ageSeconds: number;
};

/** One stay of a domain on one host, and the hop that brought it there. */
export type HistoryRow = {
  generation: Generation;
  host: string;
  hostName: string;
  startedAt?: string;
  endedAt?: string;
  blocksWritten?: number;
  hop?: HopReport;
  /** Of the certificate with which it began; the first stay has none. */
  custody?: { kind: string; fromName: string; signedBy: readonly string[] };
  /** It came by `recover` and not by a migration: what happened, and what was recorded of it. */
  recovered?: { outcome: string; facts: Record<string, unknown> };
};

/** A full pass of the guest over its own memory and vbds. */
export type VerifyReport = {
  domain: string;
  name: string;
  ok: boolean;
  errors: number;
  blocksChecked?: number;
  pagesChecked?: number;
  durationMs: number;
  detail?: Record<string, unknown>;
};

/** What `recover` found and did. */
export type RecoverReport = {
  domain: string;
  name: string;
  /** What each end said at first. */
  found: readonly string[];
  did: readonly string[];
  /** The last decision, as `protocol/recovery.ts` names it; `nothing` when there is nothing left to do. */
  decision: string;
  /** A host's name, `unknown` or `conflict`. */
  where: string;
  advice?: string;
  /** What `--adopt` would do. */
  adoption?: { from: string; generation: Generation };
};

/** A chain of custody, oldest first, and what checking it found. */
export type CustodyChain = {
  certificates: readonly {
    domain: string;
    kind: string;
    generation: Generation;
    from: string;
    to: string;
    fromName: string;
    toName: string;
    /** Hash of the certificate before it, and digest of what the generation that ended had written. */
    previous: string;
    digest: string;
    timeMs: number;
    word: string;
    signedBy: readonly string[];
    /** Under the certificate's octets, in hexadecimal digits. */
    fromSignature?: string;
    toSignature?: string;
  }[];
  /** Empty: every certificate is signed by whom it names and follows the one before it. */
  problems: readonly string[];
  /** Generations that one end has yet to sign. */
  incomplete: readonly Generation[];
  /** Generations whose giver knew of nothing before. */
  gaps: readonly Generation[];
  /** Generations that an adoption has cut off. */
  cutOff: readonly Generation[];
};

/** A domain's chain of custody, as the domain's host knows it, or this one where that does not answer. */
export type CustodyReport = CustodyChain & {
  domain: string;
  name: string;
  seenBy: string;
  ageSeconds: number;
  /** The domain's host, which did not answer: it may know of later generations. */
  unreached?: string;
};

type NoParams = Record<string, never>;
type DomainParams = { domain: string };
type Done = { domain: string; name: string; state: DomainRowState };

/** `domain` is everywhere an id or a name, as people have it at hand; `to` likewise a host's id or name. */
export type Api = {
  info: { params: NoParams; result: HostInfo };
  hosts: { params: NoParams; result: readonly HostRow[] };
  members: { params: NoParams; result: readonly MemberRow[] };
  /** Ends when its caller leaves. */
  watch: { params: NoParams; result: { ended: true }; events: WatchEvent };
  /** Says farewell to the cluster and ends the daemon; domains go on where they are. */
  leave: { params: NoParams; result: { host: string; hostName: string; domains: number } };
  invite: { params: { expiresMs?: number; uses?: number }; result: Invitation };
  join: { params: { token: string }; result: Joined };
  revoke: {
    params: { host: string; reason?: string; withAdmitted?: boolean };
    result: { host: string; hostName: string; members: number };
  };
  "rotate-secret": { params: { overlapMs?: number }; result: Rotation };
  create: { params: CreateParams; result: Done };
  start: { params: DomainParams; result: Done };
  stop: { params: DomainParams; result: Done };
  destroy: { params: DomainParams; result: Done };
  list: { params: NoParams; result: readonly DomainRow[] };
  show: { params: DomainParams; result: DomainDetail };
  plan: { params: DomainParams; result: readonly PlanRow[] };
  /** Goes on when its caller leaves; `cancel` ends it, as long as it can still be undone. */
  migrate: {
    params: { domain: string; to: string; options?: MigrateOptions };
    result: HopReport;
    events: Progress;
  };
  cancel: { params: DomainParams; result: { domain: string; name: string; migration: string } };
  recover: {
    params: { domain: string; adopt?: { reason: string; user: string } };
    result: RecoverReport;
  };
  replicas: { params: { domain?: string }; result: readonly ReplicaRow[] };
  history: { params: DomainParams; result: readonly HistoryRow[] };
  custody: { params: DomainParams; result: CustodyReport };
  verify: { params: DomainParams; result: VerifyReport };
  /** Tests only: the daemon does `action` when it next comes to `point`. */
  "arm-fault": { params: { point: string; action: string }; result: { armed: true } };
  "stop-daemon": { params: NoParams; result: { stopping: true } };
};

/** A secret as text that lets hosts into the cluster: shown once, kept by nobody but the host that made it. */
export type Invitation = { token: string; cluster: string; host: string; expiresAt: string; uses: number };

/** This host as a member. `members` counts it, too. */
export type Joined = { cluster: string; host: string; hostName: string; members: number };

export type Rotation = {
  epoch: number;
  /** Until when the secrets before it are accepted. */
  othersEndAt: string;
};

export type ApiMethod = keyof Api;
export type ApiEvent<M extends ApiMethod> = Api[M] extends { events: infer E } ? E : never;

/** A failure as it crosses the socket. Match `code`; `exitCode` says where the domain is (see the README). */
export type ApiErrorBody = {
  code: string;
  message: string;
  remedy?: string;
  detail?: Record<string, unknown>;
  exitCode: number;
};

/** What a handler gets beside its parameters. */
export type ApiCall<M extends ApiMethod> = {
  /** Shown to the caller. A caller that does not keep up misses events, never the result. */
  emit(event: ApiEvent<M>): void;
  /** Aborted when the caller is gone or the server stops: nobody waits for the result any more. */
  signal: AbortSignal;
};

export type ApiHandlers = {
  [M in ApiMethod]: (
    params: Api[M]["params"],
    call: ApiCall<M>,
  ) => Api[M]["result"] | Promise<Api[M]["result"]>;
};

/** A request may be no longer than this; answers may. */
export const REQUEST_LINE_SIZE_MAX = 1 << 20;

/** Newline-delimited JSON, from the client. */
export type ApiRequest = { id: number; method: string; params: unknown };

/** Newline-delimited JSON, from the server: any number of events, then a result or an error. */
export type ApiResponse =
  | { id: number; event: unknown }
  | { id: number; result: unknown }
  | { id: number; error: ApiErrorBody }
  /** Without an id: the request could not be read, and the server closes the connection. */
  | { id: null; error: ApiErrorBody };
