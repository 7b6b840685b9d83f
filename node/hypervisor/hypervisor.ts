/**
 * What Sojourn needs of a hypervisor. Every adapter passes `test/contract/hypervisor.contract.ts`.
 *
 * A domain is a process (or more) of its own that outlives the daemon: an adapter keeps no state that it
 * cannot find again from the domain's folder. Two daemons' processes may hold adapters at once (control
 * creates and lists, data migrates); the driver sees to it that only one acts.
 */

/** Where a domain's vbd is to be found by the hypervisor: our NBD export, on a unix socket. */
export type VbdAttachment = {
  name: string;
  sizeBytes: number;
  socketPath: string;
  exportName: string;
  /** Of the bytes on this host: for whoever adopts a domain that has them open itself. */
  path?: string;
};

export type DomainSpec = {
  id: string;
  name: string;
  memoryBytes: number;
  /** The adapter's own settings (the wasm adapter: workload, seed), JSON. */
  config: string;
  vbds: readonly VbdAttachment[];
};

/**
 * `suspended`: state is whole, vCPUs stopped, may go on. `incoming`: waits for, or holds, a memory stream.
 * `shutoff`: no process. `crashed`: the guest found an error or died; its text is in `detail`.
 */
export type DomainState = "running" | "suspended" | "incoming" | "shutoff" | "crashed";

export type DomainStatus = { state: DomainState; detail?: string };

/** The hypervisor's live stream of one domain, out of this host. */
export interface OutgoingMemory {
  /** The stream's bytes, with back-pressure: what is not read, the hypervisor does not produce. */
  readonly stream: AsyncIterable<Uint8Array>;
  /** Called after each pass over memory; `converged`: the rest fits the downtime goal. */
  onRound(listener: (round: { round: number; remainingBytes: number; converged: boolean }) => void): void;
  /**
   * Stops the domain; resolves when it runs no more and issues no more I/O. That may want further passes: the stream
   * has to be read meanwhile. Rejects when a thaw or a cancel came first.
   */
  freeze(): Promise<void>;
  /** After `freeze`, where that may take its time: for how long the domain has stood still, milliseconds. */
  stoppedForMs?(): number;
  /**
   * To be called after `freeze`, once whoever tracks the vbds has what it needs of them: lets the tail follow.
   * Resolves when the tail was given to `stream`: its total length in bytes since the begin.
   */
  ended(): Promise<number>;
  /** After `freeze`, or while it is under way: the domain runs on here and the stream goes on with further passes. */
  thaw(): Promise<void>;
  /** Ends the stream. A domain that was not frozen keeps running; a frozen one stays frozen. */
  cancel(): Promise<void>;
}

/** A domain being received: its memory goes in, it waits suspended. */
export interface IncomingMemory {
  /** Resolves when the hypervisor took the bytes: its back-pressure. */
  write(data: Uint8Array): Promise<void>;
  /** Resolves when, after `memoryBytes` of stream, the state is whole; rejects when the stream is not a state. */
  loaded(memoryBytes: number): Promise<void>;
  /** Ends the incoming domain. Idempotent. */
  discard(): Promise<void>;
  /** Called when the domain has ended, whoever ended it; and perhaps once it was resumed. */
  onLoss?(listener: () => void): void;
  /** The domain has ended. A stream that begins again may bring another one. */
  isLost?(): boolean;
}

/** What a guest that checks itself found: how much it looked at, and the first few errors in words. */
export type VerifyResult = { ok: boolean; blocksChecked: number; pagesChecked: number; errors: string[] };

export interface Hypervisor {
  readonly kind: string;
  /** Starts a new domain from scratch (a boot), running; or takes over the one that its settings name. */
  start(spec: DomainSpec): Promise<void>;
  /** Whether these settings name a domain that somebody else has started, with its vbds. */
  adopts?(config: string): boolean;
  status(id: string): Promise<DomainStatus>;
  suspend(id: string): Promise<void>;
  resume(id: string): Promise<void>;
  /**
   * A domain that was received whole: all of `resume` that can be done before it may run, such as reaching its vbds,
   * which no write can reach yet. Absent where there is nothing to be done before.
   */
  makeReady?(id: string): Promise<void>;
  /** Ends the domain in order: the guest finishes its I/O and flushes. */
  shutdown(id: string): Promise<void>;
  /** Ends the domain at once. Idempotent. */
  destroy(id: string): Promise<void>;
  migrateOut(id: string): Promise<OutgoingMemory>;
  migrateIn(spec: DomainSpec): Promise<IncomingMemory>;
  /** Adapter's figures for `show`: counters of the workload, errors found by the guest. */
  inspect(id: string): Promise<Record<string, unknown>>;
  /** Where the guest is our own: it reads back all that it ever wrote. The domain must be running, and rests from its workload. */
  verify?(id: string): Promise<VerifyResult>;
}
