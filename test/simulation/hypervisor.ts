/**
 * A host's hypervisor with at most one domain, which outlives the daemon and dies with the host's power. Its
 * memory is a handful of pages, each a number. A live stream carries pages, and at a freeze the processor's
 * state: whoever resumes must hold exactly what was frozen.
 */
import type { Process } from "./process.ts";

export type Memory = { pages: number[]; steps: number };

/** `processor` is the end of a freeze's tail: the state is whole exactly there. */
export type MemoryRecord = { page: number; value: number } | { processor: number };

export type Domain = {
  /** `freezing`: issues nothing more and waits for its I/O. */
  state: "running" | "freezing" | "suspended" | "incoming";
  memory: Memory;
  outgoing: OutgoingMemory | undefined;
  incoming: { taken: number; isWhole: boolean } | undefined;
};

export class SimHypervisor {
  domain: Domain | undefined;
  readonly #hooks: { quiet: () => boolean; resumed: () => void };

  /** `quiet`: none of the guest's I/O is unanswered. */
  constructor(hooks: { quiet: () => boolean; resumed: () => void }) {
    this.#hooks = hooks;
  }

  start(memory: Memory): void {
    this.domain = { state: "running", memory, outgoing: undefined, incoming: undefined };
    this.#hooks.resumed();
  }

  /** The guest changes its memory. */
  touch(page: number, value: number): void {
    const { memory, outgoing } = this.domain!;
    memory.steps += 1;
    memory.pages[page] = value;
    outgoing?.dirtied(page);
  }

  /** Called whenever an I/O was answered. */
  ioAnswered(): void {
    const { domain } = this;
    if (domain?.state !== "freezing" || !this.#hooks.quiet()) return;
    domain.state = "suspended";
    domain.outgoing?.domainFrozen();
  }

  freeze(): void {
    const domain = this.domain!;
    if (domain.state === "running") domain.state = "freezing";
    this.ioAnswered();
  }

  /** Lets a domain that is being frozen, or is frozen, run on. A frozen one with an incoming state runs for the first time. */
  resume(): void {
    const { domain } = this;
    if (domain === undefined) return;
    domain.incoming = undefined;
    if (domain.state === "running") return;
    domain.state = "running";
    this.#hooks.resumed();
  }

  migrateOut(process: Process, hooks: OutgoingHooks, options: OutgoingOptions): OutgoingMemory {
    const domain = this.domain!;
    const outgoing = new OutgoingMemory(process, domain, hooks, options);
    domain.outgoing = outgoing;
    return outgoing;
  }

  migrateIn(pageCount: number): void {
    this.domain = {
      state: "incoming",
      memory: { pages: new Array(pageCount).fill(-1), steps: -1 },
      outgoing: undefined,
      incoming: { taken: 0, isWhole: false },
    };
  }

  take(record: MemoryRecord): void {
    const { memory, incoming } = this.domain!;
    incoming!.taken += 1;
    incoming!.isWhole = "processor" in record;
    if ("processor" in record) memory.steps = record.processor;
    else memory.pages[record.page] = record.value;
  }

  /** Ends a domain that was being received; one that runs is not touched. */
  discardIncoming(): void {
    if (this.domain?.incoming !== undefined) this.domain = undefined;
  }

  destroy(): void {
    this.domain = undefined;
  }
}

const ROUNDS_MAX = 12;

export type OutgoingHooks = {
  produced: () => void;
  round: (converged: boolean) => void;
  frozen: () => void;
  /** The tail was given out; the stream is `length` records long. */
  ended: (length: number) => void;
};

export type OutgoingOptions = { windowRecords: number; recordMs: number; convergedPages: number };

/** The live stream, with the window of it that the peer's hypervisor has not taken yet. */
export class OutgoingMemory {
  readonly #process: Process;
  readonly #domain: Domain;
  readonly #hooks: OutgoingHooks;
  readonly #options: OutgoingOptions;
  readonly #records: MemoryRecord[] = [];
  /** Records before this offset were forgotten. */
  #base = 0;
  #pass: Set<number>;
  #dirty = new Set<number>();
  #rounds = 0;
  #isEnding = false;
  #isCancelled = false;

  constructor(process: Process, domain: Domain, hooks: OutgoingHooks, options: OutgoingOptions) {
    this.#process = process;
    this.#domain = domain;
    this.#hooks = hooks;
    this.#options = options;
    this.#pass = new Set(domain.memory.pages.keys());
    this.#pump();
  }

  get length(): number {
    return this.#base + this.#records.length;
  }

  /** Throws for an offset outside of the window: bytes that were promised to be kept are gone. */
  record(offset: number): MemoryRecord | undefined {
    if (offset < this.#base) throw new Error(`memory record ${offset} was forgotten up to ${this.#base}`);
    return this.#records[offset - this.#base];
  }

  forget(offset: number): void {
    if (offset > this.length) throw new Error(`a memory stream of ${this.length} was taken up to ${offset}`);
    this.#records.splice(0, Math.max(0, offset - this.#base));
    this.#base = Math.max(this.#base, offset);
  }

  dirtied(page: number): void {
    this.#dirty.add(page);
  }

  domainFrozen(): void {
    if (this.#isCancelled) return;
    this.#hooks.frozen();
    this.#isEnding = true;
  }

  thaw(): void {
    this.#isEnding = false;
  }

  cancel(): void {
    this.#isCancelled = true;
    if (this.#domain.outgoing === this) this.#domain.outgoing = undefined;
  }

  #pump(): void {
    this.#process.after(this.#process.prng.between(1, this.#options.recordMs), () => {
      if (this.#isCancelled) return;
      if (this.#records.length < this.#options.windowRecords) this.#produce();
      this.#pump();
    });
  }

  #produce(): void {
    const { memory } = this.#domain;
    if (this.#isEnding) {
      for (const page of new Set([...this.#pass, ...this.#dirty])) {
        this.#records.push({ page, value: memory.pages[page]! });
      }
      this.#pass.clear();
      this.#dirty.clear();
      this.#records.push({ processor: memory.steps });
      this.#isEnding = false;
      this.#hooks.produced();
      this.#hooks.ended(this.length);
      return;
    }
    if (this.#domain.state === "suspended") return;
    for (const page of this.#pass) {
      this.#pass.delete(page);
      this.#records.push({ page, value: memory.pages[page]! });
      this.#hooks.produced();
      return;
    }
    this.#pass = this.#dirty;
    this.#dirty = new Set();
    this.#rounds += 1;
    // As hypervisors do: after enough passes the rest goes in the freeze, however much it is.
    this.#hooks.round(this.#pass.size <= this.#options.convergedPages || this.#rounds >= ROUNDS_MAX);
  }
}
