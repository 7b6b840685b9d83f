/** The destination's effects on this host's copies and hypervisor: what a `DestinationDriver` is made of. */

import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { DomainDescription, MigrationId, RungChoice } from "../../protocol/messages.ts";
import type { Generation } from "../../protocol/units.ts";
import { FdByteFile } from "../../storage/byte-file.ts";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import type { Metadata } from "../../storage/metadata.ts";
import { PresenceLog } from "../../storage/presence-log.ts";
import type { DomainRecord, VbdRecord } from "../../storage/records.ts";
import type { Attachment, Copies } from "../attachment/attachment.ts";
import { CopyAttachment } from "../attachment/copy-attachment.ts";
import type { NbdAttachmentOptions } from "../attachment/nbd-attachment.ts";
import type { Clock } from "../clock.ts";
import type { HostDomains } from "../domains/host-domains.ts";
import { type HostPaths, makeDomainFolder } from "../domains/host-paths.ts";
import type { FaultPoints } from "../fault-points.ts";
import type { Hooks } from "../hooks/hooks.ts";
import type { DomainStatus, IncomingMemory } from "../hypervisor/hypervisor.ts";
import type { ResumeHooks } from "./destination-driver.ts";

export type IncomingDomainParts = {
  self: string;
  paths: HostPaths;
  metadata: Metadata;
  domains: HostDomains;
  clock: Clock;
  faults: FaultPoints;
  hostName: string;
  hooks: Hooks;
};

export type IncomingDomain = {
  migration: MigrationId;
  /** The generation that ends at the source. */
  generation: Generation;
  domain: DomainDescription;
  /** The host that it comes from. */
  source: string;
};

const SUSPENDED: DomainStatus = { state: "suspended" };

export class DomainReception {
  readonly #parts: IncomingDomainParts;
  readonly #incoming: IncomingDomain;
  #choices: readonly RungChoice[] = [];
  #generationStarted: Promise<void> | undefined;
  #staged: Attachment | undefined;

  constructor(parts: IncomingDomainParts, incoming: IncomingDomain) {
    this.#parts = parts;
    this.#incoming = incoming;
  }

  async openCopies(choices: readonly RungChoice[]): Promise<Copies> {
    const { metadata, paths } = this.#parts;
    const { domain } = this.#incoming;
    this.#choices = choices;
    makeDomainFolder(paths, domain.id);
    const vbds: VbdRecord[] = [];
    for (const { name, sizeBytes } of domain.vbds) {
      const known = await metadata.vbds.get(domain.id, name);
      const path = known?.path ?? paths.vbdFile(domain.id, name);
      if (!existsSync(path)) await FileBlockStore.create(path, { sizeBytes }).close();
      const exportToken = known?.exportToken ?? randomBytes(16).toString("hex");
      vbds.push({ domain: domain.id, name, path, sizeBytes, exportToken });
    }
    // Without an identity: whoever looks at these files after a crash must not take them for a replica.
    await metadata.journal.commit({ vbds });
    return CopyAttachment.open(vbds);
  }

  /**
   * An attempt ended before the handover. A replica that was brought forward by bitmaps is still that replica:
   * everything it got is among what a later migration sends again. Otherwise nobody vouches for the bytes.
   */
  async closeCopies(copies: Copies | undefined): Promise<void> {
    const { metadata, self, clock, domains } = this.#parts;
    const { domain } = this.#incoming;
    if (copies !== undefined) {
      await copies.flush();
      await copies.close();
    }
    const replica = await metadata.replicas.get(domain.id, self);
    if (replica === undefined) return;
    const updatedAt = clock.wallMs();
    const isReplica =
      copies !== undefined &&
      replica.generation > 0 &&
      this.#choices.length > 0 &&
      this.#choices.every(({ rung }) => rung === "bitmaps");
    if (!isReplica) {
      await metadata.journal.commit({
        replicas: [
          { ...replica, updatedAt, state: "unknown", reason: "a migration to this host was cut short" },
        ],
      });
      return;
    }
    const { dirtySince: _dirtySince, reason: _reason, ...label } = replica;
    await metadata.journal.commit({
      vbds: await domains.identify({ id: domain.id, vbds: [...domain.vbds] }),
      replicas: [{ ...label, updatedAt, state: "whole" }],
    });
  }

  async prepareMemory(): Promise<IncomingMemory> {
    const { domains } = this.#parts;
    const { domain, generation } = this.#incoming;
    await this.#startGeneration();
    const vbds = await this.#vbds();
    const spec = domains.spec({ ...domain, generation: generation + 1 }, vbds);
    return domains.hypervisor(domain.hypervisor).migrateIn(spec);
  }

  /** Also one that an earlier process of this daemon had begun to receive. Never one that runs. */
  async discardMemory(): Promise<void> {
    const { domain } = this.#incoming;
    const hypervisor = this.#parts.domains.hypervisor(domain.hypervisor);
    const { state } = await hypervisor.status(domain.id);
    if (state === "incoming" || state === "suspended") await hypervisor.destroy(domain.id);
  }

  async keepMissing(missing: readonly BlockBitmap[]): Promise<void> {
    const { paths, domains } = this.#parts;
    const { domain, generation, migration } = this.#incoming;
    await Promise.all(
      domain.vbds.map(async ({ name }, vbd) => {
        const path = paths.presenceLog(domain.id, name);
        const file = existsSync(path) ? FdByteFile.open(path) : FdByteFile.create(path);
        const presence = await PresenceLog.create(file, {
          generation: generation + 1,
          migration,
          bootId: domains.bootId,
          missing: missing[vbd]!,
        });
        await presence.close();
      }),
    );
    await this.#startGeneration();
  }

  /**
   * Before the domain may run: its first write must find a durable log of its generation. Done while the memory
   * is copied, so that the freeze does not pay for it.
   */
  #startGeneration(): Promise<void> {
    const { domains } = this.#parts;
    this.#generationStarted ??= this.#vbds().then((vbds) => domains.startGeneration(this.#record(), vbds));
    return this.#generationStarted;
  }

  /** As this host will have it. */
  #record(): DomainRecord {
    const { domain, generation } = this.#incoming;
    const vbds = domain.vbds.map(({ name, sizeBytes }) => ({ name, sizeBytes }));
    const { id, name, hypervisor, memoryBytes, config } = domain;
    const facts = { generation: generation + 1, owner: this.#parts.self, createdAt: 0 };
    return { id, name, hypervisor, memoryBytes, config, vbds, ...facts, state: "prepared" };
  }

  /**
   * All of `resume` that does not need the domain to be ours yet, while its memory's tail is loaded and both hosts
   * write their journals: its vbds are exported behind a fence that lets no write through, and its hypervisor is given
   * them once it holds the memory.
   */
  async stage(loaded: Promise<unknown>, hooks: ResumeHooks): Promise<void> {
    const { domains } = this.#parts;
    const { domain } = this.#incoming;
    this.#staged = await domains.stage(this.#record(), this.#arrivals(hooks));
    await loaded;
    await domains.hypervisor(domain.hypervisor).makeReady?.(domain.id);
  }

  /** The handover did not come: the copies are nobody's again. */
  async unstage(): Promise<void> {
    const staged = this.#staged;
    this.#staged = undefined;
    await staged?.close();
  }

  /** Exports the vbds under the new generation and lets the domain run; also after a restart. */
  async resume(copies: Copies | undefined, hooks: ResumeHooks): Promise<Attachment> {
    const { domains, metadata } = this.#parts;
    const { domain } = this.#incoming;
    await copies?.close();
    const staged = this.#staged;
    this.#staged = undefined;
    // What was staged is as the journal has it by now: nothing need be read again while the guest waits.
    const record = staged === undefined ? await metadata.domains.get(domain.id) : this.#record();
    if (record === undefined) throw new Error(`no record of domain ${domain.id}`);
    const attachment =
      staged === undefined
        ? await domains.open(record, this.#arrivals(hooks))
        : domains.takeOver(record, staged);
    const hypervisor = domains.hypervisor(domain.hypervisor);
    // After a restart of the daemon the domain may be running already: it outlives us.
    const { state } = staged === undefined ? await hypervisor.status(domain.id) : SUSPENDED;
    if (state === "suspended" || state === "incoming") {
      await hypervisor.resume(domain.id);
      void this.#parts.hooks.run("post-resume", {
        domain: domain.id,
        name: domain.name,
        migration: this.#incoming.migration,
        from: this.#incoming.source,
        to: this.#parts.hostName,
        generation: record.generation,
      });
    }
    return attachment;
  }

  #arrivals(hooks: ResumeHooks): NonNullable<NbdAttachmentOptions["incoming"]> {
    return {
      migration: this.#incoming.migration,
      pull: (vbd, runs) => hooks.needBlocks({ type: "need-blocks", vbd, runs }),
      complete: () => hooks.nothingMissing(),
      superseding: () => this.#parts.faults.point("destination-superseding-write"),
    };
  }

  /** Post-copy is over: the record of what was missing has no reader any more. */
  async forgetMissing(): Promise<void> {
    const { paths } = this.#parts;
    const { domain } = this.#incoming;
    for (const { name } of domain.vbds) await rm(paths.presenceLog(domain.id, name), { force: true });
  }

  async #vbds(): Promise<VbdRecord[]> {
    return this.#parts.domains.vbdsOf({
      id: this.#incoming.domain.id,
      vbds: [...this.#incoming.domain.vbds],
    });
  }
}
