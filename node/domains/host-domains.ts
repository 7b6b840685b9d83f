/**
 * The domains of this host: their vbds, their attachments, their hypervisor. A domain runs here only under
 * the generation that the journal gives this host (DESIGN §4 rule 5), also after a restart.
 *
 * Work on one domain is done one at a time: `exclusive`. A migration holds no lock while it runs; it is asked
 * for by name before anything else is done with its domain.
 */

import { randomBytes, randomUUID } from "node:crypto";
import { existsSync, rmSync, statSync } from "node:fs";
import { isAbsolute } from "node:path";
import { assert } from "../../protocol/errors.ts";
import type { DomainDescription } from "../../protocol/messages.ts";
import { blockCountOf } from "../../protocol/units.ts";
import { FdByteFile } from "../../storage/byte-file.ts";
import { DirtyLog } from "../../storage/dirty-log.ts";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import { fingerprint } from "../../storage/file-identity.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { ExportRegistry } from "../../storage/nbd/export-registry.ts";
import { sizeOfPath } from "../../storage/path-size.ts";
import type { DomainRecord, VbdRecord } from "../../storage/records.ts";
import type { Attachment } from "../attachment/attachment.ts";
import type { NbdAttachmentOptions, NbdVbd } from "../attachment/nbd-attachment.ts";
import type { Clock } from "../clock.ts";
import type { CreateParams } from "../control/api.ts";
import { NodeError } from "../errors.ts";
import type { DomainSpec, Hypervisor } from "../hypervisor/hypervisor.ts";
import type { Log } from "../log.ts";
import { isVbdName, refuseOpenElsewhere } from "./copies.ts";
import { generationContexts } from "./generation-contexts.ts";
import { currentBootId, type HostPaths, makeDomainFolder } from "./host-paths.ts";
import { copyImage, refuseQcow2 } from "./vbd-image.ts";

export type HostDomainsParts = {
  self: string;
  hostName: string;
  paths: HostPaths;
  metadata: Metadata;
  hypervisors: ReadonlyMap<string, Hypervisor>;
  exports: ExportRegistry;
  /** Opens the vbds of a domain in the way that its hypervisor can. */
  attach(domain: Pick<DomainRecord, "id" | "hypervisor">, options: NbdAttachmentOptions): Promise<Attachment>;
  clock: Clock;
  log: Log;
  /** A domain's record changed: those who watch placement look again. */
  changed(domain: string): void;
};

/** What a hypervisor gets, before it is killed, to hand over what it knows of its guest's writes. */
const LAST_WINDOW_TIMEOUT_MS = 3_000;

type LateContexts = { contexts?: NonNullable<NbdAttachmentOptions["contexts"]> };

export class HostDomains {
  readonly #parts: HostDomainsParts;
  readonly #attachments = new Map<string, Attachment>();
  readonly #late = new WeakMap<Attachment, LateContexts>();
  readonly #turns = new Map<string, Promise<unknown>>();
  readonly bootId = currentBootId();

  constructor(parts: HostDomainsParts) {
    this.#parts = parts;
  }

  /** Runs `work` when nothing else is being done with the domain. */
  async exclusive<T>(domain: string, work: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(domain) ?? Promise.resolve();
    const turn = before.then(work, work);
    const settled = turn.then(
      () => undefined,
      () => undefined,
    );
    this.#turns.set(domain, settled);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(domain) === settled) this.#turns.delete(domain);
    }
  }

  hypervisor(kind: string): Hypervisor {
    const hypervisor = this.#parts.hypervisors.get(kind);
    if (hypervisor === undefined) {
      throw new NodeError("HYPERVISOR_UNSUPPORTED", { host: this.#parts.hostName, hypervisor: kind });
    }
    return hypervisor;
  }

  /** Throws DOMAIN_UNKNOWN, DOMAIN_ELSEWHERE. */
  async mine(query: string): Promise<DomainRecord> {
    const { metadata, self } = this.#parts;
    const record = await metadata.domains.find(query);
    if (record === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query });
    if (record.owner !== self)
      throw new NodeError("DOMAIN_ELSEWHERE", { domain: record.name, host: record.owner });
    return record;
  }

  attachment(domain: string): Attachment | undefined {
    return this.#attachments.get(domain);
  }

  /**
   * After a start of the daemon: exports the vbds of every domain that this host owns and that has a process.
   * Those that a migration left undecided are the migrations' to open.
   */
  async openOwned(): Promise<void> {
    const { metadata, self, log } = this.#parts;
    const incoming = new Set(
      (await metadata.journal.list()).flatMap(({ role, domain, record }) =>
        role === "destination" && record.phase === "owner" ? [domain] : [],
      ),
    );
    for (const record of await metadata.domains.list()) {
      if (record.owner !== self || incoming.has(record.id)) continue;
      try {
        const { state } = await this.hypervisor(record.hypervisor).status(record.id);
        if (state !== "shutoff") await this.open(record);
        else if (record.state === "running") await this.#setState(record, "crashed");
      } catch (error) {
        log.error("a domain's vbds could not be exported", {
          domain: record.id,
          reason: error instanceof Error ? error.message : String(error),
        });
      }
    }
  }

  // Life and death.

  async create(params: CreateParams): Promise<DomainRecord> {
    const { metadata, paths, self, clock } = this.#parts;
    const hypervisor = this.hypervisor(params.hypervisor);
    const namesake = await metadata.domains.find(params.name);
    if (namesake !== undefined && namesake.name === params.name) {
      throw new NodeError("DOMAIN_EXISTS", { name: params.name, domain: namesake.id });
    }
    const id = randomUUID();
    makeDomainFolder(paths, id);
    const vbds: VbdRecord[] = [];
    const created: string[] = [];
    try {
      const mayBeOpen = hypervisor.adopts?.(params.config) ?? false;
      for (const request of params.vbds)
        vbds.push(await this.#createVbd(id, request, { created, mayBeOpen }));
      const record: DomainRecord = {
        id,
        name: params.name,
        hypervisor: params.hypervisor,
        memoryBytes: params.memoryBytes,
        config: params.config,
        vbds: vbds.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
        generation: 1,
        owner: self,
        state: "running",
        createdAt: clock.wallMs(),
      };
      await this.startGeneration(record, vbds);
      // The record first: a domain that runs and that nobody knows could run twice.
      await metadata.journal.commit({ domain: record, vbds });
      await this.open(record);
      await hypervisor.start(this.spec(record, vbds));
      await this.#endWindow(id);
      this.#parts.changed(id);
      return record;
    } catch (error) {
      await this.#attachments.get(id)?.close();
      this.#attachments.delete(id);
      await hypervisor.destroy(id).catch(() => undefined);
      for (const path of created) rmSync(path, { force: true });
      await metadata.domains.remove(id, { sync: true });
      throw error;
    }
  }

  async #createVbd(
    domain: string,
    { name, sizeBytes, path, image, flatten = false }: CreateParams["vbds"][number],
    { created, mayBeOpen }: { created: string[]; mayBeOpen: boolean },
  ): Promise<VbdRecord> {
    const exportToken = randomBytes(16).toString("hex");
    if (!isVbdName(name)) {
      const reason = `"${name}" cannot be a vbd's name: letters, digits, ".", "_" and "-", at most 64`;
      throw new NodeError("USAGE", { reason });
    }
    if (path !== undefined) {
      if (!isAbsolute(path)) throw new NodeError("USAGE", { reason: `${path} has to be an absolute path` });
      if (!existsSync(path)) throw new NodeError("USAGE", { reason: `there is no ${path}` });
      if (!mayBeOpen) await refuseOpenElsewhere(path);
      refuseQcow2(path);
      return { domain, name, path, sizeBytes: sizeOfPath(path), exportToken };
    }
    const file = this.#parts.paths.vbdFile(domain, name);
    if (image !== undefined) {
      if (!existsSync(image)) throw new NodeError("USAGE", { reason: `there is no ${image}` });
      created.push(file);
      await copyImage(image, file, { flatten });
      return { domain, name, path: file, sizeBytes: statSync(file).size, exportToken };
    }
    if (sizeBytes === undefined || sizeBytes === 0) {
      throw new NodeError("USAGE", { reason: `vbd ${name} needs a size, a path or an image` });
    }
    created.push(file);
    await FileBlockStore.create(file, { sizeBytes }).close();
    return { domain, name, path: file, sizeBytes, exportToken };
  }

  async start(query: string): Promise<DomainRecord> {
    const found = await this.mine(query);
    return this.exclusive(found.id, async () => {
      const record = await this.mine(found.id);
      const hypervisor = this.hypervisor(record.hypervisor);
      const { state } = await hypervisor.status(record.id);
      if (state === "running") return record;
      await this.refuseRivals(record);
      if (state === "suspended") await hypervisor.resume(record.id);
      else {
        // What somebody else writes meanwhile nobody would know of.
        const mayBeOpen = hypervisor.adopts?.(record.config) ?? false;
        if (!mayBeOpen) for (const { path } of await this.vbdsOf(record)) await refuseOpenElsewhere(path);
        // It starts on our exports, whatever became of it before.
        await (this.#attachments.get(record.id) ?? (await this.open(record))).beginWindow();
        await hypervisor.start(this.spec(record, await this.vbdsOf(record)));
        await this.#endWindow(record.id);
      }
      return this.#setState(record, "running");
    });
  }

  /** Throws OWNERSHIP_UNCERTAIN where another host is known to claim this generation or a later one. */
  async refuseRivals({ id, name, generation }: DomainRecord): Promise<void> {
    const { metadata, self } = this.#parts;
    const rival = (await metadata.placements.list()).find((claim) => {
      return (
        claim.domain === id && claim.host !== self && claim.generation >= generation && claim.state !== "gone"
      );
    });
    if (rival === undefined) return;
    const reason = `${rival.hostName} says that it has generation ${rival.generation} of it, this host has ${generation}`;
    throw new NodeError("OWNERSHIP_UNCERTAIN", { domain: name, reason });
  }

  async stop(query: string): Promise<DomainRecord> {
    const found = await this.mine(query);
    return this.exclusive(found.id, async () => {
      const record = await this.mine(found.id);
      await this.#beginLastWindow(record.id);
      await this.hypervisor(record.hypervisor).shutdown(record.id);
      await this.close(record.id);
      return this.#setState(record, "stopped");
    });
  }

  /** Ends the domain at once, as pulling its plug would. Its record and its vbds stay; `start` boots it again. */
  async destroy(query: string): Promise<DomainRecord> {
    const found = await this.mine(query);
    return this.exclusive(found.id, async () => {
      const record = await this.mine(found.id);
      const begun = this.#beginLastWindow(record.id);
      // One that does not answer is ended all the same.
      await Promise.race([begun, after(LAST_WINDOW_TIMEOUT_MS)]);
      await this.hypervisor(record.hypervisor).destroy(record.id);
      await this.close(record.id);
      return this.#setState(record, "stopped");
    });
  }

  async #setState(record: DomainRecord, state: DomainRecord["state"]): Promise<DomainRecord> {
    const next = { ...record, state };
    await this.#parts.metadata.journal.commit({ domain: next });
    this.#parts.changed(record.id);
    return next;
  }

  // Attachments.

  /** Exports the domain's vbds under the generation that this host owns. */
  async open(record: DomainRecord, incoming?: NbdAttachmentOptions["incoming"]): Promise<Attachment> {
    this.#refuseForeign(record);
    const open = this.#attachments.get(record.id);
    if (open !== undefined) return open;
    return this.#keep(record, await this.#export(record, { ...(incoming && { incoming }) }));
  }

  /**
   * The same for a domain that is not this host's yet, behind a fence: no write lands before `takeOver`. Whoever calls
   * it closes it where the domain does not come.
   */
  stage(record: DomainRecord, incoming: NbdAttachmentOptions["incoming"]): Promise<Attachment> {
    return this.#export(record, { ...(incoming && { incoming }), fenced: true });
  }

  /** What was staged is the domain's, now that the journal gives it to this host. */
  takeOver(record: DomainRecord, staged: Attachment): Attachment {
    this.#refuseForeign(record);
    assert(
      staged.generation === record.generation,
      "a domain is staged for the generation that it comes with",
    );
    staged.unfence();
    void this.#contextsLater(record, staged);
    return this.#keep(record, staged);
  }

  #refuseForeign({ name: domain, owner, generation }: DomainRecord): void {
    if (owner !== this.#parts.self) throw new NodeError("NOT_OWNER", { domain, owner, generation });
  }

  #keep(record: DomainRecord, attachment: Attachment): Attachment {
    this.#attachments.set(record.id, attachment);
    this.#parts.log.info("vbds exported", {
      domain: record.id,
      generation: record.generation,
      host: this.#parts.hostName,
    });
    return attachment;
  }

  /** The generation log came with the handover: a guest does not wait until it is read. */
  async #contextsLater(record: DomainRecord, staged: Attachment): Promise<void> {
    try {
      this.#late.get(staged)!.contexts = await generationContexts(this.#parts.metadata, record);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#parts.log.warn("an export cannot tell what changed", { domain: record.id, reason });
    }
  }

  async #export(
    record: DomainRecord,
    options: Pick<NbdAttachmentOptions, "incoming" | "fenced">,
  ): Promise<Attachment> {
    const { exports, metadata } = this.#parts;
    const vbds = await this.vbdsOf(record);
    const late: LateContexts = {};
    if (options.fenced !== true) late.contexts = await generationContexts(metadata, record);
    const attachment = await this.#parts.attach(record, {
      vbds: vbds.map((vbd) => this.#nbdVbd(record, vbd)),
      generation: record.generation,
      bootId: this.bootId,
      exports,
      clock: this.#parts.clock,
      ...options,
      contexts: (vbd, written) => late.contexts?.(vbd, written) ?? [],
    });
    this.#late.set(attachment, late);
    // Opened for writing: what was known of the files is no longer true until they are closed in order.
    if (vbds.some(({ identity }) => identity !== undefined)) {
      await metadata.journal.commit({ vbds: vbds.map(({ identity: _identity, ...vbd }) => vbd) });
    }
    return attachment;
  }

  async close(domain: string): Promise<void> {
    const attachment = this.#attachments.get(domain);
    this.#attachments.delete(domain);
    await attachment?.close();
  }

  /** A window that cannot end is slower, and not less safe: the domain runs. */
  async #endWindow(domain: string): Promise<void> {
    try {
      await this.#attachments.get(domain)?.endWindow();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#parts.log.warn("the vbds stay on our exports", { domain, reason });
    }
  }

  /** Before the domain ends, with what its hypervisor knows of its writes. Without a window nobody knows them. */
  async #beginLastWindow(domain: string): Promise<void> {
    try {
      await this.#attachments.get(domain)?.beginWindow();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#parts.log.warn("what the domain wrote is not known", { domain, reason });
    }
  }

  /** Empty logs for the record's generation, durable before the first write can come. */
  async startGeneration(record: DomainRecord, vbds: readonly VbdRecord[]): Promise<void> {
    const { paths } = this.#parts;
    makeDomainFolder(paths, record.id);
    for (const { name, sizeBytes } of vbds) {
      const path = paths.dirtyLog(record.id, name);
      const options = {
        generation: record.generation,
        bootId: this.bootId,
        blockCount: blockCountOf(sizeBytes),
      };
      if (await isLogOf(path, options)) continue;
      const file = existsSync(path) ? FdByteFile.open(path) : FdByteFile.create(path);
      await (await DirtyLog.create(file, options)).close({ clean: true });
    }
  }

  /** The vbds of a domain, in its order. */
  async vbdsOf(record: Pick<DomainRecord, "id" | "vbds">): Promise<VbdRecord[]> {
    const known = await this.#parts.metadata.vbds.list(record.id);
    return record.vbds.map(({ name }) => {
      const vbd = known.find((candidate) => candidate.name === name);
      if (vbd === undefined)
        throw new NodeError("INTERNAL", { reason: `no record of vbd ${name} of ${record.id}` });
      return vbd;
    });
  }

  /** Closes the vbds and notes what their files are now: the replica that a later migration comes back to. */
  async identify(record: Pick<DomainRecord, "id" | "vbds">): Promise<VbdRecord[]> {
    await this.close(record.id);
    const vbds = await this.vbdsOf(record);
    return vbds.map((vbd) => {
      const identity = fingerprint(vbd.path, { seed: randomBytes(8).toString("hex") });
      return { ...vbd, identity: JSON.parse(JSON.stringify(identity)) as NonNullable<VbdRecord["identity"]> };
    });
  }

  describe(record: DomainRecord): DomainDescription {
    const { id, name, hypervisor, memoryBytes, config, vbds } = record;
    return { id, name, hypervisor, memoryBytes, config, vbds };
  }

  /** How the hypervisor reaches the vbds under `generation`. */
  spec(
    domain: DomainDescription & { generation: number; guestGeneration?: number },
    vbds: readonly VbdRecord[],
  ): DomainSpec {
    const { id, name, memoryBytes, config, generation, guestGeneration } = domain;
    return {
      id,
      name,
      memoryBytes,
      config,
      vbds: vbds.map((vbd) => ({
        name: vbd.name,
        sizeBytes: vbd.sizeBytes,
        path: vbd.path,
        socketPath: this.#parts.paths.nbdSocket,
        exportName: exportNameOf(vbd, guestGeneration ?? generation),
      })),
    };
  }

  #nbdVbd(record: DomainRecord, vbd: VbdRecord): NbdVbd {
    const { paths } = this.#parts;
    return {
      name: vbd.name,
      path: vbd.path,
      sizeBytes: vbd.sizeBytes,
      exportName: exportNameOf(vbd, record.guestGeneration ?? record.generation),
      dirtyLogPath: paths.dirtyLog(record.id, vbd.name),
      presenceLogPath: paths.presenceLog(record.id, vbd.name),
    };
  }

  async stopAll(): Promise<void> {
    for (const domain of [...this.#attachments.keys()]) await this.close(domain);
  }
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}

export function exportNameOf({ name, exportToken }: VbdRecord, generation: number): string {
  return `${name}-${generation}-${exportToken}`;
}

async function isLogOf(
  path: string,
  options: { generation: number; bootId: string; blockCount: number },
): Promise<boolean> {
  if (!existsSync(path)) return false;
  const opened = await DirtyLog.open(FdByteFile.open(path), options);
  if (!opened.trusted) return false;
  await opened.log.close({ clean: true });
  return true;
}
