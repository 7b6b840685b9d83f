/**
 * Runs the destination's half of one migration on real parts. It performs the effects of
 * `protocol/destination.ts` and answers with events; every decision is made there. The source dials: a
 * session is given to the driver, and a newer one takes the place of an older one.
 */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { countOf } from "../../protocol/block-sender.ts";
import type {
  DestinationContext,
  DestinationEffect,
  DestinationEvent,
  DestinationRecord,
  DestinationState,
} from "../../protocol/destination.ts";
import { step } from "../../protocol/destination.ts";
import type { GenerationLogEntry } from "../../protocol/generation-log.ts";
import { VBDS_MAX } from "../../protocol/limits.ts";
import type {
  CopyAtDestination,
  DomainDescription,
  MigrationId,
  ReplicaNote,
  RungChoice,
  SourceMessage,
} from "../../protocol/messages.ts";
import { BLOCK_SIZE_BYTES, type Generation } from "../../protocol/units.ts";
import { digestsOf } from "../../storage/digests.ts";
import type { Attachment, Copies } from "../attachment/attachment.ts";
import type { FaultPoints } from "../fault-points.ts";
import type { IncomingMemory } from "../hypervisor/hypervisor.ts";
import type { Log } from "../log.ts";
import { IncomingStream } from "./incoming-stream.ts";
import { MachineDriver } from "./machine-driver.ts";
import { pullsOf } from "./pulls.ts";
import { type Session, toError } from "./session.ts";

/** What is to be kept of a handover: the log travels with the domain. */
export type PreparedState = {
  generation: Generation;
  log: readonly GenerationLogEntry[];
  replicas: readonly ReplicaNote[];
  written: readonly BlockBitmap[];
};

export type Examination =
  | { copies: readonly CopyAtDestination[] }
  | { refused: { code: string; reason: string } };

export type DestinationParts = {
  log: Log;
  faults: FaultPoints;
  examine(domain: DomainDescription, generation: Generation): Promise<Examination>;
  /** The copies as stores to be written to, not yet exported to any domain. */
  openCopies(domain: DomainDescription, choices: readonly RungChoice[]): Promise<Copies>;
  closeCopies(copies: Copies | undefined): Promise<void>;
  /** Durable when it resolves; ownership, log and replica labels change with it. */
  persist(record: DestinationRecord, prepared: PreparedState | undefined): Promise<void>;
  forget(): Promise<void>;
  prepareMemory(domain: DomainDescription): Promise<IncomingMemory>;
  /** Ends a domain that was being received, also one of an earlier process of this daemon. */
  discardMemory(domain: DomainDescription | undefined): Promise<void>;
  /** Makes `missing` durable, beside the copies. */
  keepMissing(copies: Copies, missing: readonly BlockBitmap[]): Promise<void>;
  /** What of `resume` can be done before the handover, once the missing blocks are kept; `loaded`: the memory is here. */
  stage(loaded: Promise<unknown>, hooks: ResumeHooks): Promise<void>;
  unstage(): Promise<void>;
  /** Exports the vbds under `generation`, tracked from the first write on, and lets the domain run. */
  resume(copies: Copies | undefined, generation: Generation, hooks: ResumeHooks): Promise<Attachment>;
  changed(state: DestinationState): void;
};

export type ResumeHooks = { needBlocks: (event: DestinationEvent) => void; nothingMissing: () => void };

/** With these a destination goes on as if it had never been prepared. */
const UNSTAGING = new Set<DestinationEffect["type"]>([
  "begin-memory",
  "discard-memory",
  "close-copies",
  "store-blocks",
  "make-durable",
]);

/** What a disk writes within some ten milliseconds: so much may be left to flush at the freeze. */
const FLUSH_EVERY_BYTES = 4 << 20;

const RESUME_RETRY_MS = 2_000;
const MEMORY_LOST = "the domain that was being received has ended";

/** Bytes of blocks that were read from the socket and not yet stored. A peer that sends on is not read. */
const UNSTORED_BYTES_MAX = 32 << 20;
/** Questions of the hash rung answered at once: an honest source keeps four open for each vbd. */
const DIGESTS_OPEN_MAX = 4 * VBDS_MAX;

export class DestinationDriver {
  readonly migration: MigrationId;
  readonly context: DestinationContext;
  readonly #parts: DestinationParts;
  readonly #machine: MachineDriver<DestinationState, DestinationEvent, DestinationEffect>;
  readonly domain: DomainDescription;
  #session: Session<SourceMessage> | undefined;
  #copies: Copies | undefined;
  #incoming: IncomingStream | undefined;
  /** From `prepare` on; settles with the memory that the attempt brings. */
  #loading: (PromiseWithResolvers<void> & { attempt: number }) | undefined;
  #prepared: PreparedState | undefined;
  readonly #storing = new Set<Promise<unknown>>();
  #unstoredBytes = 0;
  #digestsOpen = 0;
  /** Settles, and never fails, when what can be done before the handover is done. */
  #staging: Promise<void> | undefined;
  #giveUpStaging: ((reason: Error) => void) | undefined;
  #retry: NodeJS.Timeout | undefined;
  /** To let the domain run. */
  #attempt: "none" | "running" | "done" = "none";
  #stopped = false;
  #unflushedBytes = 0;
  #flushing: Promise<void> | undefined;
  #roomMade: (() => void) | undefined;

  constructor(
    migration: MigrationId,
    initial: DestinationState,
    domain: DomainDescription,
    context: DestinationContext,
    parts: DestinationParts,
  ) {
    this.migration = migration;
    this.context = context;
    this.domain = domain;
    this.#parts = parts;
    this.#machine = new MachineDriver(initial, {
      step: (state, event) => step(state, event, context),
      perform: (effect) => this.#perform(effect),
      changed: (state) => this.#changed(state),
      failed: (error, state) => this.#failed(error, state),
    });
  }

  get state(): DestinationState {
    return this.#machine.state;
  }

  async start(effects: readonly DestinationEffect[]): Promise<void> {
    await this.#machine.begin(effects);
    this.#parts.changed(this.state);
  }

  /** A new session speaks for the source; an older one is lost with all that was in flight. */
  attach(session: Session<SourceMessage>): void {
    this.#session?.end(new Error("the source opened another session"));
    session.setVbds(this.domain.vbds.map(({ sizeBytes }) => sizeBytes));
    this.#session = session;
  }

  detached(session: Session<SourceMessage>): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    this.#machine.post({ type: "peer-lost" });
  }

  /** Resolves when there is room for the next message. */
  async received(session: Session<SourceMessage>, message: SourceMessage): Promise<void> {
    if (this.#session !== session) return;
    if (message.type === "blocks") this.#unstoredBytes += costOf(message);
    this.#machine.post({ type: "received", message });
    const isFull = (): boolean =>
      this.#unstoredBytes > UNSTORED_BYTES_MAX || this.#digestsOpen > DIGESTS_OPEN_MAX;
    while (isFull() && this.#session === session) {
      await new Promise<void>((resolve) => {
        this.#roomMade = resolve;
      });
    }
  }

  /** The source's memory stream. Resolves when the channel ended. */
  async readMemory(attempt: number, offset: number, frames: AsyncIterable<Uint8Array>): Promise<void> {
    const incoming = this.#incoming;
    if (incoming === undefined || incoming.attempt !== attempt || offset > incoming.taken) {
      throw new Error(`no memory stream ${attempt} is expected at offset ${offset}`);
    }
    await incoming.read(frames);
  }

  /** Its source has given this attempt up: as if it had said so. Resolves when it is tidied up. */
  async abandon(reason: string): Promise<void> {
    const { migration } = this;
    this.#session?.end(new Error(reason));
    this.#machine.post({ type: "received", message: { type: "abort", migration, reason } });
    await this.#machine.idle();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#session?.end(new Error("the daemon stops"));
    await this.#machine.stop();
    await this.#unstage();
  }

  /** Stops, and lets go of the copies: this migration is over for this host, and not by the machine's word. */
  async release(): Promise<void> {
    await this.stop();
    const copies = this.#copies;
    this.#copies = undefined;
    await Promise.allSettled(this.#storing);
    await copies?.flush();
    await copies?.close();
  }

  async #perform(effect: DestinationEffect): Promise<void> {
    const parts = this.#parts;
    if (this.#staging !== undefined && UNSTAGING.has(effect.type)) await this.#unstage();
    switch (effect.type) {
      case "send":
        return this.#send(effect);
      case "examine":
        return this.#later(async () => {
          const found = await parts.examine(effect.domain, effect.generation);
          return "refused" in found ? { type: "refused", ...found.refused } : { type: "examined", ...found };
        });
      case "open-copies":
        this.#copies = await parts.openCopies(this.domain, effect.choices);
        return;
      case "close-copies": {
        const copies = this.#copies;
        this.#copies = undefined;
        return parts.closeCopies(copies);
      }
      case "digest":
        return this.#digest(effect);
      case "store-blocks":
        return this.#store(effect);
      case "begin-memory":
        return this.#beginMemory(effect.attempt);
      case "discard-memory":
        return this.#discardMemory();
      case "load":
        return this.#load(effect);
      case "make-durable":
        return this.#makeDurable(effect);
      case "persist":
        return this.#persist(effect.record);
      case "resume-domain":
        return this.#resume(effect.generation);
      case "report-missing": {
        const copies = this.#open();
        this.#machine.post({ type: "missing", blocks: copies.missing() });
        for (const waiting of copies.waitedFor()) this.#machine.post({ type: "need-blocks", ...waiting });
        return;
      }
      case "flush":
        return this.#later(async () => {
          await this.#open().flush();
          return { type: "flushed", counts: this.#open().counts() };
        });
      case "forget":
        return parts.forget();
      case "drop-link":
        return this.#session?.end(new Error(effect.reason));
    }
  }

  async #send({ message }: Extract<DestinationEffect, { type: "send" }>): Promise<void> {
    if (message.type === "pull") {
      for (const runs of pullsOf(message.runs)) this.#session?.send({ ...message, runs });
      return;
    }
    // What was loaded is gone again, and the source still has it: it must not take our word for it.
    if (message.type === "prepared" && this.#incoming?.memory.isLost?.()) throw new Error(MEMORY_LOST);
    this.#session?.send(message);
    if (message.type === "prepared") await this.#parts.faults.point("destination-prepared");
    if (message.type === "resumed") await this.#parts.faults.point("destination-resumed");
  }

  #digest({ vbd, level, start, count }: Extract<DestinationEffect, { type: "digest" }>): void {
    this.#digestsOpen += 1;
    this.#later(async () => {
      try {
        const digests = await digestsOf(this.#open().store(vbd), { level, start, count });
        return { type: "digests", vbd, level, start, digests };
      } finally {
        this.#digestsOpen -= 1;
        this.#roomMade?.();
      }
    });
  }

  #store({ message }: Extract<DestinationEffect, { type: "store-blocks" }>): void {
    const { ticket, vbd, runs, zeroes, data, purpose } = message;
    const work = async (): Promise<DestinationEvent> => {
      const { faults } = this.#parts;
      await faults.point(purpose === "precopy" ? "destination-receiving" : "destination-postcopy");
      await this.#open().arrive(vbd, { runs, zeroes, data });
      return { type: "blocks-stored", ticket };
    };
    this.#flushSoon(data.length);
    const storing = work().finally(() => {
      this.#storing.delete(storing);
      this.#unstoredBytes -= costOf(message);
      this.#roomMade?.();
    });
    this.#storing.add(storing);
    this.#later(() => storing);
  }

  /**
   * Flushes while pre-copy goes on, so that little is left to flush when the domain is frozen: the disk's
   * share of the downtime must not grow with what was copied.
   */
  #flushSoon(bytes: number): void {
    this.#unflushedBytes += bytes;
    if (this.#flushing !== undefined || this.#unflushedBytes < FLUSH_EVERY_BYTES) return;
    this.#unflushedBytes = 0;
    this.#flushing = Promise.resolve(this.#copies?.flush())
      // What cannot be flushed now fails again when it has to be durable, and is reported there.
      .catch(() => undefined)
      .finally(() => {
        this.#flushing = undefined;
      });
  }

  #beginMemory(attempt: number): void {
    this.#later(async () => {
      const memory = await this.#parts.prepareMemory(this.domain);
      // The rest of pre-copy, while the memory takes its time.
      await this.#copies?.flush();
      const incoming = new IncomingStream(
        { attempt, memory },
        {
          onTaken: (offset) => this.#machine.post({ type: "memory-taken", attempt, offset }),
          onLost: () => {
            // Before that the next bytes find out; after it the domain is ours, and has crashed.
            if (!["loading", "prepared"].includes(this.state.phase) || this.#incoming !== incoming) return;
            this.#machine.post(this.#failure(new Error(MEMORY_LOST)));
          },
        },
      );
      this.#incoming = incoming;
      return { type: "memory-ready", attempt };
    });
  }

  async #discardMemory(): Promise<void> {
    const incoming = this.#incoming;
    this.#incoming = undefined;
    await incoming?.memory.discard();
    await this.#parts.discardMemory(this.domain);
  }

  #load({ attempt, memoryBytes }: Extract<DestinationEffect, { type: "load" }>): void {
    const incoming = this.#incoming;
    if (incoming === undefined) throw new Error("no memory stream was begun");
    const loaded = incoming.memory.loaded(memoryBytes);
    if (this.#loading?.attempt === attempt) this.#loading.resolve(loaded);
    this.#later(
      async () => {
        await loaded;
        incoming.report();
        return { type: "loaded", attempt };
      },
      // Of a `prepare` whose link was lost: the source was thawed, and its stream goes on beyond that length.
      () => this.#incoming === incoming && this.#isLoading(attempt),
    );
  }

  #makeDurable(effect: Extract<DestinationEffect, { type: "make-durable" }>): void {
    const { attempt, generation, log, replicas, written, missing } = effect;
    this.#prepared = { generation, log, replicas, written };
    this.#loading = { attempt, ...Promise.withResolvers<void>() };
    this.#loading.promise.catch(() => undefined);
    this.#later(async () => {
      const copies = this.#open();
      await Promise.all(this.#storing);
      await copies.flush();
      await this.#parts.keepMissing(copies, missing);
      if (this.#isLoading(attempt)) this.#stage(this.#loading!.promise);
      return { type: "durable", attempt };
    });
  }

  #isLoading(attempt: number): boolean {
    return this.state.phase === "loading" && this.#loading?.attempt === attempt;
  }

  async #persist(record: DestinationRecord): Promise<void> {
    const { faults } = this.#parts;
    if (record.phase === "prepared") await faults.point("destination-before-prepared-persist");
    if (record.phase === "owner") await faults.point("destination-handover-received");
    if (record.phase === "synchronised") await faults.point("destination-before-synchronised-persist");
    await this.#parts.persist(record, this.#prepared);
    if (record.phase === "prepared") await faults.point("destination-after-prepared-persist");
    if (record.phase === "owner") await faults.point("destination-owner-persisted");
  }

  /**
   * Tried again until it works: nobody else may run the domain. Each failure is shown as the domain's problem. The
   * machine asks anew with the source's next session, and time does: one attempt after the other, and none after the
   * one that worked, as what it would close is the domain's by then.
   */
  #resume(generation: Generation): void {
    clearTimeout(this.#retry);
    if (this.#attempt !== "none") return;
    this.#attempt = "running";
    this.#later(async () => {
      try {
        await this.#staging;
        this.#staging = undefined;
        this.#copies = await this.#parts.resume(this.#copies, generation, this.#resumeHooks());
        this.#attempt = "done";
      } catch (error) {
        this.#attempt = "none";
        if (!this.#stopped) this.#retry = setTimeout(() => this.#resume(generation), RESUME_RETRY_MS);
        throw error;
      }
      this.#incoming = undefined;
      this.#machine.post({ type: "domain-resumed" });
      // After `domain-resumed`: only then is post-copy there to hear it.
      if (this.#copies.missing().every((bitmap) => bitmap.population === 0)) {
        this.#machine.post({ type: "nothing-missing" });
      }
      return undefined;
    });
  }

  /** The guest waits for this, for its memory and for both journals: all at once. */
  #stage(loading: Promise<void>): void {
    const { promise, reject } = Promise.withResolvers<never>();
    this.#giveUpStaging = reject;
    const loaded = Promise.race([loading, promise]);
    loaded.catch(() => undefined);
    this.#staging = this.#parts.stage(loaded, this.#resumeHooks()).catch((error: unknown) => {
      // `resume` does all of it again, and says what is wrong.
      this.#parts.log.info("the domain was not made ready ahead", { reason: toError(error).message });
    });
  }

  async #unstage(): Promise<void> {
    // The rest of a memory stream may never come: nobody waits for it here.
    this.#giveUpStaging?.(new Error("the handover did not come"));
    await this.#staging;
    this.#staging = undefined;
    await this.#parts.unstage();
  }

  #resumeHooks(): ResumeHooks {
    return {
      needBlocks: (event) => this.#machine.post(event),
      nothingMissing: () => this.#machine.post({ type: "nothing-missing" }),
    };
  }

  #open(): Copies {
    if (this.#copies === undefined) throw new Error("the copies are not open");
    return this.#copies;
  }

  /** Begins something that takes long; its event, or its failure while it is `wanted`, comes later. */
  #later(work: () => Promise<DestinationEvent | undefined>, wanted: () => boolean = () => true): void {
    void work().then(
      (event) => {
        if (event !== undefined) this.#machine.post(event);
      },
      (error) => {
        if (wanted()) this.#machine.post(this.#failure(error));
      },
    );
  }

  #failure(error: unknown): DestinationEvent {
    const { code = "DESTINATION_FAILED" } = error as { code?: string };
    const reason = toError(error).message;
    this.#parts.log.error("an effect failed", { source: this.context.source, code, reason });
    if (code !== "STORAGE_FULL") return { type: "failed", code, reason };
    return {
      type: "failed",
      code: "DESTINATION_FULL",
      reason: "no space is left for the blocks that arrive",
    };
  }

  #changed(state: DestinationState): void {
    this.#parts.changed(state);
  }

  /** A step threw. The machine decides by phase what a failure means; a peer that broke the rules is dropped. */
  #failed(error: unknown, state: DestinationState): DestinationEvent | undefined {
    const failure = this.#failure(error);
    this.#parts.log.warn("the session ends", { phase: state.phase });
    const isPeers = (error as { code?: string }).code?.startsWith("PROTOCOL_") ?? false;
    if (!isPeers) return failure;
    this.#session?.end(toError(error));
    return undefined;
  }
}

/** What a message of blocks costs until it is stored: zero blocks travel for nothing and are written all the same. */
function costOf({ data, zeroes }: Extract<SourceMessage, { type: "blocks" }>): number {
  return data.length + countOf(zeroes) * BLOCK_SIZE_BYTES;
}
