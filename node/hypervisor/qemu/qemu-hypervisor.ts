/**
 * The `qemu` hypervisor: each domain is a QEMU of its own, spoken to over QMP. It keeps no state that it could not
 * find again: every call finds the domain through its folder.
 */

import { randomBytes } from "node:crypto";
import { symlink } from "node:fs/promises";
import { connectUnix } from "../../connect-unix.ts";
import type { QmpClient, QmpEvent } from "../../qmp/qmp-client.ts";
import type { QmpConnections, QmpLease } from "../../qmp/qmp-connections.ts";
import { DomainFolder, isAlive } from "../domain-folder.ts";
import { HypervisorError } from "../errors.ts";
import type { DomainSpec, DomainStatus, Hypervisor, IncomingMemory, OutgoingMemory } from "../hypervisor.ts";
import { checkAdoptable } from "./adoption.ts";
import { type LaunchMode, qemuArguments } from "./command-line.ts";
import { parseQemuConfig, type QemuHostOptions } from "./config.ts";
import { incomingQemu, type Receiver } from "./incoming-memory.ts";
import { endEarlier, QemuOutgoingMemory } from "./outgoing-memory.ts";
import { launchQemu, logTail } from "./qemu-process.ts";
import { stateOf } from "./run-state.ts";
import { hasPlaceholders, leavePlaceholders } from "./vbd-switch.ts";

type Log = {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
};

export type QemuHypervisorOptions = {
  /** A folder of its own; every domain gets one below it. */
  runDir: string;
  host: QemuHostOptions;
  /** Shared with whoever else speaks to these QEMUs: a QMP socket has one client at a time. */
  qmp: QmpConnections;
  log?: Log;
};

/** A process that was killed is gone within milliseconds; we look this often. */
const DEATH_POLL_MS = 2;
const SHUTDOWN_TIMEOUT_MS = 120_000;
/** Before 9.0, memory that is migrated under TCG arrives corrupted. */
const TCG_MAJOR_MIN = 9;
/** Frames that tell switches where the domain is now: at once, then at growing distances for half a second. */
const ANNOUNCEMENT = { initial: 50, max: 550, rounds: 5, step: 100 };
const COURSE_EVENTS = ["STOP", "RESUME", "MIGRATION"];
/** What the guest did, as far as somebody may want to know of it. */
const NOTED_EVENTS = [
  "RESET",
  "SHUTDOWN",
  "GUEST_PANICKED",
  "GUEST_CRASHLOADED",
  "BLOCK_IO_ERROR",
  "WATCHDOG",
];

export class QemuHypervisor implements Hypervisor {
  readonly kind = "qemu";
  readonly #runDir: string;
  readonly #host: QemuHostOptions;
  readonly #qmp: QmpConnections;
  readonly #log: Log | undefined;
  readonly #leases = new Map<string, Promise<QmpLease>>();
  /** Received by this process, and on placeholders. */
  readonly #incoming = new Map<string, DomainSpec>();
  /** Received by this process, on its vbds, and not resumed yet. */
  readonly #ready = new Set<string>();

  constructor({ runDir, host, qmp, log }: QemuHypervisorOptions) {
    this.#runDir = runDir;
    this.#host = host;
    this.#qmp = qmp;
    this.#log = log;
  }

  async start(spec: DomainSpec): Promise<void> {
    const { qmp } = parseQemuConfig(spec.config);
    if (qmp === undefined) await this.#launch(spec, "boot");
    else await this.#adopt(spec, qmp);
  }

  adopts(config: string): boolean {
    return parseQemuConfig(config).qmp !== undefined;
  }

  async status(id: string): Promise<DomainStatus> {
    const folder = this.#folder(id);
    const client = await this.#connect(folder, id);
    if (client === undefined) return this.#stateOfDead(folder);
    try {
      return stateOf(await client.execute("query-status"));
    } catch {
      return this.#stateOfDead(folder);
    }
  }

  async suspend(id: string): Promise<void> {
    const client = await this.#client(id);
    const { state } = stateOf(await client.execute("query-status"));
    if (state === "suspended") return;
    if (state !== "running") throw badState("suspend", state);
    await client.execute("stop");
  }

  async makeReady(id: string): Promise<void> {
    const client = await this.#client(id);
    const received = await this.#received(id, client);
    if (received !== undefined) await leavePlaceholders(client, received.vbds);
    this.#incoming.delete(id);
    this.#ready.add(id);
  }

  async resume(id: string): Promise<void> {
    const client = await this.#client(id);
    if (this.#ready.delete(id)) return this.#letGo(client);
    const { status } = await client.execute("query-status");
    const { state } = stateOf({ status });
    if (state === "running") return;
    if (state !== "suspended") throw badState("resume", state);
    const received = await this.#received(id, client);
    if (received !== undefined) {
      await leavePlaceholders(client, received.vbds);
      this.#incoming.delete(id);
      return this.#letGo(client);
    }
    // Stopped by a migration that nobody finishes any more: QEMU lets it go on by itself.
    if (status === "finish-migrate") await endEarlier(client);
    if (!(await client.execute("query-status")).running) await client.execute("cont");
  }

  /** What a domain is that came by a migration and has not run here yet. */
  async #received(id: string, client: QmpClient): Promise<DomainSpec | undefined> {
    const known = this.#incoming.get(id);
    if (known !== undefined) return known;
    const file = await this.#folder(id).domain();
    return file?.mode === "incoming" && (await hasPlaceholders(client)) ? file.spec : undefined;
  }

  /** A domain that came from another host: its network hears where it is now. */
  async #letGo(client: QmpClient): Promise<void> {
    await client.execute("cont");
    await client.execute("announce-self", ANNOUNCEMENT);
  }

  async shutdown(id: string): Promise<void> {
    const folder = this.#folder(id);
    const client = await this.#client(id);
    const { state } = stateOf(await client.execute("query-status"));
    if (state !== "running" && state !== "shutoff") throw badState("shutdown", state);
    if (state === "running") {
      const signal = AbortSignal.timeout(SHUTDOWN_TIMEOUT_MS);
      const isDown = client.nextEvent("SHUTDOWN", { signal });
      await client.execute("system_powerdown");
      try {
        await isDown;
      } catch (cause) {
        const reason = `the guest did not answer its power button for ${SHUTDOWN_TIMEOUT_MS / 1000} s; \`destroy\` ends it`;
        throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason }, { cause });
      }
    }
    await this.#quit(folder, client);
    folder.writeExit({ state: "shutoff" });
  }

  async destroy(id: string): Promise<void> {
    const folder = this.#folder(id);
    await this.#kill(folder, id);
    await folder.remove();
  }

  async migrateOut(id: string): Promise<OutgoingMemory> {
    const client = await this.#client(id);
    const status = stateOf(await client.execute("query-status"));
    if (status.state !== "running" && status.state !== "suspended") {
      throw badState("migrate-out", status.state);
    }
    const isRunning = status.state === "running";
    return QemuOutgoingMemory.begin(client, { folder: this.#folder(id), isRunning });
  }

  async migrateIn(spec: DomainSpec): Promise<IncomingMemory> {
    const folder = this.#folder(spec.id);
    let ours: number | undefined;
    // A later attempt may hold the same id: only the process that this one began is ended.
    const discard = async (): Promise<void> => {
      if (ours !== undefined && (await folder.process())?.pid === ours) await this.destroy(spec.id);
    };
    return incomingQemu({
      launch: async () => {
        await discard();
        const { pid, client } = await this.#launch(spec, "incoming");
        ours = pid;
        this.#incoming.set(spec.id, spec);
        return this.#receive(folder, client);
      },
      discard,
      lastWords: () => logTail(folder),
    });
  }

  async inspect(id: string): Promise<Record<string, unknown>> {
    const folder = this.#folder(id);
    const [client, process, file] = await Promise.all([
      this.#connect(folder, id),
      folder.process(),
      folder.domain(),
    ]);
    const known = { name: file?.spec.name, memoryBytes: file?.spec.memoryBytes, pid: process?.pid };
    if (client === undefined) return { ...known, ...(await this.#stateOfDead(folder)) };
    const runState = await client.execute("query-status");
    const { major, minor, micro } = client.version;
    return {
      ...known,
      ...stateOf(runState),
      runState: runState.status,
      qemuVersion: `${major}.${minor}.${micro}`,
      consolePath: folder.serialPath,
    };
  }

  async #launch(spec: DomainSpec, mode: LaunchMode): Promise<{ pid: number; client: QmpClient }> {
    const config = parseQemuConfig(spec.config);
    const folder = this.#folder(spec.id);
    const args = qemuArguments(spec, config, { folder, host: this.#host, mode });
    const client = await this.#connect(folder, spec.id);
    const before = client === undefined ? undefined : stateOf(await client.execute("query-status")).state;
    // A guest that powered off, or that panicked, has left a QEMU behind.
    if (before === "shutoff" || before === "crashed") await this.#kill(folder, spec.id);
    const earlier = await folder.process();
    if (earlier && isAlive(earlier)) {
      throw new HypervisorError({ code: "HYPERVISOR_DOMAIN_EXISTS", domain: spec.id });
    }
    await folder.create(spec.id, { mode, spec });
    const { pid, lease } = await launchQemu(folder, {
      executable: this.#host.executable,
      args,
      qmp: this.#qmp,
      onExit: (exit) => this.#log?.info("QEMU ended", { domain: spec.id, ...exit }),
    });
    this.#leases.set(spec.id, Promise.resolve(lease));
    this.#watch(spec.id, lease);
    const { major, minor } = lease.client.version;
    if (this.#host.acceleration === "tcg" && major < TCG_MAJOR_MIN) {
      await this.destroy(spec.id);
      const reason = `${this.#host.executable} is ${major}.${minor}: without KVM it corrupts memory that is migrated; QEMU ${TCG_MAJOR_MIN}.0 or newer is needed`;
      throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
    }
    this.#log?.info("QEMU started", { domain: spec.id, pid, mode, version: `${major}.${minor}` });
    return { pid, client: lease.client };
  }

  /** A QEMU of somebody else's: from now on it is found through the domain's folder like one of ours. */
  async #adopt(spec: DomainSpec, qmpPath: string): Promise<void> {
    const folder = this.#folder(spec.id);
    if ((await this.#connect(folder, spec.id)) !== undefined) {
      throw new HypervisorError({ code: "HYPERVISOR_DOMAIN_EXISTS", domain: spec.id });
    }
    await folder.create(spec.id, { mode: "boot", spec });
    try {
      await symlink(qmpPath, folder.controlPath);
      const lease = await this.#qmp.acquire(folder.controlPath);
      await checkAdoptable(lease.client, spec).catch((error: unknown) => {
        lease.release();
        throw error;
      });
      this.#leases.set(spec.id, Promise.resolve(lease));
      this.#watch(spec.id, lease);
    } catch (error) {
      // Nobody shall find, and end, a QEMU here that is not ours.
      await folder.remove();
      throw error;
    }
    this.#log?.info("QEMU adopted", { domain: spec.id, qmpPath });
  }

  async #receive(folder: DomainFolder, client: QmpClient): Promise<Receiver> {
    await client.execute("migrate-set-capabilities", {
      capabilities: [{ capability: "events", state: true }],
    });
    // Not when the memory is loaded: until it is resumed the domain belongs to another host.
    await client.execute("migrate-set-parameters", { "announce-rounds": 0 });
    const path = folder.streamPath(randomBytes(4).toString("hex"));
    await client.execute("migrate-incoming", { uri: `unix:${path}` });
    return { client, socket: await connectUnix(path) };
  }

  /** Throws HYPERVISOR_NO_SUCH_DOMAIN. */
  async #client(id: string): Promise<QmpClient> {
    const client = await this.#connect(this.#folder(id), id);
    if (client === undefined) throw new HypervisorError({ code: "HYPERVISOR_NO_SUCH_DOMAIN", domain: id });
    return client;
  }

  /** The connection stays, so that what the guest does is noticed. */
  async #connect(folder: DomainFolder, id: string): Promise<QmpClient | undefined> {
    const known = this.#leases.get(id);
    try {
      if (known !== undefined) {
        const { client } = await known;
        if (!client.isClosed) return client;
      }
      const lease = this.#qmp.acquire(folder.controlPath);
      this.#leases.set(id, lease);
      const { client } = await lease;
      this.#watch(id, await lease);
      return client;
    } catch {
      this.#leases.delete(id);
      return undefined;
    }
  }

  #watch(id: string, { client, release }: QmpLease): void {
    client.onEvent((event) => this.#note(id, event));
    client.onLoss(() => release());
  }

  #note(domain: string, { event, data, timestampMs }: QmpEvent): void {
    const fields = { domain, event, atMs: timestampMs, ...data };
    if (COURSE_EVENTS.includes(event)) this.#log?.info("the guest's machine", fields);
    else if (NOTED_EVENTS.includes(event)) this.#log?.warn("the guest's machine", fields);
  }

  async #stateOfDead(folder: DomainFolder): Promise<DomainStatus> {
    const exit = await folder.exit();
    if (exit) return { state: exit.state, ...(exit.detail !== undefined && { detail: exit.detail }) };
    const file = await folder.process();
    if (!file) {
      const isAdopted = (await folder.domain()) !== undefined;
      return isAdopted
        ? { state: "crashed", detail: "its QEMU, which we did not start, ended" }
        : { state: "shutoff" };
    }
    const what = isAlive(file) ? "does not answer" : "ended";
    const words = await logTail(folder);
    return {
      state: "crashed",
      detail: `QEMU, process ${file.pid}, ${what}${words === "" ? "" : `: ${words}`}`,
    };
  }

  /** In order: QEMU flushes what it has. */
  async #quit(folder: DomainFolder, client: QmpClient): Promise<void> {
    await client.execute("quit").catch(() => undefined);
    await this.#awaitDeath(folder);
  }

  async #kill(folder: DomainFolder, id: string): Promise<void> {
    const lease = this.#leases.get(id);
    this.#leases.delete(id);
    this.#incoming.delete(id);
    this.#ready.delete(id);
    const file = await folder.process();
    if (file === undefined) await quitAdopted(await this.#connect(folder, id));
    this.#leases.delete(id);
    if (file && isAlive(file)) {
      try {
        process.kill(file.pid, "SIGKILL");
      } catch {
        // It ended between our look and now.
      }
    }
    await this.#awaitDeath(folder);
    await lease?.then(
      ({ release }) => release(),
      () => undefined,
    );
  }

  async #awaitDeath(folder: DomainFolder): Promise<void> {
    const file = await folder.process();
    while (file && isAlive(file)) await new Promise((resolve) => setTimeout(resolve, DEATH_POLL_MS));
  }

  #folder(id: string): DomainFolder {
    return new DomainFolder({ runDir: this.#runDir, id });
  }
}

/** Of a QEMU that we did not start we know no process: it ends itself. */
async function quitAdopted(client: QmpClient | undefined): Promise<void> {
  if (client === undefined) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  client.onLoss(() => resolve());
  await client.execute("quit").catch(() => undefined);
  await promise;
}

function badState(operation: string, state: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_STATE", operation, state });
}
