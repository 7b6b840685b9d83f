/**
 * What the control process asks of the data process: the domains of this host and their migrations. Every
 * method takes and returns what the structured clone can copy.
 */

import type { DestinationState } from "../../protocol/destination.ts";
import { chooseRung } from "../../protocol/ladder.ts";
import type { CopyAtDestination, RungChoice } from "../../protocol/messages.ts";
import type { Testimony } from "../../protocol/recovery.ts";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import { allocatedNonZeroBlocks } from "../../storage/digests.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { DomainRecord } from "../../storage/records.ts";
import type {
  CreateParams,
  HopReport,
  MigrateOptions,
  MigrationSummary,
  PlanVbd,
  VerifyReport,
} from "../control/api.ts";
import { type CopiesParts, examineCopies } from "../domains/copies.ts";
import type { HostDomains } from "../domains/host-domains.ts";
import { readGenerationLog } from "../domains/stored-log.ts";
import { NodeError, nodeErrorOf } from "../errors.ts";
import type { FaultPoints } from "../fault-points.ts";
import type { Migrations } from "../migration/migrations.ts";
import type { DialBackNetwork } from "../network/dial-back.ts";
import type { Candidate } from "../peers/host-questions.ts";
import type { AdoptionWord, Deed, DomainRecovery, Heard } from "../recovery/domain-recovery.ts";

/** What a host says about a domain that might come to it. */
export type Probe = { copies: readonly CopyAtDestination[] } | { refusal: string };

export type DomainLook = {
  hypervisorState: string;
  detail?: string;
  guest?: Record<string, unknown>;
  outgoing?: MigrationSummary;
  incoming?: DestinationState["phase"];
  writtenBlocks?: number;
  /** How the guest reaches its vbds; absent while it has none. */
  attachment?: string;
};

export type DataServiceParts = CopiesParts & {
  metadata: Metadata;
  domains: HostDomains;
  migrations: Migrations;
  recovery: DomainRecovery;
  network: Pick<DialBackNetwork, "dialBack">;
  faults: FaultPoints;
  progress(domain: string, progress: MigrationSummary): void;
  stop(): Promise<void>;
};

export class DataService {
  readonly #parts: DataServiceParts;

  constructor(parts: DataServiceParts) {
    this.#parts = parts;
  }

  create(params: CreateParams): Promise<DomainRecord> {
    return this.#parts.domains.create(params);
  }

  async start(query: string): Promise<DomainRecord> {
    await this.#idle(query);
    return this.#parts.domains.start(query);
  }

  async halt(query: string): Promise<DomainRecord> {
    await this.#idle(query);
    return this.#parts.domains.stop(query);
  }

  async destroy(query: string): Promise<DomainRecord> {
    await this.#idle(query);
    return this.#parts.domains.destroy(query);
  }

  async migrate(
    query: string,
    to: { host: string; name: string },
    options: MigrateOptions,
  ): Promise<HopReport> {
    const { domains, migrations, progress } = this.#parts;
    const record = await domains.mine(query);
    const onProgress = (): void => {
      const summary = migrations.outgoing(record.id)?.summary();
      if (summary !== undefined) progress(record.id, summary);
    };
    return migrations.migrate(record, to, { ...options, onProgress });
  }

  async cancel(query: string): Promise<{ domain: string; name: string; migration: string }> {
    const record = await this.#parts.domains.mine(query);
    const migration = this.#parts.migrations.cancel(record.id, "cancelled by the operator");
    if (migration === undefined) throw new NodeError("MIGRATION_UNKNOWN", { migration: `of ${record.name}` });
    return { domain: record.id, name: record.name, migration };
  }

  async verify(query: string): Promise<VerifyReport> {
    const record = await this.#parts.domains.mine(query);
    const hypervisor = this.#parts.domains.hypervisor(record.hypervisor);
    if (hypervisor.verify === undefined) {
      throw new NodeError("USAGE", { reason: `a ${record.hypervisor} domain has no self-check` });
    }
    const startedAt = performance.now();
    const { ok, errors, blocksChecked, pagesChecked, ...detail } = await hypervisor.verify(record.id);
    return {
      domain: record.id,
      name: record.name,
      ok,
      errors: errors.length,
      blocksChecked,
      pagesChecked,
      durationMs: performance.now() - startedAt,
      detail: { ...detail, errors },
    };
  }

  /** What this process sees of a domain that the journal knows. */
  async look(id: string, options: { guest: boolean }): Promise<DomainLook> {
    const { domains, metadata, migrations } = this.#parts;
    const record = await metadata.domains.get(id);
    if (record === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query: id });
    const hypervisor = domains.hypervisor(record.hypervisor);
    const { state, detail } = await hypervisor.status(id);
    const outgoing = migrations.outgoing(id)?.summary();
    const incoming = migrations.incoming(id)?.phase;
    const attachment = domains.attachment(id);
    const guest = options.guest && state !== "shutoff" ? await hypervisor.inspect(id) : undefined;
    return {
      hypervisorState: state,
      ...(detail === undefined ? {} : { detail }),
      ...(guest === undefined ? {} : { guest }),
      ...(outgoing === undefined ? {} : { outgoing }),
      ...(incoming === undefined ? {} : { incoming }),
      ...(attachment === undefined
        ? {}
        : {
            attachment: attachment.way,
            writtenBlocks: attachment.written().reduce((sum, bitmap) => sum + bitmap.population, 0),
          }),
    };
  }

  // `recover`: see `DomainRecovery`.

  /** By id or name; also a domain that a migration brought here and that never ran here. */
  findAny(query: string): ReturnType<DomainRecovery["find"]> {
    return this.#parts.recovery.find(query);
  }

  testify(id: string): Promise<Testimony> {
    return this.#parts.recovery.testify(id);
  }

  carryOut(id: string, heard: Heard): Promise<Deed> {
    return this.#parts.recovery.carryOut(id, heard);
  }

  carryOutAlone(id: string): Promise<Deed> {
    return this.#parts.recovery.carryOutAlone(id);
  }

  adopt(id: string, word: AdoptionWord): Promise<{ did: string }> {
    return this.#parts.recovery.adopt(id, word);
  }

  /** Another host asks whether its domain might come here. */
  async probe(candidate: Candidate & { source: string }): Promise<Probe> {
    try {
      this.#parts.domains.hypervisor(candidate.domain.hypervisor);
      return { copies: await examineCopies(this.#parts, candidate) };
    } catch (error) {
      return { refusal: nodeErrorOf(error).message };
    }
  }

  /** Per probe: what a migration to that host would send now. */
  async plan(query: string, probes: readonly Probe[]): Promise<(readonly PlanVbd[])[]> {
    const { domains, metadata } = this.#parts;
    const record = await domains.mine(query);
    const attachment = domains.attachment(record.id) ?? (await domains.open(record));
    await attachment.harvest();
    const log = await readGenerationLog(metadata, record);
    const written = attachment.written();
    const allocated = new Map<number, number>();
    const allocatedBlocks = async (vbd: number): Promise<number> => {
      const known = allocated.get(vbd);
      if (known !== undefined) return known;
      const blocks = (await allocatedNonZeroBlocks(attachment.store(vbd)))?.population;
      const count = blocks ?? written[vbd]!.blockCount;
      allocated.set(vbd, count);
      return count;
    };
    const planVbd = async (copy: CopyAtDestination, vbd: number): Promise<PlanVbd> => {
      const since = copy.kind === "replica" ? log.since(copy.generation)?.[vbd]?.clone() : undefined;
      const choice: RungChoice = chooseRung({
        copy,
        generation: record.generation,
        since,
        untrusted: undefined,
      });
      since?.union(written[vbd]!);
      const blocks = choice.rung === "bitmaps" ? since!.population : await allocatedBlocks(vbd);
      return { name: record.vbds[vbd]!.name, ...choice, blocks, bytes: blocks * BLOCK_SIZE_BYTES };
    };
    const plans: (readonly PlanVbd[])[] = [];
    for (const probe of probes) {
      const rows: PlanVbd[] = [];
      if ("copies" in probe) {
        for (const [vbd, copy] of probe.copies.entries()) rows.push(await planVbd(copy, vbd));
      }
      plans.push(rows);
    }
    return plans;
  }

  /** For `replicas`: how many blocks each known replica lacks. Only the domain's host can tell. */
  async lacking(id: string, generations: readonly number[]): Promise<(number | undefined)[]> {
    const { domains, metadata } = this.#parts;
    const record = await domains.mine(id);
    const written = domains.attachment(id)?.written();
    const log = await readGenerationLog(metadata, record);
    return generations.map((generation) => {
      const since = log.since(generation);
      if (since === undefined || written === undefined) return undefined;
      for (const [vbd, bitmap] of since.entries()) bitmap.union(written[vbd]!);
      return since.reduce((sum, bitmap) => sum + bitmap.population, 0);
    });
  }

  /** A host asked for it: this one cannot be dialled. */
  dialBack(address: string, nonce: string): Promise<void> {
    return this.#parts.network.dialBack(address, nonce);
  }

  armFault(spec: string): void {
    this.#parts.faults.arm(spec);
  }

  async stop(): Promise<void> {
    await this.#parts.stop();
  }

  /** Throws MIGRATION_BUSY. */
  async #idle(query: string): Promise<void> {
    const record = await this.#parts.domains.mine(query);
    this.#parts.migrations.refuseBusy(record);
  }
}
