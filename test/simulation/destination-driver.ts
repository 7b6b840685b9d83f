/** The destination's driver, on simulated parts; by the same rules as the source's. */
import {
  type DestinationContext,
  type DestinationEffect,
  type DestinationEvent,
  type DestinationState,
  step,
} from "../../protocol/destination.ts";
import type { CopyAtDestination, DestinationMessage, HostId, MigrationId } from "../../protocol/messages.ts";
import { blockCountOf } from "../../protocol/units.ts";
import { StorageError } from "../../storage/errors.ts";
import { digestsOf } from "./blocks.ts";
import type { Daemon } from "./daemon.ts";
import type { SimBlockStore } from "./disk.ts";
import { destinationPersisted } from "./journal.ts";
import { MachineDriver } from "./machine-driver.ts";
import type { SessionEnd } from "./network.ts";
import { describe, nameOf, type SourceFrame } from "./source-driver.ts";
import {
  createDirtyLogs,
  createPresenceLogs,
  GuestVbds,
  imageOf,
  makeImages,
  openImages,
  storeArrival,
} from "./vbds.ts";

export type DestinationSession = SessionEnd<DestinationMessage, SourceFrame>;
type Effect<Type extends DestinationEffect["type"]> = Extract<DestinationEffect, { type: Type }>;

/** The hypervisor's side of an incoming memory stream. */
type IncomingStream = { attempt: number; isReady: boolean; load: Effect<"load"> | undefined };

export class DestinationDriver {
  readonly daemon: Daemon;
  readonly migration: MigrationId;
  readonly #context: DestinationContext;
  readonly #machine: MachineDriver<DestinationState, DestinationEvent, DestinationEffect>;
  #session: DestinationSession | undefined;
  /** The session that the machine knows of. An effect that comes after a `persist` must not reach the next one. */
  #speaking: DestinationSession | undefined;
  /** The attempt whose memory stream this session carries, once it was opened. */
  #memorySession: number | undefined;
  #images: readonly SimBlockStore[] | undefined;
  #vbds: GuestVbds | undefined;
  #incoming: IncomingStream | undefined;
  readonly #storing = new Set<Promise<unknown>>();

  constructor(
    daemon: Daemon,
    { migration, source, initial }: { migration: MigrationId; source: HostId; initial: DestinationState },
  ) {
    this.daemon = daemon;
    this.migration = migration;
    this.#context = { source, session: daemon.session };
    this.#machine = new MachineDriver(initial, {
      process: daemon.process,
      step: (state, event) => step(state, event, this.#context),
      perform: (effect) => this.#perform(effect),
      changed: (before, event, after) => this.#changed(before, event, after),
      failed: (error) => failure(error),
      broken: (error) => daemon.around.broken(error),
    });
  }

  get state(): DestinationState {
    return this.#machine.state;
  }

  async start(effects: readonly DestinationEffect[]): Promise<void> {
    await this.#machine.begin(effects);
  }

  /** A new session speaks for the source; an older one is lost with all that was in flight. */
  attach(session: DestinationSession): void {
    this.#session?.end();
    this.#session = session;
    this.#memorySession = undefined;
    session.onMessage = (frame) => {
      if (this.#session === session) this.#receive(session, frame);
    };
    session.onLost = () => {
      if (this.#session !== session) return;
      this.#session = undefined;
      this.#machine.post({ type: "peer-lost" }, () => {
        this.#speaking = undefined;
      });
    };
  }

  #receive(session: DestinationSession, frame: SourceFrame): void {
    if (frame.type === "memory-open") {
      const incoming = this.#incoming;
      const taken = this.daemon.host.hypervisor.domain?.incoming?.taken ?? 0;
      // Sent before the source heard that the attempt is over.
      if (incoming?.attempt !== frame.attempt) return;
      if (!incoming.isReady || frame.offset > taken) {
        this.daemon.around.wrong(`a memory stream at ${frame.offset}, taken were ${taken}`);
      }
      this.#memorySession = frame.attempt;
    } else if (frame.type === "records") {
      this.#takeMemory(frame);
    } else {
      this.daemon.around.log(this.#name, () => `◀ ${describe(frame)}`);
      this.#machine.post({ type: "received", message: frame }, () => {
        this.#speaking = session;
      });
    }
  }

  // Effects.

  #perform(effect: DestinationEffect): void | Promise<void> {
    const { host, process, around, vbdParts } = this.daemon;
    switch (effect.type) {
      case "send":
        around.log(this.#name, () => `▶ ${describe(effect.message)}`);
        return this.#speaking?.send(effect.message);
      case "examine":
        return this.#later(async () => this.#examine(effect));
      case "open-copies":
        makeImages(host, around.options.sizes);
        if (around.faults.disk.failing() > 0 && process.prng.chance(20)) {
          throw new StorageError({ code: "STORAGE_FULL", operation: "reserve space" });
        }
        this.#images = openImages(vbdParts);
        return;
      case "close-copies":
        this.#images = undefined;
        return;
      case "digest":
        return this.#later(async () => ({
          ...effect,
          type: "digests",
          digests: await digestsOf(this.#openImages[effect.vbd]!, effect),
        }));
      case "store-blocks":
        return this.#store(effect);
      case "begin-memory":
        return this.#beginMemory(effect.attempt);
      case "discard-memory":
        this.#incoming = undefined;
        return host.hypervisor.discardIncoming();
      case "load":
        this.#incoming!.load = effect;
        return this.#loadWhenWhole();
      case "make-durable":
        return this.#later(() => this.#makeDurable(effect));
      case "persist":
        return host.journal.commit(process, (state) => {
          const blockCounts = around.options.sizes.map(blockCountOf);
          const peer = this.#context.source;
          return destinationPersisted(state, { self: host.name, peer, blockCounts }, effect.record);
        });
      case "resume-domain":
        return this.#later(() => this.#resume(effect.generation));
      case "report-missing":
        return this.#reportMissing();
      case "flush":
        return this.#later(async () => {
          if (around.faults.flushFails())
            throw new StorageError({ code: "STORAGE_IO", operation: "flush", reason: "EIO" });
          await this.#vbds!.flush();
          return { type: "flushed", counts: this.#vbds!.counts() };
        });
      case "forget":
        return host.journal.forget(process, this.migration);
      case "drop-link":
        around.log(this.#name, () => `drops the link: ${effect.reason}`);
        return this.#speaking?.end();
    }
  }

  #examine({ generation }: Effect<"examine">): DestinationEvent {
    const { daemon } = this;
    const { host, around } = daemon;
    const { domain, copy } = host.journal.state;
    if (host.ownsDomain || (domain !== undefined && domain.generation > generation)) {
      return { type: "refused", code: "DOMAIN_IS_HERE", reason: "the domain is newer here" };
    }
    const busy = daemon.isBusy(this.migration);
    if (busy !== undefined) return { type: "refused", code: "HOST_IS_BUSY", reason: busy };
    if (copy.kind === "replica") around.replicaOffered(host, copy.generation);
    const copies = around.options.sizes.map((_, vbd): CopyAtDestination => {
      if (imageOf(host, vbd) === undefined || copy.kind === "none") return { kind: "none" };
      return copy.kind === "live" ? { kind: "unknown", reason: "it was the domain's" } : copy;
    });
    return { type: "examined", copies };
  }

  #store({ message }: Effect<"store-blocks">): void {
    const storing = (async (): Promise<DestinationEvent> => {
      if (this.#vbds === undefined) await storeArrival(this.#openImages[message.vbd]!, message);
      else await this.#vbds.arrive(message);
      return { type: "blocks-stored", ticket: message.ticket };
    })();
    this.#storing.add(storing);
    this.#later(() => storing.finally(() => this.#storing.delete(storing)));
  }

  /** Where the guest's writes will be tracked from the first one on is made here, too. */
  async #makeDurable(effect: Effect<"make-durable">): Promise<DestinationEvent> {
    const { attempt, generation, log, replicas, written, missing } = effect;
    const { daemon, migration } = this;
    await Promise.allSettled(this.#storing);
    await Promise.all(this.#openImages.map((image) => image.flush()));
    const next = generation + 1;
    await createPresenceLogs(daemon.vbdParts, { generation: next, migration, missing });
    await createDirtyLogs(daemon.vbdParts, next);
    await daemon.host.journal.commit(daemon.process, (state) => {
      const prepared = new Map(state.prepared).set(migration, { generation, log, replicas, written });
      return { ...state, prepared };
    });
    return { type: "durable", attempt };
  }

  async #resume(generation: number): Promise<DestinationEvent | undefined> {
    const { daemon, migration } = this;
    const { host, process, around } = daemon;
    this.#images = undefined;
    this.#vbds ??= await GuestVbds.open(daemon.vbdParts, {
      generation,
      incoming: {
        migration,
        pull: (vbd, runs) => this.#machine.post({ type: "need-blocks", vbd, runs }),
        complete: () => this.#machine.post({ type: "nothing-missing" }),
      },
    });
    if (!process.alive) return undefined;
    daemon.export(this.#vbds);
    if (around.faults.hypervisorRefuses()) throw new Error("the hypervisor refuses to resume");
    // A host that lost its power has no state to resume: the domain is off, and this host's.
    if (host.hypervisor.domain !== undefined) {
      around.resumed(host);
      host.hypervisor.resume();
    }
    this.#incoming = undefined;
    if (this.#vbds.isNothingMissing) this.#machine.post({ type: "nothing-missing" });
    return { type: "domain-resumed" };
  }

  #reportMissing(): void {
    const vbds = this.#vbds!;
    this.#answer({ type: "missing", blocks: vbds.missing() });
    for (const { vbd, runs } of vbds.waitedFor()) this.#answer({ type: "need-blocks", vbd, runs });
  }

  // Memory.

  #beginMemory(attempt: number): void {
    const incoming: IncomingStream = { attempt, isReady: false, load: undefined };
    this.#incoming = incoming;
    this.#later(async () => {
      const { host, process, around } = this.daemon;
      await process.sleep(process.prng.between(0, 20));
      if (this.#incoming !== incoming) return undefined;
      if (around.faults.hypervisorRefuses()) throw new Error("the hypervisor refuses to receive");
      host.hypervisor.migrateIn(around.options.memory.pages);
      incoming.isReady = true;
      return { type: "memory-ready", attempt };
    });
  }

  /** The hypervisor takes what it is given at its own pace. */
  #takeMemory({ attempt, offset, records }: Extract<SourceFrame, { type: "records" }>): void {
    const { host } = this.daemon;
    const domain = host.hypervisor.domain?.incoming;
    if (this.#incoming?.attempt !== attempt || this.#memorySession !== attempt) return;
    if (domain === undefined) return;
    for (const [index, record] of records.entries()) {
      if (offset + index < domain.taken) continue;
      if (offset + index > domain.taken) this.daemon.around.wrong("a gap in the memory stream");
      host.hypervisor.take(record);
    }
    this.#answer({ type: "memory-taken", attempt, offset: domain.taken });
    this.#loadWhenWhole();
  }

  #loadWhenWhole(): void {
    const load = this.#incoming?.load;
    const domain = this.daemon.host.hypervisor.domain?.incoming;
    if (load === undefined || domain?.taken !== load.memoryBytes) return;
    const { faults, wrong } = this.daemon.around;
    if (!domain.isWhole) wrong("a state to load that does not end with a freeze");
    this.#incoming!.load = undefined;
    this.#answer(
      faults.hypervisorRefuses()
        ? { type: "failed", code: "HYPERVISOR_FAILED", reason: "the state does not load" }
        : { type: "loaded", attempt: load.attempt },
    );
  }

  // Events.

  #answer(event: DestinationEvent): void {
    this.daemon.process.after(this.daemon.around.faults.answerMs(), () => this.#machine.post(event));
  }

  #later(work: () => Promise<DestinationEvent | undefined>): void {
    work().then(
      (event) => {
        if (event !== undefined) this.#answer(event);
      },
      (error: unknown) => {
        if (this.daemon.process.alive) this.#machine.post(failure(error));
      },
    );
  }

  get #openImages(): readonly SimBlockStore[] {
    if (this.#images === undefined) throw new Error("the copies are not open");
    return this.#images;
  }

  #changed(before: DestinationState, event: DestinationEvent, after: DestinationState): void {
    if (before.phase === after.phase) return;
    this.daemon.around.log(this.#name, () => `${before.phase} ── ${nameOf(event)} ──▶ ${after.phase}`);
  }

  get #name(): string {
    return `${this.daemon.host.name} destination ${this.migration}`;
  }
}

function failure(error: unknown): DestinationEvent {
  const code = error instanceof StorageError ? error.code : "DESTINATION_FAILED";
  return { type: "failed", code, reason: String(error) };
}
