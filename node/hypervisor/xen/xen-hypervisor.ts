/**
 * The `xen` hypervisor: domains of a Xen host with the xl toolstack, in dom0. A domain's UUID in Xen is its id here,
 * so that it is found again whatever xl calls it. It keeps no state that it could not find again.
 */

import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DomainFolder } from "../domain-folder.ts";
import { HypervisorError } from "../errors.ts";
import type { DomainSpec, DomainStatus, Hypervisor, IncomingMemory, OutgoingMemory } from "../hypervisor.ts";
import { installBlockScript } from "./block-script.ts";
import { parseXenConfig, type XenHostOptions } from "./config.ts";
import { placeConfig, removeConfig } from "./config-file.ts";
import { incomingXen } from "./incoming-memory.ts";
import { XenOutgoingMemory } from "./outgoing-memory.ts";
import { checkReceivedConfig } from "./received-config.ts";
import { ShutdownWatch } from "./shutdown-watch.ts";
import { XenVbds } from "./xen-vbds.ts";
import { Xl } from "./xl.ts";
import { checkXenSpec, xlConfig } from "./xl-config.ts";
import { INCOMING_SUFFIX } from "./xl-handshake.ts";
import { SHUTDOWN, statusOf, type XenDomain } from "./xl-list.ts";
import { XlMigrate } from "./xl-migrate.ts";

type Log = {
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
};

export type XenHypervisorOptions = {
  /** A folder of its own; every domain gets one below it. */
  runDir: string;
  host: XenHostOptions;
  log?: Log;
};

const SHUTDOWN_TIMEOUT_MS = 120_000;
const SHUTDOWN_POLL_MS = 500;
const REATTACH_MS = { min: 100, max: 2000 } as const;
const WORDS_CHARS = 600;
/** In a domain's folder: what was received is whole. */
const WHOLE_FILE = "whole";

/** Whether this is dom0 of a Xen host. */
export function isXenHost(): boolean {
  try {
    return readFileSync("/proc/xen/capabilities", "latin1").includes("control_d");
  } catch {
    return false;
  }
}

export class XenHypervisor implements Hypervisor {
  readonly kind = "xen";
  readonly #runDir: string;
  readonly #host: XenHostOptions;
  readonly #xl: Xl;
  readonly #log: Log | undefined;
  readonly #vbds = new Map<string, XenVbds>();
  /** Domains whose devices this process has connected, or tries to. */
  readonly #connected = new Set<string>();
  readonly #leaving = new Map<string, XenOutgoingMemory>();
  readonly #rebooting = new Set<string>();
  readonly #shutdowns = new ShutdownWatch(() => void this.#shutDown());
  #looking: Promise<void> = Promise.resolve();

  constructor({ runDir, host, log }: XenHypervisorOptions) {
    this.#runDir = runDir;
    this.#host = host;
    this.#xl = new Xl(host.xl);
    this.#log = log;
  }

  /** Listens to nobody any more; domains go on. */
  close(): void {
    this.#shutdowns.stop();
  }

  async start(spec: DomainSpec): Promise<void> {
    const text = xlConfig(spec, parseXenConfig(spec.config), this.#host);
    await this.#makeRoom(spec.id);
    installBlockScript();
    const folder = this.#folder(spec.id);
    await folder.create(spec.id, { mode: "boot", spec });
    const path = join(folder.path, "xl.cfg");
    await writeFile(path, text);
    try {
      await this.#devices(spec.id).attach(spec.vbds);
      this.#connected.add(spec.id);
      await this.#xl.create(path);
    } catch (error) {
      await this.#clear(spec.id).catch(() => undefined);
      throw error;
    }
    this.#place(spec);
    this.#log?.info("domain created", { domain: spec.id });
  }

  async status(id: string): Promise<DomainStatus> {
    this.#reattach(id);
    if (this.#rebooting.has(id)) return { state: "running", detail: "it reboots" };
    const domain = await this.#xl.find(id);
    if (domain === undefined) {
      const { state, detail } = (await this.#folder(id).exit()) ?? { state: "shutoff" };
      return { state, ...(detail !== undefined && { detail }) };
    }
    return this.#statusOf(domain);
  }

  async suspend(id: string): Promise<void> {
    const domain = await this.#domain(id);
    const { state } = this.#statusOf(domain);
    if (state === "suspended") return;
    if (state !== "running") throw badState("suspend", state);
    await this.#xl.pause(domain.domid);
  }

  async resume(id: string): Promise<void> {
    const domain = await this.#domain(id);
    const { state } = this.#statusOf(domain);
    if (state !== "running" && state !== "suspended") throw badState("resume", state);
    const { spec } = await this.#file(id);
    if (state === "suspended") {
      this.#connected.add(id);
      await this.#devices(id).switchToExports(spec.vbds);
      if (domain.isShutdown) await this.#resumeSuspended(domain.domid);
      else await this.#xl.unpause(domain.domid);
    }
    if (domain.name !== spec.name) await this.#xl.rename(domain.domid, spec.name);
    this.#place(spec);
    this.#shutdowns.begin();
  }

  async shutdown(id: string): Promise<void> {
    const domain = await this.#domain(id);
    const { state } = this.#statusOf(domain);
    if (state !== "running" && state !== "shutoff") throw badState("shutdown", state);
    if (state === "running") await this.#xl.shutdown(domain.domid);
    const deadline = performance.now() + SHUTDOWN_TIMEOUT_MS;
    while ((await this.status(id)).state === "running") {
      if (performance.now() > deadline) {
        const reason = `the guest did not shut down within ${SHUTDOWN_TIMEOUT_MS / 1000} s; \`destroy\` ends it`;
        throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
      }
      await pause(SHUTDOWN_POLL_MS);
    }
    const { spec } = await this.#file(id);
    await this.#remove(id);
    await this.#letGo(id, spec.vbds);
    this.#folder(id).writeExit({ state: "shutoff" });
  }

  async destroy(id: string): Promise<void> {
    await this.#clear(id);
  }

  async migrateOut(id: string): Promise<OutgoingMemory> {
    const domain = await this.#domain(id);
    const { state } = this.#statusOf(domain);
    // A guest is suspended by its own doing: one that is paused cannot.
    if (state !== "running") throw badState("migrate-out", state);
    const { spec } = await this.#file(id);
    const logPath = this.#folder(id).logPath;
    const memory = await XenOutgoingMemory.begin({
      memoryBytes: spec.memoryBytes,
      begin: () => XlMigrate.begin({ xl: this.#host.xl, domid: domain.domid, logPath }),
      resume: async () => {
        const now = await this.#domain(id);
        if (now.isShutdown && this.#statusOf(now).state === "suspended")
          await this.#resumeSuspended(now.domid);
      },
      settled: async () => {
        const now = await this.#domain(id);
        if (this.#statusOf(now).state !== "suspended") throw badState("freeze", this.#statusOf(now).state);
        await this.#devices(id).settled(spec.vbds);
      },
      whole: (figures) => this.#log?.info("the stream of xl is whole", { domain: id, ...figures }),
      lastWords: () => this.#lastWords(id),
    });
    this.#leaving.set(id, memory);
    return memory;
  }

  async migrateIn(spec: DomainSpec): Promise<IncomingMemory> {
    checkXenSpec(spec);
    parseXenConfig(spec.config);
    await this.#makeRoom(spec.id);
    installBlockScript();
    const folder = this.#folder(spec.id);
    await folder.create(spec.id, { mode: "incoming", spec });
    this.#connected.add(spec.id);
    await this.#devices(spec.id).attachPlaceholders(spec, () => folder.streamPath("vbd"));
    return incomingXen({
      xl: this.#host.xl,
      logPath: folder.logPath,
      check: (config) => checkReceivedConfig(config, spec),
      keep: () => writeFile(join(folder.path, WHOLE_FILE), "", { flush: true }),
      remove: () => this.#remove(spec.id),
      discard: () => this.#clear(spec.id),
      lastWords: () => this.#lastWords(spec.id),
    });
  }

  async inspect(id: string): Promise<Record<string, unknown>> {
    const domain = await this.#domain(id);
    const { spec } = await this.#file(id);
    return {
      name: spec.name,
      ...this.#statusOf(domain),
      domid: domain.domid,
      xenName: domain.name,
      memoryBytes: spec.memoryBytes,
      devices: await this.#devices(id).devices(spec.vbds),
    };
  }

  /** Only this Xen's own leftovers of a domain that does not live may be in the way. */
  async #makeRoom(id: string): Promise<void> {
    const { state } = await this.status(id);
    if (state !== "shutoff" && state !== "crashed") {
      throw new HypervisorError({ code: "HYPERVISOR_DOMAIN_EXISTS", domain: id });
    }
    await this.#clear(id);
  }

  /** First the domain, so that nothing can run any more, then its devices, then what is known of it. */
  async #clear(id: string): Promise<void> {
    const file = await this.#folder(id).domain();
    await this.#remove(id);
    await this.#letGo(id, file?.spec.vbds ?? []);
    if (file !== undefined) removeConfig({ folder: this.#host.configFolder, spec: file.spec });
    await this.#folder(id).remove();
  }

  /** The domain runs: that its configuration cannot be shown is for the log. */
  #place(spec: DomainSpec): void {
    const folder = this.#host.configFolder;
    try {
      const text = xlConfig(spec, parseXenConfig(spec.config), this.#host);
      if (placeConfig({ folder, spec }, text)) return;
      this.#log?.warn("a file of somebody else's has the name of a domain's configuration", {
        domain: spec.id,
        folder,
        name: spec.name,
      });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#log?.warn("a domain's configuration could not be put in place", {
        domain: spec.id,
        folder,
        reason,
      });
    }
  }

  async #remove(id: string): Promise<void> {
    for (const { uuid, domid } of await this.#xl.list()) {
      if (uuid !== id) continue;
      // Another xl may have been quicker: what counts is that it is gone.
      await this.#xl
        .destroy(domid)
        .catch((error: unknown) => this.#log?.warn("xl destroy", { domain: id, error }));
    }
    if ((await this.#xl.find(id)) !== undefined) {
      const reason = "Xen does not let go of the domain; see `xl list` and `xl dmesg`";
      throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
    }
  }

  async #letGo(id: string, vbds: DomainSpec["vbds"]): Promise<void> {
    this.#connected.delete(id);
    this.#leaving.delete(id);
    await this.#devices(id).detach(vbds);
    this.#vbds.delete(id);
  }

  /**
   * An earlier process of this daemon served the domain's devices: their connections died with it. Tried until the
   * exports are there, in the background: whoever asks for a status need not wait for them.
   */
  #reattach(id: string): void {
    if (this.#connected.has(id)) return;
    this.#connected.add(id);
    this.#shutdowns.begin();
    void (async () => {
      const file = await this.#folder(id).domain();
      for (
        let delayMs: number = REATTACH_MS.min;
        file !== undefined && this.#connected.has(id);
        delayMs *= 2
      ) {
        const devices = await this.#devices(id).devices(file.spec.vbds);
        if (Object.keys(devices).length < file.spec.vbds.length) return;
        const isDone = await this.#devices(id)
          .switchToExports(file.spec.vbds)
          .then(() => true)
          .catch(() => false);
        if (isDone) return this.#log?.info("a domain's devices are connected again", { domain: id });
        await pause(Math.min(delayMs, REATTACH_MS.max));
      }
    })();
  }

  /**
   * A domain that was created here has an xl that waits for its end. One that was received has none: its receiver was
   * ended when it had the domain, so a reboot and a power-off are ours to carry out.
   */
  #shutDown(): Promise<void> {
    this.#looking = this.#looking.then(async () => {
      for (const domain of await this.#xl.list()) await this.#endReceived(domain);
    });
    this.#looking = this.#looking.catch((error: unknown) => {
      this.#log?.warn("a domain's shutdown was not seen to", { error });
    });
    return this.#looking;
  }

  async #endReceived({ uuid: id, domid, name, isShutdown, isDying, reason }: XenDomain): Promise<void> {
    const folder = this.#folder(id);
    const whole = join(folder.path, WHOLE_FILE);
    const isOurs = !name.endsWith(INCOMING_SUFFIX) && existsSync(whole);
    const isLeaving = this.#leaving.get(id)?.isOver === false;
    if (!isShutdown || isDying || !isOurs || isLeaving) return;
    if (reason === SHUTDOWN.poweroff) {
      await this.#xl.destroy(domid);
      folder.writeExit({ state: "shutoff" });
      return;
    }
    if (reason !== SHUTDOWN.reboot) return;
    const { spec } = await this.#file(id);
    const path = join(folder.path, "xl.cfg");
    await writeFile(path, xlConfig(spec, parseXenConfig(spec.config), this.#host));
    this.#rebooting.add(id);
    try {
      await this.#xl.destroy(domid);
      // From here on it has an xl.
      await rm(whole);
      await this.#xl.create(path);
      this.#log?.info("domain rebooted", { domain: id });
    } catch (error) {
      folder.writeExit({
        state: "crashed",
        detail: `it rebooted, and was not created anew: ${String(error)}`,
      });
      throw error;
    } finally {
      this.#rebooting.delete(id);
    }
  }

  /** 4.20 has a command for it; before that it is libxl's alone. */
  async #resumeSuspended(domid: number): Promise<void> {
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const script = fileURLToPath(new URL(`./libxl-resume.${extension}`, import.meta.url));
    try {
      await promisify(execFile)(process.execPath, [script, String(domid)]);
    } catch (cause) {
      const reason = `the suspended guest cannot be let go on: ${(cause as { stderr?: string }).stderr ?? ""}`;
      throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason }, { cause });
    }
  }

  #statusOf(domain: XenDomain): DomainStatus {
    return statusOf(domain, {
      isWhole:
        !domain.name.endsWith(INCOMING_SUFFIX) ||
        existsSync(join(this.#folder(domain.uuid).path, WHOLE_FILE)),
    });
  }

  /** Throws HYPERVISOR_NO_SUCH_DOMAIN. */
  async #domain(id: string): Promise<XenDomain> {
    const domain = await this.#xl.find(id);
    if (domain === undefined) throw new HypervisorError({ code: "HYPERVISOR_NO_SUCH_DOMAIN", domain: id });
    return domain;
  }

  async #file(id: string): Promise<{ spec: DomainSpec }> {
    const file = await this.#folder(id).domain();
    // Not one of ours, or its folder was removed by hand: nothing of it is touched.
    if (file === undefined) throw new HypervisorError({ code: "HYPERVISOR_NO_SUCH_DOMAIN", domain: id });
    return file;
  }

  #devices(id: string): XenVbds {
    const known = this.#vbds.get(id) ?? new XenVbds(id);
    this.#vbds.set(id, known);
    return known;
  }

  async #lastWords(id: string): Promise<string> {
    const text = await readFile(this.#folder(id).logPath, "utf8").catch(() => "");
    return text.slice(-WORDS_CHARS).trim();
  }

  #folder(id: string): DomainFolder {
    return new DomainFolder({ runDir: this.#runDir, id });
  }
}

function badState(operation: string, state: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_STATE", operation, state });
}
