/**
 * The `wasm` hypervisor: each domain is a process of ours that runs a WebAssembly guest. Needs no root and
 * nothing installed. It keeps no state: every call finds the domain again through its folder.
 */

import { DomainFolder, isAlive, type ProcessFile } from "../domain-folder.ts";
import { HypervisorError } from "../errors.ts";
import type {
  DomainSpec,
  DomainStatus,
  Hypervisor,
  IncomingMemory,
  OutgoingMemory,
  VerifyResult,
} from "../hypervisor.ts";
import { checkMemoryBytes, parseGuestConfig } from "./config.ts";
import { ControlConnection, type Json } from "./control-socket.ts";
import { type Launched, launchGuest } from "./guest-launch.ts";
import { WasmIncomingMemory } from "./incoming-memory.ts";
import { WasmOutgoingMemory } from "./outgoing-memory.ts";

export type WasmHypervisorOptions = {
  /** A folder of its own; every domain gets one below it. */
  runDir: string;
  log?: { info(message: string, fields?: Record<string, unknown>): void };
};

/** A process that was killed is gone within microseconds; we look this often. */
const DEATH_POLL_MS = 2;
/** How long a process may take to answer `destroy` before it is killed from outside. */
const DESTROY_ANSWER_MS = 1000;

export class WasmHypervisor implements Hypervisor {
  readonly kind = "wasm";
  readonly #runDir: string;
  readonly #log: WasmHypervisorOptions["log"];

  constructor({ runDir, log }: WasmHypervisorOptions) {
    this.#runDir = runDir;
    this.#log = log;
  }

  async start(spec: DomainSpec): Promise<void> {
    await this.#launch(spec, "boot");
  }

  async status(id: string): Promise<DomainStatus> {
    const folder = this.#folder(id);
    const control = await this.#connect(folder);
    if (control) {
      try {
        const { state, detail } = (await control.request({ op: "status" })) as DomainStatus & Json;
        return detail === undefined ? { state } : { state, detail };
      } catch {
        // It ended while we asked: what it left behind tells.
      } finally {
        control.close();
      }
    }
    return this.#stateOfDead(folder);
  }

  async suspend(id: string): Promise<void> {
    await this.#request(id, { op: "suspend" });
  }

  async resume(id: string): Promise<void> {
    await this.#request(id, { op: "resume" });
  }

  async shutdown(id: string): Promise<void> {
    await this.#request(id, { op: "shutdown" });
    await this.#awaitDeath(this.#folder(id));
  }

  async destroy(id: string): Promise<void> {
    const folder = this.#folder(id);
    await this.#kill(folder);
    await folder.remove();
  }

  async migrateOut(id: string): Promise<OutgoingMemory> {
    const control = await this.#connect(this.#folder(id));
    if (!control) throw new HypervisorError({ code: "HYPERVISOR_NO_SUCH_DOMAIN", domain: id });
    return WasmOutgoingMemory.begin(control);
  }

  async migrateIn(spec: DomainSpec): Promise<IncomingMemory> {
    const { pid, streamPath } = await this.#launch(spec, "incoming");
    const folder = this.#folder(spec.id);
    const control = await this.#connect(folder);
    if (!control || streamPath === undefined) {
      throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason: "it ended at once" });
    }
    return WasmIncomingMemory.begin({
      control,
      streamPath,
      discard: async () => {
        // A later attempt may hold the same id: only the process that this one began is ended.
        if ((await folder.process())?.pid === pid) await this.destroy(spec.id);
      },
    });
  }

  async inspect(id: string): Promise<Record<string, unknown>> {
    const { figures } = await this.#request(id, { op: "inspect" });
    return figures as Record<string, unknown>;
  }

  /** Has the guest read back all that it ever wrote, and check its memory. Its workload rests meanwhile. */
  async verify(id: string): Promise<VerifyResult> {
    const { result } = await this.#request(id, { op: "verify" });
    return result as VerifyResult;
  }

  async #launch(spec: DomainSpec, mode: "boot" | "incoming"): Promise<Launched> {
    checkMemoryBytes(spec.memoryBytes);
    parseGuestConfig(spec.config);
    const folder = this.#folder(spec.id);
    const earlier = await folder.process();
    if (earlier && isAlive(earlier)) {
      throw new HypervisorError({ code: "HYPERVISOR_DOMAIN_EXISTS", domain: spec.id });
    }
    await folder.create(spec.id, { mode, spec });
    const launched = await launchGuest(folder, {
      onExit: (exit) => this.#log?.info("guest process ended", { domain: spec.id, ...exit }),
    });
    this.#log?.info("guest process started", { domain: spec.id, pid: launched.pid, mode });
    return launched;
  }

  async #request(id: string, request: Json): Promise<Json> {
    const control = await this.#connect(this.#folder(id));
    if (!control) throw new HypervisorError({ code: "HYPERVISOR_NO_SUCH_DOMAIN", domain: id });
    try {
      return await control.request(request);
    } finally {
      control.close();
    }
  }

  async #connect(folder: DomainFolder): Promise<ControlConnection | undefined> {
    try {
      return await ControlConnection.connect(folder.controlPath);
    } catch {
      return undefined;
    }
  }

  async #stateOfDead(folder: DomainFolder): Promise<DomainStatus> {
    const exit = await folder.exit();
    if (exit)
      return exit.detail === undefined ? { state: exit.state } : { state: exit.state, detail: exit.detail };
    const file = await folder.process();
    if (!file) return { state: "shutoff" };
    const what = isAlive(file) ? "does not answer" : "ended without a word";
    return { state: "crashed", detail: `guest process ${file.pid} ${what}` };
  }

  async #kill(folder: DomainFolder): Promise<void> {
    const control = await this.#connect(folder);
    if (control) {
      control.request({ op: "destroy" }).catch(() => {});
      const timeout = AbortSignal.timeout(DESTROY_ANSWER_MS);
      await Promise.race([control.closed, aborted(timeout)]);
      control.close();
    }
    const file = await folder.process();
    if (!file || !isAlive(file)) return;
    killQuietly(file);
    await this.#awaitDeath(folder);
  }

  async #awaitDeath(folder: DomainFolder): Promise<void> {
    const file = await folder.process();
    while (file && isAlive(file)) await new Promise((resolve) => setTimeout(resolve, DEATH_POLL_MS));
  }

  #folder(id: string): DomainFolder {
    return new DomainFolder({ runDir: this.#runDir, id });
  }
}

function killQuietly({ pid }: ProcessFile): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended between our look and now.
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
