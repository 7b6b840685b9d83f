/**
 * The migrations of this host, both halves: begins them, gives each session to its machine, begins again
 * from the journal after a restart. At most one per domain, except that one which was given up may still
 * be telling its peer so.
 */

import { randomUUID } from "node:crypto";
import * as destination from "../../protocol/destination.ts";
import { ProtocolError } from "../../protocol/errors.ts";
import { MEMORY_PROTOCOL, MIGRATION_PROTOCOL, PROTOCOL_VERSION } from "../../protocol/limits.ts";
import type { DomainDescription, SourceMessage } from "../../protocol/messages.ts";
import * as source from "../../protocol/source.ts";
import type { JournalEntry } from "../../storage/journal-records.ts";
import type { DomainRecord } from "../../storage/records.ts";
import type { HopReport, MigrateOptions, Progress } from "../control/api.ts";
import { type CopiesParts, examineCopies, occupiedBytes } from "../domains/copies.ts";
import { readGenerationLog } from "../domains/stored-log.ts";
import { NodeError, nodeErrorOf } from "../errors.ts";
import type { Channel, Network } from "../network/network.ts";
import { destinationCommit } from "./destination-commits.ts";
import { DestinationDriver } from "./destination-driver.ts";
import { DomainReception, type IncomingDomainParts } from "./incoming-domain.ts";
import { readMemoryOpen } from "./incoming-stream.ts";
import { type Outcome, OutgoingMigration, type OutgoingParts } from "./outgoing-migration.ts";
import { PhaseNews } from "./phase-news.ts";
import { codec, Session, toError } from "./session.ts";

export type MigrationsParts = CopiesParts &
  IncomingDomainParts &
  OutgoingParts & {
    network: Network;
  };

/** Sessions that have not said yet what they are about. */
const UNKNOWN_SESSIONS_MAX = 64;
/** A session is opened in order to say something. */
const FIRST_MESSAGE_TIMEOUT_MS = 10_000;

export class Migrations {
  readonly #parts: MigrationsParts;
  /** One per domain: the newest. */
  readonly #outgoing = new Map<string, OutgoingMigration>();
  /** Given up, and the peer has yet to hear of it. */
  readonly #leaving = new Set<OutgoingMigration>();
  readonly #incoming = new Map<string, DestinationDriver>();
  #unknownSessions = 0;
  readonly #restored = Promise.withResolvers<void>();

  constructor(parts: MigrationsParts) {
    this.#parts = parts;
  }

  /** Before the network starts: a peer that finds nobody here for the protocol takes this host for another version. */
  async serve(): Promise<void> {
    const { network } = this.#parts;
    const { promise } = this.#restored;
    await network.handle(MIGRATION_PROTOCOL, (channel) => promise.then(() => this.#accept(channel)));
    await network.handle(MEMORY_PROTOCOL, (channel) => promise.then(() => this.#acceptMemory(channel)));
  }

  /** Goes on with what the journal says; peers that came before are answered then. */
  async start(): Promise<void> {
    await this.#parts.faults.point("restoring");
    await this.#restore();
    this.#restored.resolve();
  }

  async stop(): Promise<void> {
    const all = [...this.#outgoing.values(), ...this.#leaving, ...this.#incoming.values()];
    await Promise.all(all.map((migration) => migration.stop()));
  }

  // Out.

  /** Runs until the destination needs the source no more. Throws MIGRATION_… with where the domain is. */
  async migrate(
    record: DomainRecord,
    to: { host: string; name: string },
    options: MigrateOptions & { onProgress(progress: Progress): void },
  ): Promise<HopReport> {
    const { domains, metadata, self, hostName } = this.#parts;
    if (to.host === self) throw new NodeError("MIGRATION_TO_SELF", { domain: record.name, host: hostName });
    const migration = await domains.exclusive(record.id, async () => {
      this.refuseBusy(record);
      const fresh = await domains.mine(record.id);
      const { state } = await domains.hypervisor(fresh.hypervisor).status(fresh.id);
      if (state !== "running") {
        throw new NodeError("DOMAIN_STATE", { domain: fresh.name, state, wanted: "running" });
      }
      const replicas = await metadata.replicas.list(fresh.id);
      const context = outgoingContext(fresh, {
        destination: to.host,
        dataBytes: sum((await domains.vbdsOf(fresh)).map(({ path }) => occupiedBytes(path))),
        log: await readGenerationLog(metadata, fresh),
        replicas: replicas
          .filter(({ host, generation }) => host !== self && generation > 0)
          .map(({ host, generation }) => ({ host, generation })),
        limits: {
          ...this.#parts.limits,
          ...("iterationsMax" in options ? { iterationsMax: options.iterationsMax! } : {}),
          ...("hotSendsMax" in options ? { hotSendsMax: options.hotSendsMax! } : {}),
          ...("writeSlowdownMax" in options ? { writeSlowdownMax: options.writeSlowdownMax! } : {}),
        },
      });
      const { link } = this.#parts;
      const { bandwidthMaxBytesPerSecond = link.bandwidthMaxBytesPerSecond } = options;
      const parts =
        bandwidthMaxBytesPerSecond === undefined
          ? this.#parts
          : { ...this.#parts, link: { ...link, bandwidthMaxBytesPerSecond } };
      const [state0, effects] = source.start(context);
      const outgoing = new OutgoingMigration(parts, { domain: fresh, context, to: to.name }, state0);
      this.#outgoing.set(fresh.id, outgoing);
      void outgoing.ended.then(() => this.#left(outgoing));
      try {
        await outgoing.start(effects);
      } catch (error) {
        this.#left(outgoing);
        throw error;
      }
      return outgoing;
    });
    const stopListening = migration.onProgress(options.onProgress);
    try {
      return reportOf(await migration.settled, { record, self: hostName, to: to.name });
    } finally {
      stopListening();
    }
  }

  cancel(domain: string, reason: string): string | undefined {
    const outgoing = this.#outgoing.get(domain);
    if (outgoing === undefined || !outgoing.isUndecided) return undefined;
    outgoing.cancel(reason);
    return outgoing.context.migration;
  }

  outgoing(domain: string): OutgoingMigration | undefined {
    const outgoing = this.#outgoing.get(domain);
    return outgoing?.isUndecided === true ? outgoing : undefined;
  }

  incoming(domain: string): destination.DestinationState | undefined {
    const states = [...this.#incoming.values()].filter(({ domain: { id } }) => id === domain);
    return states.map(({ state }) => state).find((state) => !isOver(state));
  }

  /** Throws MIGRATION_BUSY. */
  refuseBusy({ id, name }: { id: string; name: string }): void {
    const outgoing = this.outgoing(id);
    if (outgoing !== undefined) {
      throw new NodeError("MIGRATION_BUSY", { domain: name, migration: outgoing.context.migration });
    }
    const state = this.incoming(id);
    if (state !== undefined && "begun" in state) {
      throw new NodeError("MIGRATION_BUSY", { domain: name, migration: state.begun.migration });
    }
  }

  // For `recover`, which has decided what becomes of the domain and changes the journal next.

  /** Ends this host's machines of the domain without a word to anybody. What they hold open is closed. */
  async forsake(domain: string): Promise<void> {
    const outgoing = [...this.#leaving, ...this.#outgoing.values()];
    for (const migration of outgoing.filter(({ context }) => context.domain.id === domain)) {
      await migration.stop();
      this.#left(migration);
    }
    for (const [id, driver] of this.#incoming) {
      if (driver.domain.id !== domain) continue;
      this.#incoming.delete(id);
      await driver.release();
    }
  }

  /** What the journal says of the domain's migrations goes on, where nobody works on it. */
  async takeUp(domain: string): Promise<void> {
    for (const entry of await this.#parts.metadata.journal.list()) {
      if (entry.domain !== domain) continue;
      const outgoing = [...this.#leaving, ...this.#outgoing.values()];
      const isKnown =
        this.#incoming.has(entry.record.migration) ||
        outgoing.some(({ context }) => context.migration === entry.record.migration);
      if (isKnown) continue;
      if (entry.role === "source") await this.#restoreSource(entry.domain, entry.record);
      else await this.#restoreDestination(entry);
    }
  }

  /** The source has given this attempt up: as if it had said so in a session. */
  async rollBack(migration: string, reason: string): Promise<void> {
    await this.#incoming.get(migration)?.abandon(reason);
  }

  #left(outgoing: OutgoingMigration): void {
    this.#leaving.delete(outgoing);
    if (this.#outgoing.get(outgoing.context.domain.id) === outgoing) {
      this.#outgoing.delete(outgoing.context.domain.id);
    }
  }

  // In.

  async #accept(channel: Channel): Promise<void> {
    if (this.#unknownSessions >= UNKNOWN_SESSIONS_MAX) throw new Error("too many sessions wait to be begun");
    this.#unknownSessions += 1;
    let driver: DestinationDriver | undefined;
    const isKnown = Promise.withResolvers<void>();
    void isKnown.promise.then(() => {
      this.#unknownSessions -= 1;
    });
    const session: Session<SourceMessage> = new Session<SourceMessage>(
      channel,
      {
        received: async (message) => {
          if (driver === undefined) {
            try {
              driver = await this.#driverFor(channel.peer, message);
            } catch (error) {
              if (!(error instanceof NodeError) || message.type !== "begin") throw error;
              session.send({ type: "refuse", code: error.code, reason: error.message });
              return;
            }
            isKnown.resolve();
            clearTimeout(patience);
            driver?.attach(session);
          }
          if (driver === undefined) return unknownMigration(session, message);
          await driver.received(session, message);
        },
        lost: () => driver?.detached(session),
        misfit: ({ message }) => ({ type: "refuse", code: "PEER_VERSION", reason: message }),
      },
      { decoder: codec.decodeSource() },
    );
    const patience = setTimeout(() => session.end(new Error("nothing was said")), FIRST_MESSAGE_TIMEOUT_MS);
    await session.read();
    clearTimeout(patience);
    isKnown.resolve();
  }

  /** The machine that a session's first message is for. Undefined: nothing is known of such a migration. */
  async #driverFor(peer: string, message: SourceMessage): Promise<DestinationDriver | undefined> {
    if (!("migration" in message)) {
      throw new ProtocolError({
        code: "PROTOCOL_UNEXPECTED_MESSAGE",
        phase: "a new session",
        message: message.type,
      });
    }
    const known = this.#incoming.get(message.migration);
    if (known !== undefined) {
      // Only the source that began a migration may speak for it.
      if (known.context.source !== peer) throw new Error(`${peer} is not the source of ${message.migration}`);
      return known;
    }
    if (message.type !== "begin") return this.#fromJournal(peer, message.migration);
    if (message.version !== PROTOCOL_VERSION) {
      const { hostName } = this.#parts;
      throw new NodeError("PEER_VERSION", {
        host: hostName,
        ours: message.version,
        theirs: PROTOCOL_VERSION,
      });
    }
    const active = [...this.#incoming.values()].filter(({ state }) => !isOver(state)).length;
    if (active >= INCOMING_MAX) {
      throw new NodeError("PEER_REFUSED", {
        host: this.#parts.hostName,
        reason: `it receives ${active} domains already`,
      });
    }
    const busy = [...this.#incoming.values()].find(
      ({ domain, state }) => domain.id === message.domain.id && !isOver(state),
    );
    if (busy !== undefined) await this.#supersede(busy, peer, message.domain);
    const { migration, generation, domain: description, dataBytes } = message;
    const begun = { migration, generation, domain: description, source: peer, dataBytes };
    return this.#driver(begun, destination.initial);
  }

  /** One that ended here long ago, and whose source has not heard of it. */
  async #fromJournal(peer: string, migration: string): Promise<DestinationDriver | undefined> {
    const entry = await this.#parts.metadata.journal.get(migration);
    if (entry?.role !== "destination" || !("source" in entry.record)) return undefined;
    if (entry.record.source !== peer) throw new Error(`${peer} is not the source of ${migration}`);
    await this.#restoreDestination(entry);
    return this.#incoming.get(migration);
  }

  /** The source decides: when it begins anew, it has given the earlier attempt up. Nobody else may say so. */
  async #supersede(busy: DestinationDriver, peer: string, domain: DomainDescription): Promise<void> {
    if (busy.context.source !== peer) {
      throw new NodeError("MIGRATION_BUSY", { domain: domain.name, migration: "of another host" });
    }
    await busy.abandon("the source began another migration of the domain");
  }

  #driver(
    incoming: {
      migration: string;
      generation: number;
      domain: DomainDescription;
      source: string;
      dataBytes: number;
    },
    initial: destination.DestinationState,
  ): DestinationDriver {
    const { domain, migration } = incoming;
    const reception = new DomainReception(this.#parts, incoming);
    const parts = this.#parts;
    let phase = initial.phase;
    const others = new PhaseNews(() => parts.changed(domain.id));
    const driver = new DestinationDriver(
      migration,
      initial,
      domain,
      { source: incoming.source, session: randomUUID() },
      {
        log: parts.log.child({ migration, domain: domain.id }),
        faults: parts.faults,
        examine: (_domain, generation) =>
          this.#examine({ domain, generation, source: incoming.source, bytesNeeded: incoming.dataBytes }),
        openCopies: (_domain, choices) => reception.openCopies(choices),
        closeCopies: (copies) => reception.closeCopies(copies),
        persist: async (record, prepared) => {
          const [known, ownReplica] = await Promise.all([
            parts.metadata.domains.get(domain.id),
            parts.metadata.replicas.get(domain.id, parts.self),
          ]);
          const facts = { self: parts.self, nowMs: parts.clock.wallMs(), known, ownReplica, prepared };
          await parts.metadata.journal.commit(destinationCommit(domain.id, record, facts));
          if (record.phase === "synchronised") await reception.forgetMissing();
        },
        forget: () => parts.metadata.journal.remove(migration),
        prepareMemory: () => reception.prepareMemory(),
        discardMemory: () => reception.discardMemory(),
        keepMissing: (_copies, missing) => reception.keepMissing(missing),
        stage: (loaded, hooks) => reception.stage(loaded, hooks),
        unstage: () => reception.unstage(),
        resume: (copies, _generation, hooks) => reception.resume(copies, hooks),
        changed: (state) => {
          // Not with every block: others look the domain up again.
          if (state.phase === phase) return;
          phase = state.phase;
          parts.log.info("phase changed", { migration, domain: domain.id, to: phase });
          others.tell(phase);
          if (isOver(state)) this.#retire();
        },
      },
    );
    this.#incoming.set(migration, driver);
    return driver;
  }

  /** An ended migration answers its source as long as that may ask; the newest few are kept for it. */
  #retire(): void {
    const over = [...this.#incoming].filter(([, { state }]) => isOver(state));
    for (const [id] of over.slice(0, Math.max(0, over.length - RETIRED_MAX))) this.#incoming.delete(id);
  }

  async #examine(wish: Parameters<typeof examineCopies>[1]) {
    try {
      const { id, name } = wish.domain;
      const outgoing = [...this.#leaving, ...this.#outgoing.values()].find((migration) => {
        return migration.context.domain.id === id && migration.isLeaving;
      });
      // It was here, and its way out is not over: what is left of it would be ended when the domain is back.
      if (outgoing !== undefined) {
        throw new NodeError("MIGRATION_BUSY", { domain: name, migration: outgoing.context.migration });
      }
      this.#parts.domains.hypervisor(wish.domain.hypervisor);
      return { copies: await examineCopies(this.#parts, wish) };
    } catch (error) {
      const { code, message, remedy } = nodeErrorOf(error);
      return { refused: { code, reason: remedy === undefined ? message : `${message}; ${remedy}` } };
    }
  }

  async #acceptMemory(channel: Channel): Promise<void> {
    const { migration, attempt, offset, rest } = await readMemoryOpen(channel);
    const driver = this.#incoming.get(migration);
    if (driver === undefined || driver.context.source !== channel.peer) {
      throw new Error(`no migration ${migration} of ${channel.peer} is being received`);
    }
    await driver.readMemory(attempt, offset, rest);
  }

  // After a restart.

  async #restore(): Promise<void> {
    for (const entry of await this.#parts.metadata.journal.list()) {
      try {
        if (entry.role === "source") await this.#restoreSource(entry.domain, entry.record);
        else await this.#restoreDestination(entry);
      } catch (error) {
        this.#parts.log.error("a migration could not be taken up again", {
          migration: entry.record.migration,
          reason: toError(error).message,
        });
      }
    }
  }

  async #restoreSource(domainId: string, record: source.SourceRecord): Promise<void> {
    const { metadata, self } = this.#parts;
    const domain = await metadata.domains.get(domainId);
    if (domain === undefined) return;
    const { generation, destination: destinationHost } = record;
    const context = outgoingContext(
      { ...domain, generation },
      {
        migration: record.migration,
        destination: destinationHost,
        dataBytes: 0,
        log: await readGenerationLog(metadata, { ...domain, generation }),
        replicas: [],
        limits: this.#parts.limits,
      },
    );
    const [state, effects] = source.restore(record);
    const outgoing = new OutgoingMigration(this.#parts, { domain, context, to: destinationHost }, state);
    if (domain.owner === self) this.#leaving.add(outgoing);
    else this.#outgoing.set(domain.id, outgoing);
    void outgoing.ended.then(() => this.#left(outgoing));
    await outgoing.start(effects);
  }

  async #restoreDestination(entry: Extract<JournalEntry, { role: "destination" }>): Promise<void> {
    const { record } = entry;
    if (record.phase === "aborted") return this.#parts.metadata.journal.remove(record.migration);
    const { migration, generation, domain } = record;
    const { state: guest } = await this.#parts.domains.hypervisor(domain.hypervisor).status(domain.id);
    // What has not all arrived never will: its stream ended with the process that took it.
    const isMemoryLost = guest !== "suspended";
    const [state, effects] = destination.restore(record, { isMemoryLost });
    // What it asked for is not in the journal, and what has arrived lies on the disk already.
    const begun = { migration, generation, domain, source: record.source, dataBytes: 0 };
    const driver = this.#driver(begun, state);
    await driver.start(effects);
  }
}

const RETIRED_MAX = 64;
/** Domains received at once. */
const INCOMING_MAX = 16;

function isOver({ phase }: destination.DestinationState): boolean {
  return phase === "completed" || phase === "aborted" || phase === "idle";
}

/** Presumed abort: who left no record promised nothing. */
function unknownMigration(session: Session<SourceMessage>, message: SourceMessage): void {
  if ("migration" in message) session.send({ type: "aborted", migration: message.migration });
}

function outgoingContext(
  domain: DomainRecord,
  rest: Pick<source.SourceContext, "destination" | "dataBytes" | "log" | "replicas"> & {
    migration?: string;
    limits: MigrationsParts["limits"];
  },
): source.SourceContext {
  const { id, name, hypervisor, memoryBytes, config, vbds, generation } = domain;
  const { limits, migration = randomUUID(), ...others } = rest;
  return {
    ...limits,
    ...others,
    migration,
    generation,
    domain: { id, name, hypervisor, memoryBytes, config, vbds },
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function reportOf(
  outcome: Outcome,
  { record, self, to }: { record: DomainRecord; self: string; to: string },
): HopReport {
  if (outcome.kind === "completed") return outcome.report;
  const facts = { domain: record.name, host: self, reason: outcome.reason };
  if (outcome.kind === "cancelled") throw new NodeError("MIGRATION_CANCELLED", facts);
  if (outcome.kind === "refused") {
    throw new NodeError("MIGRATION_REFUSED", { ...facts, to, cause: outcome.cause });
  }
  if (outcome.kind === "undecided") throw new NodeError("MIGRATION_UNDECIDED", { ...facts, host: to });
  if (outcome.kind === "unfinished") throw new NodeError("MIGRATION_UNFINISHED", { ...facts, host: to });
  throw new NodeError("MIGRATION_FAILED", facts);
}
