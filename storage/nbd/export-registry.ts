/**
 * The exports of a host by name, shared by its NBD servers.
 *
 * An export lives from `add` to `remove`. A connection keeps the entry that it negotiated, never the name: an export
 * that is added again under an old name is another one, and no old connection reaches it.
 *
 *   serving ──suspend──▶ suspended ──resume──▶ serving
 *      └──────remove──────▶ removed ◀──remove──────┘      what is in flight completes in every state
 */
import type { BlockStore } from "../block-store.ts";
import { NBD_FLAG } from "./constants.ts";
import { NbdError } from "./errors.ts";
import { BASE_ALLOCATION, type MetadataContext } from "./metadata-contexts.ts";

export type NbdExport = {
  /** What a client must know to get here. Carries a random token where the bytes are not for everyone. */
  name: string;
  store: BlockStore;
  readOnly: boolean;
  description: string;
  /** A flush on one connection covers what was answered on all: true for every store of ours. */
  canMultiConn: boolean;
  /** Contexts beside `base:allocation`; asked at each negotiation. */
  contexts?: () => readonly MetadataContext[];
  /** Whether NBD_OPT_LIST tells the name. An unlisted export is reached by its exact name only. */
  listed: boolean;
  /** `writeZeroes` is never slower than writing: FAST_ZERO requests are tried rather than refused. */
  canFastZero?: boolean;
};

/** A connection, as the registry sees it. */
export interface ExportUser {
  /** The export was suspended, resumed or removed: look again at what is waiting. */
  exportChanged(): void;
  /** Nothing is in flight any more: send what is answered and close. */
  exportGone(): void;
}

export class ExportEntry {
  readonly export: NbdExport;
  readonly sizeBytes: number;
  readonly users = new Set<ExportUser>();
  phase: "serving" | "suspended" | "removed" = "serving";
  #inFlight = 0;
  #idleWaiters: (() => void)[] = [];

  constructor(nbdExport: NbdExport) {
    this.export = nbdExport;
    this.sizeBytes = nbdExport.store.sizeBytes;
  }

  /** Operations given to the store and not completed. One that completes at once is never counted. */
  get inFlight(): number {
    return this.#inFlight;
  }

  begin(): void {
    this.#inFlight++;
  }

  end(): void {
    if (--this.#inFlight > 0) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const resolve of waiters) resolve();
  }

  idle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  transmissionFlags({ structuredReplies }: { structuredReplies: boolean }): number {
    const { readOnly, canMultiConn } = this.export;
    let flags = NBD_FLAG.HAS_FLAGS | NBD_FLAG.SEND_FLUSH | NBD_FLAG.SEND_FUA | NBD_FLAG.SEND_CACHE;
    if (readOnly) flags |= NBD_FLAG.READ_ONLY;
    else flags |= NBD_FLAG.SEND_TRIM | NBD_FLAG.SEND_WRITE_ZEROES | NBD_FLAG.SEND_FAST_ZERO;
    if (structuredReplies) flags |= NBD_FLAG.SEND_DF;
    if (canMultiConn) flags |= NBD_FLAG.CAN_MULTI_CONN;
    return flags;
  }

  /** The contexts on offer; `base:allocation` has no extents of its own here, the connection asks the store. */
  contextNames(): MetadataContext[] {
    const base: MetadataContext = { name: BASE_ALLOCATION, extentsOf: () => [] };
    return [base, ...(this.export.contexts?.() ?? [])];
  }
}

export class ExportRegistry {
  readonly #entries = new Map<string, ExportEntry>();
  readonly #removals = new Map<string, Promise<void>>();
  readonly #defaultName: string | undefined;

  /** `defaultName`: the export that the empty name means; without it the empty name is unknown. */
  constructor({ defaultName }: { defaultName?: string } = {}) {
    this.#defaultName = defaultName;
  }

  add(nbdExport: NbdExport): void {
    const { name } = nbdExport;
    if (this.#entries.has(name)) throw new NbdError({ code: "NBD_EXPORT_EXISTS", name });
    this.#entries.set(name, new ExportEntry(nbdExport));
  }

  /**
   * New requests are refused with ESHUTDOWN, those in flight complete, then the connections are closed. When this
   * resolves no request of any connection can reach the store any more. The store stays open: it is its owner's.
   */
  async remove(name: string): Promise<void> {
    const entry = this.#entries.get(name);
    // Whoever asks a second time waits as long as the first.
    if (entry === undefined) return this.#removals.get(name);
    this.#entries.delete(name);
    const removal = drain(entry);
    this.#removals.set(name, removal);
    await removal;
    if (this.#removals.get(name) === removal) this.#removals.delete(name);
  }

  /** Holds new requests without an answer, so that the guest waits; resolves when nothing is in flight. */
  async suspend(name: string): Promise<void> {
    const entry = this.#entries.get(name);
    if (entry === undefined) return;
    if (entry.phase === "serving") entry.phase = "suspended";
    await entry.idle();
  }

  resume(name: string): void {
    const entry = this.#entries.get(name);
    if (entry?.phase !== "suspended") return;
    entry.phase = "serving";
    for (const user of [...entry.users]) user.exportChanged();
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** What a negotiation reaches by a name. */
  find(name: string): ExportEntry | undefined {
    const wanted = name === "" && !this.#entries.has("") ? this.#defaultName : name;
    return wanted === undefined ? undefined : this.#entries.get(wanted);
  }

  listed(): readonly NbdExport[] {
    return [...this.#entries.values()].map((entry) => entry.export).filter((candidate) => candidate.listed);
  }

  names(): readonly string[] {
    return [...this.#entries.keys()];
  }
}

async function drain(entry: ExportEntry): Promise<void> {
  entry.phase = "removed";
  for (const user of [...entry.users]) user.exportChanged();
  await entry.idle();
  for (const user of [...entry.users]) user.exportGone();
}
