/**
 * Runs the source's half of one migration on real parts: sockets, stores, hypervisor, journal. It performs
 * the effects of `protocol/source.ts` and answers with events; every decision is made there.
 *
 * The link: the driver dials while the machine wants a peer, waits longer after each failure, and gives a
 * connection up when the peer has not answered a ping for `stallTimeoutMs`. Only a frozen guest's wait is timed, too.
 */

import { ProtocolError } from "../../protocol/errors.ts";
import { MEMORY_PROTOCOL, MIGRATION_PROTOCOL } from "../../protocol/limits.ts";
import type { DestinationMessage } from "../../protocol/messages.ts";
import type {
  SourceContext,
  SourceEffect,
  SourceEvent,
  SourceRecord,
  SourceState,
} from "../../protocol/source.ts";
import { isBeforeHandover, step } from "../../protocol/source.ts";
import { blockCountOf } from "../../protocol/units.ts";
import { allocatedNonZeroBlocks } from "../../storage/digests.ts";
import type { OutgoingMemory } from "../hypervisor/hypervisor.ts";
import type { Channel, Connection } from "../network/network.ts";
import { readBlocks } from "./block-reader.ts";
import { compareDigests } from "./differing-digests.ts";
import { FlushAhead } from "./flush-ahead.ts";
import { MachineDriver } from "./machine-driver.ts";
import { MemoryRelay } from "./outgoing-memory.ts";
import { RateLimiter } from "./rate-limiter.ts";
import { hopelessFailure, type Refusal } from "./refusal.ts";
import { codec, Session, toError } from "./session.ts";
import { SourceMeter } from "./source-figures.ts";
import type { SourceOptions, SourceParts } from "./source-parts.ts";
import { Limit, wait, watchForStall } from "./stall-watch.ts";

export class SourceDriver {
  readonly context: SourceContext;
  readonly meter: SourceMeter;
  readonly #parts: SourceParts;
  readonly #options: SourceOptions;
  readonly #machine: MachineDriver<SourceState, SourceEvent, SourceEffect>;
  #session: Session<DestinationMessage> | undefined;
  #memory: { attempt: number; source: OutgoingMemory; relay: MemoryRelay } | undefined;
  #memoryWanted: number | undefined;
  #memoryLink: Connection | undefined;
  readonly #limiter: RateLimiter;
  #memoryChannel: Channel | undefined;
  readonly #stopping = new AbortController();
  #linking: Promise<void> = Promise.resolve();
  #freezeAttempt = 0;
  #isFreezeAsked = false;
  readonly #flushAhead: FlushAhead;
  readonly #startedAtMs: number;
  readonly #frozenWatch: Limit;
  #everLinked = false;
  #refusal: Refusal | undefined;
  #remainsGone: Promise<void> = Promise.resolve();

  constructor(initial: SourceState, context: SourceContext, parts: SourceParts, options: SourceOptions) {
    this.context = context;
    this.#parts = parts;
    this.#options = options;
    this.#flushAhead = new FlushAhead(() => parts.attachment.flush());
    this.#startedAtMs = parts.clock.nowMs();
    const { freezeTimeoutMs } = options;
    this.#frozenWatch = new Limit(freezeTimeoutMs, () =>
      this.#session?.end(new Error(`the destination was not prepared after ${freezeTimeoutMs} ms`)),
    );
    this.#limiter = new RateLimiter(parts.clock, { bytesPerSecond: options.bandwidthMaxBytesPerSecond });
    this.meter = new SourceMeter(
      parts.clock,
      context.domain.vbds.map(({ sizeBytes }) => blockCountOf(sizeBytes)),
    );
    this.#machine = new MachineDriver(initial, {
      step: (state, event) => step(state, event, context),
      perform: (effect) => this.#perform(effect),
      changed: (state) => this.#changed(state),
      failed: (error, state) => this.#failed(error, state),
    });
  }

  get state(): SourceState {
    return this.#machine.state;
  }

  /** Why the destination does not take the domain, where it said so. */
  get refusal(): Refusal | undefined {
    return this.#refusal;
  }

  /** Performs what a start or a restore asks for, then keeps the link up until the migration ended. */
  async start(effects: readonly SourceEffect[]): Promise<void> {
    await this.#machine.begin(effects);
    this.#parts.changed(this.state);
    this.#linking = this.#keepLinked();
  }

  cancel(reason: string): void {
    this.#machine.post({ type: "cancel", reason });
  }

  /** Ends the driver, not the migration: the journal knows where it stands. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#frozenWatch.see(false);
    this.#session?.end(new Error("the daemon stops"));
    await this.#linking;
    await this.#machine.stop();
    await this.#memoryLink?.close();
    this.#memory?.relay.stop();
  }

  // The link.

  async #keepLinked(): Promise<void> {
    const { min, max } = this.#options.reconnectDelayMs;
    let delayMs = min;
    while (!this.#stopping.signal.aborted && !hasEnded(this.state)) {
      const lived = await this.#oneSession();
      delayMs = lived ? min : Math.min(max, delayMs * 2);
      if (this.#stopping.signal.aborted || hasEnded(this.state)) return;
      await wait(delayMs, this.#stopping.signal);
    }
  }

  /** Dials, talks until the link is lost. Returns whether there was a session at all. */
  async #oneSession(): Promise<boolean> {
    const { log, network } = this.#parts;
    let connection: Connection | undefined;
    try {
      connection = await network.dial(await this.#options.address(), this.#stopping.signal);
      const channel = await connection.open(MIGRATION_PROTOCOL, this.#stopping.signal);
      this.meter.connected("disk", connection);
      const lost = Promise.withResolvers<void>();
      const session = new Session(
        channel,
        {
          received: (message) => {
            if (message.type === "refuse") this.#refusal = { cause: message.code, reason: message.reason };
            this.#machine.post({ type: "received", message });
          },
          lost: (error) => {
            log.info("link lost", { migration: this.context.migration, reason: error.message });
            this.#notUnderstood(error);
            lost.resolve();
          },
        },
        {
          decoder: codec.decodeDestination(),
          vbdSizesBytes: this.context.domain.vbds.map(({ sizeBytes }) => sizeBytes),
          limiter: this.#limiter,
        },
      );
      this.#session = session;
      this.#everLinked = true;
      this.#machine.post({ type: "connected" });
      const { stallTimeoutMs } = this.#options;
      const watch = watchForStall(connection, { stallTimeoutMs, onStall: (error) => session.end(error) });
      await Promise.race([session.read(), lost.promise]);
      await watch.stop();
      return true;
    } catch (error) {
      log.debug("no link", { migration: this.context.migration, reason: toError(error).message });
      this.#notUnderstood(error);
      return false;
    } finally {
      if (this.#session !== undefined) {
        this.#session = undefined;
        this.#machine.post({ type: "peer-lost" });
      }
      await this.#closeMemoryLink();
      await connection?.close().catch(() => undefined);
    }
  }

  /**
   * Ends the attempt where trying again would bring the same answer, or where the destination never answered for
   * so long: nothing is invested yet that a longer wait could save. Afterwards a lost link only pauses (DESIGN §4
   * rule 9).
   */
  #notUnderstood(error: unknown): void {
    if (!isBeforeHandover(this.state)) return;
    const waitedMs = this.#parts.clock.nowMs() - this.#startedAtMs;
    const isInVain = !this.#everLinked && waitedMs >= this.#options.stallTimeoutMs;
    const reason = `the destination cannot be reached: ${toError(error).message}`;
    const failure = hopelessFailure(error) ?? (isInVain ? { refusal: undefined, reason } : undefined);
    if (failure === undefined) return;
    this.#refusal = failure.refusal;
    this.#machine.post({ type: "failed", reason: failure.reason });
  }

  // Effects.

  async #perform(effect: SourceEffect): Promise<void> {
    const { attachment } = this.#parts;
    switch (effect.type) {
      case "send":
        return this.#send(effect);
      case "send-blocks":
        return this.#sendBlocks(effect);
      case "persist":
        return this.#persist(effect.record);
      case "forget":
        return this.#parts.forget();
      case "start-tracking":
        return this.#startTracking(effect.attempt);
      case "stop-tracking":
        return attachment.stopRounds();
      case "throttle-writes":
        this.#parts.log.info("writes slowed", { migration: this.context.migration, share: effect.share });
        this.meter.throttled(effect.share);
        return attachment.throttleWrites?.(effect.share);
      case "collect-dirty":
        return this.#collectDirty(effect.attempt);
      case "scan-allocated":
        return this.#later(async () => {
          const blocks = await allocatedNonZeroBlocks(attachment.store(effect.vbd));
          return { type: "allocated", attempt: effect.attempt, vbd: effect.vbd, blocks };
        });
      case "compare-digests":
        return this.#later(() => this.#compare(effect));
      case "begin-memory":
        return this.#later(() => this.#beginMemory(effect.attempt));
      case "resume-memory":
        return this.#later(() => this.#linkMemory(effect.attempt, effect.offset));
      case "forget-memory":
        return this.#memory?.relay.forget(effect.offset);
      case "cancel-memory":
        return this.#cancelMemory();
      case "freeze-domain":
        return this.#freeze(effect.attempt);
      case "fence":
        return this.#fence(effect.attempt);
      case "unfence":
        return attachment.unfence();
      case "thaw-domain":
        return this.#thaw();
      case "unfreeze-domain":
        this.meter.thawed();
        return this.#unfreeze();
      case "destroy-remains":
        await this.#parts.faults.point("source-resumed");
        // Not awaited: the guest over there waits for blocks, not for the end of a process here.
        this.#remainsGone = this.#destroyRemains();
        return;
      case "keep-replica":
        // A domain that is on its way back must not be taken for its own remains.
        await this.#remainsGone;
        return this.#parts.keepReplica(effect.generation);
      case "drop-link":
        this.#session?.end(new Error(effect.reason));
        return;
    }
  }

  async #startTracking(attempt: number): Promise<void> {
    await this.#parts.attachment.beginWindow();
    const vbds = this.#parts.attachment.startRounds();
    this.#machine.post({ type: "tracking", attempt, atMs: this.#parts.clock.nowMs(), vbds });
  }

  #collectDirty(attempt: number): void {
    const blocks = this.#parts.attachment.takeRound();
    this.meter.dirtied(blocks);
    this.#machine.post({ type: "dirty", attempt, atMs: this.#parts.clock.nowMs(), blocks });
  }

  async #persist(record: SourceRecord): Promise<void> {
    const { faults, persist } = this.#parts;
    if (record.phase === "handed-over") await faults.point("source-before-handover-persist");
    await persist(record);
    if (record.phase === "completed") await faults.point("source-completed");
    if (record.phase === "handed-over") await faults.point("source-after-handover-persist");
  }

  async #send({ message }: Extract<SourceEffect, { type: "send" }>): Promise<void> {
    const { faults } = this.#parts;
    if (message.type === "prepare") await faults.point("source-frozen");
    this.#session?.send(message);
    if (message.type === "handover") await faults.point("source-handover-sent");
  }

  #sendBlocks({ ticket, purpose, vbd, runs }: Extract<SourceEffect, { type: "send-blocks" }>): void {
    const store = this.#parts.attachment.store(vbd);
    this.#session?.sendLater(
      async () => {
        await this.#parts.faults.point(purpose === "precopy" ? "source-precopy" : "source-postcopy");
        try {
          const message = await readBlocks(store, { ticket, purpose, vbd, runs });
          this.meter.blocksSent(vbd, runs);
          return message;
        } catch (error) {
          // Our disk, not the link: another session would read no better.
          this.#machine.post({ type: "failed", reason: toError(error).message });
          return undefined;
        }
      },
      { urgent: purpose === "pull" },
    );
  }

  async #compare(effect: Extract<SourceEffect, { type: "compare-digests" }>): Promise<SourceEvent> {
    await this.#parts.faults.point("source-reconciling");
    return compareDigests(this.#parts.attachment.store(effect.vbd), effect);
  }

  /** Not awaited by the machine: until the domain stands still its stream has to flow, acknowledged by the peer. */
  #freeze(attempt: number): void {
    this.#freezeAttempt = attempt;
    const isWanted = (): boolean => this.#freezeAttempt === attempt;
    this.#later(async () => {
      await this.#parts.beforeFreeze();
      const memory = this.#memory;
      // What is still on its way would stand before the memory's tail, and be part of the downtime.
      await memory?.relay.narrow(this.#stopping.signal);
      if (!isWanted() || memory === undefined) return undefined;
      // A guest that waits for an answer would be frozen only when it has it.
      this.#parts.attachment.throttleWrites?.(1);
      const { clock } = this.#parts;
      const askedAtMs = clock.nowMs();
      this.#isFreezeAsked = true;
      const frozen = memory.source.freeze();
      void this.#flushAhead.until(frozen, this.#stopping.signal);
      await frozen;
      this.meter.frozen(memory.source.stoppedForMs?.() ?? clock.nowMs() - askedAtMs);
      return { type: "domain-frozen", attempt };
    }, isWanted);
  }

  async #thaw(): Promise<void> {
    this.#freezeAttempt = -1;
    this.meter.thawed();
    this.#memory?.relay.widen();
    if (this.#isFreezeAsked) await this.#memory?.source.thaw();
    this.#isFreezeAsked = false;
  }

  async #fence(attempt: number): Promise<void> {
    await this.#parts.faults.point("source-freezing");
    const { dirty, written, durable } = await this.#parts.attachment.fence();
    // Not before: with the memory's tail a hypervisor lets go of the vbds, and of what it knows of them.
    this.#later(
      async () => ({ type: "memory-ended", attempt, memoryBytes: await this.#memory!.source.ended() }),
      () => this.#freezeAttempt === attempt,
    );
    this.meter.dirtied(dirty);
    this.#parts.fenced(written);
    this.#later(() => durable.then(() => ({ type: "fenced", attempt, dirty, written })));
  }

  async #destroyRemains(): Promise<void> {
    const memory = this.#memory;
    this.#memory = undefined;
    memory?.relay.stop();
    try {
      await memory?.source.cancel().catch(() => undefined);
      await this.#closeMemoryLink();
      await this.#parts.hypervisor.destroy(this.context.domain.id);
    } catch (error) {
      const { migration } = this.context;
      this.#parts.log.error("the frozen remains were not ended", {
        migration,
        reason: toError(error).message,
      });
    }
  }

  /** Also after a restart, when nothing is known of a memory stream: the guest's process is asked. */
  async #unfreeze(): Promise<void> {
    const { hypervisor } = this.#parts;
    const { id } = this.context.domain;
    await this.#cancelMemory();
    const { state } = await hypervisor.status(id);
    if (state === "suspended") await hypervisor.resume(id);
  }

  // The memory stream.

  async #beginMemory(attempt: number): Promise<undefined> {
    this.#memoryWanted = attempt;
    await this.#parts.faults.point("source-memory-copy");
    const source = await this.#parts.hypervisor.migrateOut(this.context.domain.id);
    // Cancelled before it had begun: nobody else would ever end it, and the domain could not migrate again.
    if (this.#memoryWanted !== attempt) {
      await source.cancel();
      return undefined;
    }
    const relay = new MemoryRelay(source, {
      onLost: (error) => this.#session?.end(toError(error)),
      limiter: this.#limiter,
    });
    this.#memory = { attempt, source, relay };
    source.onRound(({ converged }) => {
      void this.#flushAhead.once();
      this.#machine.post({ type: "memory-round", attempt, converged });
    });
    this.#later(
      () => relay.produce().then(() => undefined),
      () => this.#memory?.relay === relay,
    );
    await this.#linkMemory(attempt, 0);
    return undefined;
  }

  async #linkMemory(attempt: number, offset: number): Promise<undefined> {
    const session = this.#session;
    const memory = this.#memory;
    if (session === undefined || memory === undefined) return undefined;
    try {
      const connection = await this.#parts.network.dial(await this.#options.address(), this.#stopping.signal);
      this.#memoryLink = connection;
      this.meter.connected("memory", connection);
      const channel = await connection.open(MEMORY_PROTOCOL, this.#stopping.signal);
      const { migration } = this.context;
      for (const frame of codec.encode({ type: "memory-open", migration, attempt, offset })) {
        await channel.send(frame);
      }
      this.#memoryChannel = channel;
      void memory.relay.sendOn(channel, offset);
    } catch (error) {
      // Without a memory stream the session is worth nothing: begin the next one.
      session.end(toError(error));
    }
    return undefined;
  }

  async #cancelMemory(): Promise<void> {
    const memory = this.#memory;
    this.#memory = undefined;
    this.#memoryWanted = undefined;
    this.#freezeAttempt = -1;
    this.#isFreezeAsked = false;
    memory?.relay.stop();
    await memory?.source.cancel();
    await this.#closeMemoryLink();
  }

  async #closeMemoryLink(): Promise<void> {
    const link = this.#memoryLink;
    const channel = this.#memoryChannel;
    this.#memoryLink = undefined;
    this.#memoryChannel = undefined;
    // In order, where the stream is complete: the peer must not take its end for a cut.
    await channel?.close(AbortSignal.timeout(1000)).catch(() => undefined);
    await link?.close().catch(() => undefined);
  }

  // Events.

  /** Begins something that takes long; its event (or its failure, while it is `wanted`) comes later. */
  #later(work: () => Promise<SourceEvent | undefined>, wanted: () => boolean = () => true): void {
    void work().then(
      (event) => {
        if (event !== undefined) this.#machine.post(event);
      },
      (error) => {
        if (!wanted() || this.#stopping.signal.aborted) return;
        this.#parts.log.error("an effect failed", {
          migration: this.context.migration,
          reason: toError(error).message,
        });
        this.#machine.post({ type: "failed", reason: toError(error).message });
      },
    );
  }

  #changed(state: SourceState): void {
    this.meter.observe(state);
    this.#parts.changed(state);
    // A frozen guest waits for the destination only so long: then the link is given up, and it runs on here.
    this.#frozenWatch.see(state.phase === "freezing" || state.phase === "preparing");
    if (hasEnded(state)) void this.#leave();
  }

  /** The migration ended: the last message leaves, then the session does. */
  async #leave(): Promise<void> {
    const session = this.#session;
    await session?.finish();
    session?.end(new Error("the migration has ended"));
  }

  /** Before the handover an error ends the attempt; after it, it ends the link, and the next one goes on. */
  #failed(error: unknown, state: SourceState): SourceEvent | undefined {
    const { log } = this.#parts;
    const reason = toError(error).message;
    const who = error instanceof ProtocolError ? "the peer broke the protocol" : "a step failed";
    log.error(who, { migration: this.context.migration, phase: state.phase, reason });
    if (isBeforeHandover(state)) return { type: "failed", reason };
    this.#session?.end(toError(error));
    return undefined;
  }
}

export function hasEnded(state: SourceState): boolean {
  return state.phase === "completed" || state.phase === "aborted";
}
