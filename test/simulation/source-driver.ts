/**
 * The source's driver, on simulated parts. It has no opinions: effects in, events out. The rules that it keeps
 * are those of the real one (node/migration): one event at a time, effects in order, `persist` awaited, what
 * takes long answers later, and a session's end is the only thing it decides for itself.
 */
import type { DestinationMessage, SourceMessage } from "../../protocol/messages.ts";
import {
  isBeforeHandover,
  type SourceContext,
  type SourceEffect,
  type SourceEvent,
  type SourceState,
  step,
} from "../../protocol/source.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import { allocatedBlocks, differingDigests, digestsOf, readBlocks } from "./blocks.ts";
import type { Daemon } from "./daemon.ts";
import type { MemoryRecord, OutgoingMemory } from "./hypervisor.ts";
import { sourcePersisted } from "./journal.ts";
import { MachineDriver } from "./machine-driver.ts";
import { SourceMeter } from "./meter.ts";
import type { SessionEnd } from "./network.ts";
import { openImages } from "./vbds.ts";

export type MemoryFrame = {
  type: "records";
  attempt: number;
  offset: number;
  records: readonly MemoryRecord[];
};
export type SourceFrame = Exclude<SourceMessage, { type: "memory" }> | MemoryFrame;
export type SourceSession = SessionEnd<SourceFrame, DestinationMessage>;

/** The session that carries the memory stream, and how far it was sent. */
type MemoryLink = { session: SourceSession; sentTo: number };

export class SourceDriver {
  readonly daemon: Daemon;
  readonly context: SourceContext;
  readonly meter = new SourceMeter();
  readonly #machine: MachineDriver<SourceState, SourceEvent, SourceEffect>;
  #session: SourceSession | undefined;
  /** The session that the machine knows of. An effect that comes after a `persist` must not reach the next one. */
  #speaking: SourceSession | undefined;
  #memory: { attempt: number; outgoing: OutgoingMemory; link: MemoryLink | undefined } | undefined;
  #freezeAttempt = 0;

  constructor(daemon: Daemon, context: SourceContext, initial: SourceState) {
    this.daemon = daemon;
    this.context = context;
    this.#machine = new MachineDriver(initial, {
      process: daemon.process,
      step: (state, event) => step(state, event, context),
      perform: (effect) => this.#perform(effect),
      changed: (before, event, after) => this.#changed(before, event, after),
      failed: (error, state) => this.#failed(error, state),
      broken: (error) => daemon.around.broken(error),
    });
  }

  get state(): SourceState {
    return this.#machine.state;
  }

  get hasEnded(): boolean {
    return this.state.phase === "completed" || this.state.phase === "aborted";
  }

  async start(effects: readonly SourceEffect[]): Promise<void> {
    await this.#machine.begin(effects);
    this.#keepLinked();
  }

  cancel(reason: string): void {
    this.#machine.post({ type: "cancel", reason });
  }

  // The link.

  #keepLinked(): void {
    const { process, around } = this.daemon;
    if (this.hasEnded) return;
    if (this.#session === undefined) {
      const session = around.dial(this.daemon, this.context.destination, this.context.migration);
      if (session !== undefined) this.#attach(session);
    }
    process.after(process.prng.between(5, 60), () => this.#keepLinked());
  }

  #attach(session: SourceSession): void {
    this.#session = session;
    this.meter.sessionBegan();
    session.onMessage = (message) => {
      if (this.#session !== session) return;
      this.daemon.around.log(this.#name, () => `◀ ${describe(message)}`);
      this.meter.observe(this.context, message);
      this.#machine.post({ type: "received", message });
    };
    session.onLost = () => {
      if (this.#session !== session) return;
      this.#session = undefined;
      if (this.#memory !== undefined) this.#memory.link = undefined;
      this.meter.sessionLost();
      this.#machine.post({ type: "peer-lost" }, () => {
        this.#speaking = undefined;
      });
    };
    this.#machine.post({ type: "connected" }, () => {
      this.#speaking = session;
    });
  }

  // Effects.

  #perform(effect: SourceEffect): void | Promise<void> {
    const { host } = this.daemon;
    switch (effect.type) {
      case "send":
        return this.#send(effect.message);
      case "send-blocks":
        return this.#sendBlocks(effect);
      case "start-tracking":
        return this.#answer({ ...effect, type: "tracking", atMs: this.#now, vbds: this.#vbds.startRounds() });
      case "throttle-writes":
        // Answers take as long as the world wants them to in any case.
        return;
      case "stop-tracking":
        return this.#vbds.stopRounds();
      case "collect-dirty":
        return this.#answer({ ...effect, type: "dirty", atMs: this.#now, blocks: this.#vbds.takeRound() });
      case "scan-allocated":
        return this.#later(async () => {
          const blocks = await allocatedBlocks(this.#store(effect.vbd));
          return { ...effect, type: "allocated", blocks };
        });
      case "compare-digests":
        return this.#later(async () => {
          const ours = await digestsOf(this.#store(effect.vbd), effect);
          const differing = differingDigests(ours, effect.digests, effect.start);
          return { ...effect, type: "compared", differing };
        });
      case "begin-memory":
        return this.#beginMemory(effect.attempt);
      case "resume-memory":
        return this.#linkMemory(effect.attempt, effect.offset);
      case "forget-memory":
        return this.#forgetMemory(effect.offset);
      case "cancel-memory":
        return this.#cancelMemory();
      case "freeze-domain":
        this.#freezeAttempt = effect.attempt;
        return host.hypervisor.freeze();
      case "fence":
        return this.#later(async () => ({ ...effect, type: "fenced", ...(await this.#vbds.fence()) }));
      case "unfence":
        return this.daemon.vbds?.unfence();
      case "thaw-domain":
        this.#memory?.outgoing.thaw();
        return host.hypervisor.resume();
      case "unfreeze-domain":
        this.#cancelMemory();
        return host.hypervisor.resume();
      case "persist":
        return this.#persist(effect);
      case "forget":
        return host.journal.forget(this.daemon.process, this.context.migration);
      case "destroy-remains":
        this.#cancelMemory();
        return host.hypervisor.destroy();
      case "keep-replica":
        // The label became durable with the handover: from then on nobody writes to the images.
        return this.daemon.around.replicaKept(this);
      case "drop-link":
        return this.#speaking?.end();
    }
  }

  #send(message: Extract<SourceEffect, { type: "send" }>["message"]): void {
    this.daemon.around.log(this.#name, () => `▶ ${describe(message)}`);
    this.meter.observe(this.context, message);
    if (this.meter.violation !== undefined) this.daemon.around.wrong(this.meter.violation);
    this.#speaking?.send(message);
  }

  #sendBlocks({ ticket, purpose, vbd, runs }: Extract<SourceEffect, { type: "send-blocks" }>): void {
    const session = this.#speaking;
    this.meter.sent(purpose, vbd, runs);
    if (this.meter.violation !== undefined) this.daemon.around.wrong(this.meter.violation);
    const { process, around } = this.daemon;
    const delayMsMax = purpose === "precopy" ? 0 : around.options.pushDelayMsMax;
    this.#later(async () => {
      if (delayMsMax > 0) await process.sleep(process.prng.between(0, delayMsMax));
      const blocks = await readBlocks(this.#store(vbd), { ticket, purpose, vbd, runs });
      if (!this.daemon.process.alive) return undefined;
      this.daemon.around.log(this.#name, () => `▶ ${describe(blocks)}`);
      session?.send(blocks);
      return undefined;
    });
  }

  async #persist({ record }: Extract<SourceEffect, { type: "persist" }>): Promise<void> {
    const { daemon } = this;
    const { host, process, around } = daemon;
    const { generation, destination: peer } = this.context;
    await host.journal.commit(
      process,
      (state) => sourcePersisted(state, { peer, generation }, record),
      () => {
        if (record.phase === "handed-over") around.handedOver(host);
      },
    );
  }

  /** The domain's vbds while they are ours; after the handover, the images, which nobody writes any more. */
  #store(vbd: number): BlockStore {
    return this.daemon.vbds?.store(vbd) ?? openImages(this.daemon.vbdParts)[vbd]!;
  }

  get #vbds() {
    const { vbds } = this.daemon;
    if (vbds === undefined) throw new Error("the vbds are not this host's");
    return vbds;
  }

  // The memory stream.

  #beginMemory(attempt: number): void {
    const { host, process, around } = this.daemon;
    const { hypervisor } = host;
    if (around.faults.hypervisorRefuses()) throw new Error("the hypervisor refuses to send");
    if (hypervisor.domain === undefined) throw new Error("the domain is gone");
    const outgoing = hypervisor.migrateOut(
      process,
      {
        produced: () => this.#pumpMemory(),
        round: (converged) => this.#machine.post({ type: "memory-round", attempt, converged }),
        frozen: () => this.#machine.post({ type: "domain-frozen", attempt: this.#freezeAttempt }),
        ended: (memoryBytes) =>
          this.#machine.post({ type: "memory-ended", attempt: this.#freezeAttempt, memoryBytes }),
      },
      around.options.memory,
    );
    this.#memory = { attempt, outgoing, link: undefined };
    this.#linkMemory(attempt, 0);
  }

  #linkMemory(attempt: number, offset: number): void {
    const memory = this.#memory;
    const session = this.#speaking;
    if (memory?.attempt !== attempt || session === undefined || session !== this.#session) return;
    memory.link = { session, sentTo: offset };
    const { migration } = this.context;
    session.send({ type: "memory-open", migration, attempt, offset }, "memory");
    this.#pumpMemory();
  }

  #pumpMemory(): void {
    const memory = this.#memory;
    const link = memory?.link;
    if (memory === undefined || link === undefined) return;
    for (; link.sentTo < memory.outgoing.length; link.sentTo++) {
      const records = [memory.outgoing.record(link.sentTo)!];
      const { attempt } = memory;
      link.session.send({ type: "records", attempt, offset: link.sentTo, records }, "memory");
    }
  }

  #forgetMemory(offset: number): void {
    this.#memory?.outgoing.forget(offset);
  }

  #cancelMemory(): void {
    this.#memory?.outgoing.cancel();
    this.#memory = undefined;
  }

  // Events.

  /** An answer that is ready now, and reaches the machine now or later. */
  #answer(event: SourceEvent): void {
    this.daemon.process.after(this.daemon.around.faults.answerMs(), () => this.#machine.post(event));
  }

  #later(work: () => Promise<SourceEvent | undefined>): void {
    work().then(
      (event) => {
        if (event !== undefined) this.#answer(event);
      },
      (error: unknown) => {
        if (this.daemon.process.alive) this.#machine.post({ type: "failed", reason: String(error) });
      },
    );
  }

  #changed(before: SourceState, event: SourceEvent, after: SourceState): void {
    const { around } = this.daemon;
    if (after.phase === "aborted") around.aborted();
    if (before.phase !== after.phase) {
      around.log(this.#name, () => `${before.phase} ── ${nameOf(event)} ──▶ ${after.phase}`);
    }
  }

  /** Before the handover an error ends the attempt; after it, it ends the link, and the next one goes on. */
  #failed(error: unknown, state: SourceState): SourceEvent | undefined {
    if (isBeforeHandover(state)) return { type: "failed", reason: String(error) };
    this.#session?.end();
    return undefined;
  }

  get #now(): number {
    return this.daemon.process.clock.now;
  }

  get #name(): string {
    return `${this.daemon.host.name} source ${this.context.migration}`;
  }
}

export function describe(message: SourceMessage | DestinationMessage): string {
  switch (message.type) {
    case "blocks": {
      const blocks = [...message.runs, ...message.zeroes].map(({ start, count }) => `${start}+${count}`);
      return `blocks ${message.purpose} #${message.ticket} vbd ${message.vbd}: ${blocks.join(" ")}`;
    }
    case "stored":
      return `stored #${message.ticket}`;
    case "pull":
      return `pull vbd ${message.vbd}: ${message.runs.map(({ start, count }) => `${start}+${count}`).join(" ")}`;
    case "resumed":
      return `resumed, missing ${message.missing.map(({ population }) => population).join(", ")}`;
    case "prepare":
      return `prepare #${message.attempt}, missing ${message.missing.map(({ population }) => population).join(", ")}`;
    case "ladder":
      return `ladder ${message.choices.map(({ rung }) => rung).join(", ")}`;
    case "accept":
      return `accept ${message.session}: ${message.copies.map((copy) => copy.kind).join(", ")}`;
    case "refuse":
    case "failed":
      return `${message.type} ${message.code}: ${message.reason}`;
    case "abort":
      return `abort: ${message.reason}`;
    default:
      return "attempt" in message ? `${message.type} #${message.attempt}` : message.type;
  }
}

export function nameOf(event: { type: string; message?: { type: string } }): string {
  return event.type === "received" ? `received ${event.message?.type}` : event.type;
}
