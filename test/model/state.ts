/**
 * One state of the model: hosts, the links of their migrations, what an outside observer knows (`truth`), and
 * the faults that may still happen. A state is a value; `Draft` makes the next one and copies what it touches.
 */

import type { PreparedState } from "../../node/migration/destination-driver.ts";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BlockSender } from "../../protocol/block-sender.ts";
import type { SignedCertificate } from "../../protocol/custody.ts";
import type {
  DestinationContext,
  DestinationEffect,
  DestinationEvent,
  DestinationState,
} from "../../protocol/destination.ts";
import { HashDescent } from "../../protocol/hash-descent.ts";
import type { DestinationMessage, SourceMessage } from "../../protocol/messages.ts";
import type { Testimony } from "../../protocol/recovery.ts";
import type { SourceContext, SourceEffect, SourceEvent, SourceState } from "../../protocol/source.ts";
import type { JournalEntry } from "../../storage/journal-records.ts";
import type { DomainRecord, ReplicaRecord, StoredLogEntry } from "../../storage/records.ts";

export type HostName = "A" | "B" | "C";

/** A set of blocks as a number; a vbd of the model has two at most. */
export type Mask = number;

/** Survives everything. Changed in one piece, as the metadata's commits are. */
export type Journal = {
  domain: DomainRecord | undefined;
  replicas: readonly ReplicaRecord[];
  entries: Readonly<Record<string, JournalEntry>>;
  log: readonly StoredLogEntry[];
  /** Undefined in a world without certificates. */
  custody: readonly SignedCertificate[] | undefined;
};

/** `memory`: how many writes the guest remembers. */
export type Guest = { state: "running" | "suspended" | "incoming"; memory: number };

export type Disk = {
  /** Per block: the number of the write that it holds; 0: never written. */
  now: readonly number[];
  /** What a loss of power leaves. */
  durable: readonly number[];
  /** Set aside by a host that was fenced. */
  isAside: boolean;
};

/** The dirty log of one generation: it survives, but after a loss of power it is not to be trusted. */
export type Tracker = { generation: number; written: Mask; isTrusted: boolean };

/** Blocks that have not arrived, and the host whose disk has them. */
export type Presence = { generation: number; now: Mask; durable: Mask; from: HostName };

export type SourceJob = Extract<
  SourceEffect,
  { type: "scan-allocated" | "compare-digests" | "begin-memory" | "destroy-remains" }
>;
export type DestinationJob = Extract<
  DestinationEffect,
  {
    type:
      | "examine"
      | "digest"
      | "store-blocks"
      | "begin-memory"
      | "load"
      | "make-durable"
      | "resume-domain"
      | "flush";
  }
>;

export type SourceMachine = {
  role: "source";
  migration: string;
  peer: HostName;
  context: SourceContext;
  state: SourceState;
  /** Answers on their way, and work that has begun; each comes to its end when it likes. */
  pending: readonly (SourceEvent | { job: SourceJob })[];
  /** The hypervisor's live stream. */
  stream: number | undefined;
  written: Mask;
};

export type DestinationMachine = {
  role: "destination";
  migration: string;
  peer: HostName;
  context: DestinationContext;
  state: DestinationState;
  pending: readonly (DestinationEvent | { job: DestinationJob })[];
  /** The attempt that the incoming domain waits for. */
  incoming: number | undefined;
  isOpen: boolean;
  onlyBitmaps: boolean;
  prepared: PreparedState | undefined;
};

export type Machine = SourceMachine | DestinationMachine;

export type Daemon = {
  /** The generation under which the vbds are exported. */
  exported: number | undefined;
  rounds: Mask | undefined;
  machines: readonly Machine[];
  /** Each a `recover` that has asked the other host, and acts some time on what it heard. */
  recoveries: readonly { asked: Testimony; theirs: Testimony; turns: number }[];
};

export type Host = {
  name: HostName;
  journal: Journal;
  disk: Disk | undefined;
  tracker: Tracker;
  presence: Presence | undefined;
  guest: Guest | undefined;
  daemon: Daemon | undefined;
};

/** `read`: the message, once the block was read from the source's disk. */
export type LazyBlocks = {
  type: "lazy";
  effect: Extract<SourceEffect, { type: "send-blocks" }>;
  read: SourceMessage | undefined;
};

export type Link = {
  source: HostName;
  destination: HostName;
  isBroken: boolean;
  /** Whether the source holds a session, and whether the destination is attached to that one, or to one before it. */
  sourceIsUp: boolean;
  attached: "none" | "before" | "now";
  toDestination: readonly (SourceMessage | LazyBlocks)[];
  toSource: readonly DestinationMessage[];
};

/** What nobody in the model sees. */
export type Truth = {
  /** Per block the newest acknowledged write. */
  newest: readonly number[];
  memory: number;
  writes: number;
  /** The highest generation under which the guest may have run. */
  ran: number;
  /** An operator adopted the domain while another host still ran it, or may as soon as it is up. */
  wordWasFalse: boolean;
  adoptions: number;
  /** What a certificate may say. */
  given: readonly string[];
};

/** What may go wrong, or be done by people, at any time. */
export type Fault = "crashes" | "powers" | "losses" | "cancels" | "recovers" | "adopts" | "forgeries";

export type World = {
  hosts: Readonly<Partial<Record<HostName, Host>>>;
  links: Readonly<Record<string, Link>>;
  truth: Truth;
  /** The kinds of faults that the scenario has. */
  faults: readonly Fault[];
  /** How many more of them may happen, of whatever kind. */
  faultsLeft: number;
  /** How often the guest may write still. */
  writesLeft: number;
  /** Hops of the scenario that were begun. */
  hops: number;
};

export function mayHappen({ faults, faultsLeft }: World, fault: Fault): boolean {
  return faultsLeft > 0 && faults.includes(fault);
}

/** What is under test: the real machines and the real decision, or a mutant of one of them. */
export type Parts = {
  source: Pick<typeof import("../../protocol/source.ts"), "start" | "step" | "restore">;
  destination: Pick<typeof import("../../protocol/destination.ts"), "step" | "restore">;
  decide: typeof import("../../protocol/recovery.ts").decide;
  isAbout: typeof import("../../protocol/recovery.ts").isAbout;
  /** What the hosts around the machines do wrong. */
  daemon: {
    exportsWithoutLooking?: boolean;
    adoptsWithoutRaising?: boolean;
    neverFences?: boolean;
    takesBackTooEarly?: boolean;
    storesLateBlocks?: boolean;
    actsOnOldWord?: boolean;
    believesOneSignature?: boolean;
    believesClaims?: boolean;
  };
};

/** A rule that the real code promises, broken in a place where only the step itself can tell. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** The next world: hosts and links are copied when they are first asked for. */
export class Draft {
  readonly #hosts: Partial<Record<HostName, Host>>;
  readonly #links: Record<string, Link>;
  readonly #mine = new Set<unknown>();
  truth: Truth;
  faultsLeft: number;
  writesLeft: number;
  hops: number;
  readonly faults: readonly Fault[];
  readonly parts: Parts;

  constructor(world: World, parts: Parts) {
    this.parts = parts;
    this.#hosts = { ...world.hosts };
    this.#links = { ...world.links };
    this.truth = world.truth;
    this.faults = world.faults;
    this.faultsLeft = world.faultsLeft;
    this.writesLeft = world.writesLeft;
    this.hops = world.hops;
  }

  peek(name: HostName): Host {
    return this.#hosts[name]!;
  }

  get hostNames(): HostName[] {
    return Object.keys(this.#hosts) as HostName[];
  }

  /** For writing. Its machines are copied, too, but for their states: see `cloned`. */
  host(name: HostName): Host {
    const known = this.#hosts[name]!;
    if (this.#mine.has(known)) return known;
    const { daemon } = known;
    const copy: Host = { ...known, daemon: daemon === undefined ? undefined : copyDaemon(daemon) };
    this.#hosts[name] = copy;
    this.#mine.add(copy);
    return copy;
  }

  peekLink(migration: string): Link | undefined {
    return this.#links[migration];
  }

  link(migration: string): Link {
    const known = this.#links[migration]!;
    if (this.#mine.has(known)) return known;
    const copy = { ...known };
    this.#links[migration] = copy;
    this.#mine.add(copy);
    return copy;
  }

  get links(): Readonly<Record<string, Link>> {
    return this.#links;
  }

  addLink(migration: string, link: Link): void {
    this.#links[migration] = link;
    this.#mine.add(link);
  }

  done(): World {
    const { truth, faults, faultsLeft, writesLeft, hops } = this;
    return { hosts: this.#hosts, links: this.#links, truth, faults, faultsLeft, writesLeft, hops };
  }
}

function copyDaemon(daemon: Daemon): Daemon {
  return {
    ...daemon,
    machines: daemon.machines.map((machine) => ({ ...machine })),
  };
}

/** A machine's state, to be given to a step, which changes parts of it in place. */
export function cloned<T>(value: T): T {
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof BlockBitmap || value instanceof BlockSender || value instanceof HashDescent) {
    return value.clone() as T;
  }
  if (Array.isArray(value)) return value.map(cloned) as T;
  if (value instanceof Map) return new Map([...value].map(([key, item]) => [key, cloned(item)])) as T;
  if (value instanceof Set) return new Set(value) as T;
  if (value instanceof Uint8Array) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, cloned(item)])) as T;
}

export function maskOf(bitmap: BlockBitmap): Mask {
  let mask = 0;
  for (let block = 0; block < bitmap.blockCount; block++) if (bitmap.has(block)) mask |= 1 << block;
  return mask;
}

export function bitmapOf(mask: Mask, blockCount: number): BlockBitmap {
  const bitmap = new BlockBitmap(blockCount);
  for (let block = 0; block < blockCount; block++) if ((mask & (1 << block)) !== 0) bitmap.add(block);
  return bitmap;
}
