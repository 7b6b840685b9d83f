/** One migration out of this host: its driver, its attachment, its report, and who listens to its progress. */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { SourceContext, SourceEffect, SourceRecord, SourceState } from "../../protocol/source.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { CustodyRecord, DomainRecord } from "../../storage/records.ts";
import type { Attachment } from "../attachment/attachment.ts";
import { CopyAttachment } from "../attachment/copy-attachment.ts";
import { FencedAttachment } from "../attachment/fenced-attachment.ts";
import type { Clock } from "../clock.ts";
import type { HopReport, MigrationSummary, Progress } from "../control/api.ts";
import type { HostDomains } from "../domains/host-domains.ts";
import { NodeError } from "../errors.ts";
import type { FaultPoints } from "../fault-points.ts";
import type { HookFacts, Hooks } from "../hooks/hooks.ts";
import type { HostSigner } from "../host-signer.ts";
import type { Log } from "../log.ts";
import type { Network } from "../network/network.ts";
import { certify } from "../recovery/certificates.ts";
import { PhaseNews } from "./phase-news.ts";
import { sourceCommit } from "./source-commits.ts";
import { hasEnded, SourceDriver } from "./source-driver.ts";
import type { SourceOptions } from "./source-parts.ts";

export type OutgoingParts = {
  self: string;
  hostName: string;
  network: Network;
  domains: HostDomains;
  metadata: Metadata;
  clock: Clock;
  log: Log;
  faults: FaultPoints;
  limits: Pick<
    SourceContext,
    | "inFlightBlocksMax"
    | "iterationsMax"
    | "totalSentFactorMax"
    | "remainingBlocksToFreeze"
    | "hotSendsMax"
    | "writeSlowdownMax"
  >;
  link: Omit<SourceOptions, "address">;
  hooks: Hooks;
  /** This host's signature under certificates of custody. */
  sign: HostSigner;
  /** The bulk listener of a host of the cluster. Throws when nobody knows it. */
  addressOf(host: string): Promise<string>;
  changed(domain: string): void;
};

export type Outcome =
  | { kind: "completed"; report: HopReport }
  | { kind: "cancelled" | "failed" | "undecided" | "unfinished"; reason: string }
  | { kind: "refused"; cause: string; reason: string };

const PROGRESS_EVERY_MS = 250;

export class OutgoingMigration {
  readonly context: SourceContext;
  /** When it is known where the domain is, for whoever asked for the migration. */
  readonly settled: Promise<Outcome>;
  /** When the peer has heard all there is to hear. */
  readonly ended: Promise<void>;
  readonly #parts: OutgoingParts;
  readonly #domain: DomainRecord;
  readonly #to: string;
  readonly #settle = Promise.withResolvers<Outcome>();
  readonly #end = Promise.withResolvers<void>();
  readonly #listeners = new Set<(progress: Progress) => void>();
  readonly #startedAtMs: number;
  #driver: SourceDriver | undefined;
  readonly #initial: SourceState;
  #written: readonly BlockBitmap[] | undefined;
  /** The end of the domain's chain of custody, read before the domain is frozen. */
  #lastCertificate: CustodyRecord | undefined;
  #nextCertificate: CustodyRecord | undefined;
  /** As it is while the domain is frozen. */
  #record: Promise<DomainRecord | undefined> | undefined;
  readonly #others = new PhaseNews(() => this.#parts.changed(this.#domain.id));
  #lastProgressMs = 0;
  #lastPhase: SourceState["phase"] | undefined;
  #cancelReason: string | undefined;
  #hasLeft: boolean;

  constructor(
    parts: OutgoingParts,
    { domain, context, to }: { domain: DomainRecord; context: SourceContext; to: string },
    initial: SourceState,
  ) {
    this.#parts = parts;
    this.#domain = domain;
    this.context = context;
    this.#to = to;
    this.#initial = initial;
    // Its record was written after the replica was kept.
    this.#hasLeft = initial.phase === "finishing";
    this.settled = this.#settle.promise;
    this.ended = this.#end.promise;
    this.#startedAtMs = parts.clock.wallMs();
  }

  get state(): SourceState {
    return this.#driver?.state ?? this.#initial;
  }

  /** Not yet known where the domain will be, or blocks are still on their way. */
  get isUndecided(): boolean {
    const { phase } = this.state;
    return phase !== "aborting" && phase !== "aborted" && phase !== "finishing" && phase !== "completed";
  }

  /** Handed over, and what is left of the domain here is not yet a replica. */
  get isLeaving(): boolean {
    const { phase } = this.state;
    if (phase === "finishing" || phase === "completed") return !this.#hasLeft;
    return phase === "handing-over" || phase === "post-copy";
  }

  /** Throws MIGRATION_FAILED where an operator's hook does not want it. */
  async start(effects: readonly SourceEffect[]): Promise<void> {
    const { domains, log, faults, clock, network, hooks } = this.#parts;
    const { context } = this;
    if (this.#initial.phase === "negotiating") await this.#askHook();
    const attachment = await this.#attachment();
    this.#lastCertificate = (await this.#parts.metadata.custody.list(context.domain.id)).at(-1);
    const driver = new SourceDriver(
      this.#initial,
      context,
      {
        network,
        hypervisor: domains.hypervisor(context.domain.hypervisor),
        attachment,
        clock,
        log: log.child({ migration: context.migration, domain: context.domain.id }),
        faults,
        persist: (record) => this.#persist(record),
        forget: () => this.#parts.metadata.journal.remove(context.migration),
        beforeFreeze: async () => {
          await hooks.run("pre-freeze", this.#facts());
        },
        keepReplica: (generation) => this.#keepReplica(generation, attachment),
        fenced: (written) => this.#fenced(written),
        changed: (state) => this.#changed(state),
      },
      { ...this.#parts.link, address: () => this.#parts.addressOf(context.destination) },
    );
    this.#driver = driver;
    await driver.start(effects);
  }

  async #askHook(): Promise<void> {
    const result = await this.#parts.hooks.run("pre-migrate", this.#facts());
    if (result.outcome !== "failed") return;
    throw new NodeError("MIGRATION_FAILED", {
      domain: this.#domain.name,
      host: this.#parts.self,
      reason: `the hook pre-migrate does not allow it: ${result.reason}`,
    });
  }

  #facts(): HookFacts {
    const { context } = this;
    return {
      domain: context.domain.id,
      name: context.domain.name,
      migration: context.migration,
      from: this.#parts.hostName,
      to: this.#to,
      generation: context.generation + 1,
    };
  }

  cancel(reason: string): void {
    this.#cancelReason = reason;
    this.#driver?.cancel(reason);
  }

  async stop(): Promise<void> {
    await this.#driver?.stop();
    const { phase } = this.state;
    const kind = phase === "handing-over" ? "undecided" : phase === "post-copy" ? "unfinished" : "failed";
    this.#settle.resolve({ kind, reason: "the daemon was stopped" });
  }

  onProgress(listener: (progress: Progress) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  summary(): MigrationSummary | undefined {
    const progress = this.#driver?.meter.progress(this.state);
    if (progress === undefined) return undefined;
    return {
      ...progress,
      migration: this.context.migration,
      fromName: this.#parts.hostName,
      toName: this.#to,
    };
  }

  /** What the copier reads: the domain's own export, or, once it lives elsewhere, the bare files. */
  async #attachment(): Promise<Attachment> {
    const { domains, self } = this.#parts;
    const { generation } = this.context;
    const { phase } = this.#initial;
    if (this.#domain.owner === self) {
      const own = domains.attachment(this.#domain.id);
      if (own !== undefined) return own;
      if (phase === "negotiating") return domains.open(this.#domain);
    }
    // Whoever only has to tell its peer something needs no files.
    const isRead = phase === "handing-over";
    return new FencedAttachment(
      CopyAttachment.open(isRead ? await domains.vbdsOf(this.#domain) : []),
      generation,
    );
  }

  async #persist(record: SourceRecord): Promise<void> {
    const { metadata, self, clock } = this.#parts;
    const ahead = record.phase === "handed-over" ? this.#record : undefined;
    const domain = (await (ahead ?? metadata.domains.get(this.#domain.id))) ?? this.#domain;
    const facts = { self, nowMs: clock.wallMs(), domain, context: this.context, written: this.#written };
    await metadata.journal.commit({ ...sourceCommit(record, facts), ...this.#custody(record) });
  }

  /** What the handover needs is made while the memory's tail is on its way: nobody has to wait for it afterwards. */
  #fenced(written: readonly BlockBitmap[]): void {
    this.#written = written;
    const { self, clock, sign, metadata } = this.#parts;
    this.#record = metadata.domains.get(this.#domain.id);
    this.#record.catch(() => undefined);
    const { generation, destination, domain } = this.context;
    const before = this.#lastCertificate;
    if (before !== undefined && before.certificate.generation > generation) return;
    const facts = { kind: "handover", domain: domain.id, generation: generation + 1, word: "" } as const;
    const ends = { from: self, to: destination, timeMs: Math.round(clock.wallMs()) };
    this.#nextCertificate = certify({ ...facts, ...ends, before, written }, { self, sign });
  }

  /** Written with the record that it is about; one of an earlier process is there already. */
  #custody({ phase }: SourceRecord): { custody?: readonly CustodyRecord[] } {
    if (phase !== "handed-over" || this.#nextCertificate === undefined) return {};
    return { custody: [this.#nextCertificate] };
  }

  /** The files are closed; what they are now is what a later migration must find. */
  async #keepReplica(generation: number, attachment: Attachment): Promise<void> {
    const { domains, metadata, self, clock } = this.#parts;
    await attachment.close();
    const { id } = this.#domain;
    const replica = {
      domain: id,
      host: self,
      generation,
      updatedAt: clock.wallMs(),
      state: "whole" as const,
    };
    await metadata.journal.commit({ vbds: await domains.identify(this.#domain), replicas: [replica] });
    this.#hasLeft = true;
  }

  #changed(state: SourceState): void {
    const { clock, log } = this.#parts;
    const now = clock.nowMs();
    const isNewPhase = state.phase !== this.#lastPhase;
    if (isNewPhase)
      log.info("phase changed", {
        migration: this.context.migration,
        domain: this.context.domain.id,
        from: this.#lastPhase,
        to: state.phase,
      });
    this.#lastPhase = state.phase;
    if (isNewPhase && (state.phase === "handing-over" || state.phase === "post-copy"))
      this.#others.tell(state.phase);
    if (this.#driver !== undefined && (isNewPhase || now - this.#lastProgressMs >= PROGRESS_EVERY_MS)) {
      this.#lastProgressMs = now;
      const progress = this.#driver.meter.progress(state);
      for (const listener of this.#listeners) listener(progress);
    }
    if (state.phase === "finishing" || state.phase === "completed") void this.#completed();
    if (isNewPhase && state.phase === "aborting") {
      void this.#parts.hooks.run("failed", { ...this.#facts(), reason: state.reason });
    }
    if (state.phase === "aborting" || state.phase === "aborted") {
      this.#settle.resolve(this.#outcomeOfAbort(state.reason));
    }
    if (hasEnded(state)) this.#end.resolve();
  }

  #outcomeOfAbort(reason: string): Outcome {
    if (this.#cancelReason !== undefined) return { kind: "cancelled", reason };
    const refusal = this.#driver?.refusal;
    return refusal === undefined ? { kind: "failed", reason } : { kind: "refused", ...refusal };
  }

  async #completed(): Promise<void> {
    const { context } = this;
    const report: HopReport = {
      migration: context.migration,
      domain: context.domain.name,
      from: this.#parts.hostName,
      to: this.#to,
      generation: context.generation + 1,
      ...this.#driver!.meter.report(),
    };
    this.#settle.resolve({ kind: "completed", report });
    if (this.#reported) return;
    this.#reported = true;
    void this.#parts.hooks.run("post-migrate", this.#facts());
    const { metadata, self, clock } = this.#parts;
    await metadata.history.add(
      {
        migration: context.migration,
        domain: context.domain.id,
        from: self,
        to: context.destination,
        generation: context.generation,
        startedAt: this.#startedAtMs,
        endedAt: clock.wallMs(),
        outcome: "completed",
        figures: JSON.stringify(report),
      },
      { sync: false },
    );
  }

  #reported = false;
}
