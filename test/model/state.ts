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
  boots: number;
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
  session: number;
  isBroken: boolean;
  /** Whether the source holds a session, and which one the destination is attached to. */
  sourceIsUp: boolean;
  attached: number;
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
  /** An operator adopted the domain while the other host still ran it, or may. */
  wordWasFalse: boolean;
  adoptions: number;
  /** What a certificate may say. */
  given: readonly string[];
};

export type Faults = {
  crashes: number;
  powers: number;
  losses: number;
  cancels: number;
  recovers: number;
  adopts: number;
  writes: number;
  refusals: number;
  forgeries: number;
};

export type World = {
  hosts: Readonly<Partial<Record<HostName, Host>>>;
  links: Readonly<Record<string, Link>>;
  truth: Truth;
  left: Faults;
  /** All of `left` together may not exceed this. */
  faultsLeft: number;
  /** Hops of the scenario that were begun. */
  hops: number;
};

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
  left: Faults;
  faultsLeft: number;
  hops: number;
  readonly parts: Parts;

  constructor(world: World, parts: Parts) {
    this.parts = parts;
    this.#hosts = { ...world.hosts };
    this.#links = { ...world.links };
    this.truth = world.truth;
    this.left = world.left;
    this.faultsLeft = world.faultsLeft;
    this.hops = world.hops;
  }

  peek(name: HostName): Host {
    return this.#hosts[name]!;
  }

  get hostNames(): HostName[] {
    return Object.keys(this.#hosts) as HostName[];
  }

  /** For writing. Its machines' states are copied, too: `step` changes them in place. */
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

  spend(kind: keyof Faults, { counts = true } = {}): void {
    this.left = { ...this.left, [kind]: this.left[kind] - 1 };
    if (counts) this.faultsLeft -= 1;
  }

  done(): World {
    const { truth, left, faultsLeft, hops } = this;
    return { hosts: this.#hosts, links: this.#links, truth, left, faultsLeft, hops };
  }
}

function copyDaemon(daemon: Daemon): Daemon {
  return {
    ...daemon,
    machines: daemon.machines.map((machine) => {
      return { ...machine, state: cloned(machine.state) } as Machine;
    }),
  };
}

/** The parts of a machine's state that its steps change in place. */
function cloned<T>(value: T): T {
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

const texts = new WeakMap<object, string>();

/** Hosts and links are shared by thousands of worlds, so their text is made once. */
export function keyOf({ hosts, links, truth, left, faultsLeft, hops }: World): string[] {
  const parts = [...Object.values(hosts), ...Object.values(links)].map((part) => {
    const known = texts.get(part);
    if (known !== undefined) return known;
    const text = textOf(part);
    texts.set(part, text);
    return text;
  });
  const { newest, memory, writes, ran, wordWasFalse, adoptions, given } = truth;
  const known = [newest, memory, writes, ran, wordWasFalse, adoptions, given];
  const rest = [known, Object.values(left), faultsLeft, hops];
  return [...parts, String(rest)];
}

/** One text for all values that behave alike. What is the same throughout a migration is left out. */
function textOf(value: unknown): string {
  if (typeof value !== "object") return `${value as string}`;
  if (value === null) return "-";
  if (value instanceof BlockBitmap) return `b${maskOf(value)}`;
  if (value instanceof BlockSender || value instanceof HashDescent) return textOf(value.snapshot());
  if (value instanceof Uint8Array) return `x${value.length < 64 ? value.join() : value.length}`;
  let text = "";
  if (Array.isArray(value) || value instanceof Map || value instanceof Set) {
    for (const item of value) text += `${textOf(item)},`;
    return `[${text}]`;
  }
  for (const key in value) {
    if (key === "context") continue;
    const item = (value as Record<string, unknown>)[key];
    if (key === "domain") text += summaryOf(item);
    else if (key === "custody") text += `${custodyText(item as Journal["custody"])},`;
    else text += `${key}:${textOf(item)},`;
  }
  return `{${text}}`;
}

function summaryOf(item: unknown): string {
  const { generation, owner, state } = (item ?? {}) as Partial<DomainRecord>;
  return `${generation}${owner}${state},`;
}

function custodyText(custody: Journal["custody"]): string {
  if (custody === undefined) return "";
  return custody
    .map(({ certificate, fromSignature, toSignature }) => {
      const { generation, kind, from, to, previous } = certificate;
      const signatures = `${fromSignature === undefined ? "" : "f"}${toSignature === undefined ? "" : "t"}`;
      return `${generation}${kind}${from}${to}${previous.slice(0, 8)}${signatures}`;
    })
    .join(";");
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
