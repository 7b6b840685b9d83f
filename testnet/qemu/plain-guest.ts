/**
 * The same Linux as the run's, on QEMUs that know nothing of us: the machine, the kernel and the workload are those of
 * the `qemu` adapter, its vbds are files that QEMU has open itself. What QEMU does alone is measured beside what we do.
 */

import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { DomainFolder } from "../../node/hypervisor/domain-folder.ts";
import { type LaunchMode, qemuArguments } from "../../node/hypervisor/qemu/command-line.ts";
import { parseQemuConfig } from "../../node/hypervisor/qemu/config.ts";
import { launchQemu } from "../../node/hypervisor/qemu/qemu-process.ts";
import type { QmpClient } from "../../node/qmp/qmp-client.ts";
import { QmpConnections, type QmpLease } from "../../node/qmp/qmp-connections.ts";
import { childNode, nativeOptions, upperOptions, vbdNode } from "../../node/qmp/vbd-nodes.ts";
import { isRunning } from "../processes.ts";
import { pause } from "../waiting.ts";
import { GuestConsole } from "./guest-console.ts";

export type PlainVbd = { name: string; path: string };

export type PlainOptions = {
  /** Of its own; every QEMU gets one below it. */
  folder: string;
  executable: string;
  acceleration: "tcg" | "kvm";
  kernelFolder: string;
  memoryBytes: number;
  /** As of a domain's `config`, without arguments. */
  config: Record<string, unknown>;
  /** Further ones for every QEMU. */
  arguments?: readonly string[];
  vbds: readonly PlainVbd[];
};

/** One QEMU, and how it is spoken to. */
export type PlainQemu = {
  client: QmpClient;
  lease: QmpLease;
  pid: number;
  serialPath: string;
  folder: string;
};

export type MemoryHop = { pauseMs: number; totalMs: number; bytes: number };

const ENDED_POLL_MS = 5;
/** What QEMU may leave for the time in which the guest stands still: the goal of the `qemu` adapter too. */
export const DOWNTIME_LIMIT_MS = 20;

export class PlainGuest {
  readonly #options: PlainOptions;
  readonly #qmp = new QmpConnections();
  readonly #all = new Set<PlainQemu>();
  #current: PlainQemu;
  #launched = 0;

  private constructor(options: PlainOptions) {
    this.#options = options;
    this.#current = undefined as never;
  }

  /** Resolves when its workload has begun. */
  static async boot(options: PlainOptions): Promise<PlainGuest> {
    const guest = new PlainGuest(options);
    try {
      guest.#current = await guest.launch("boot", options.vbds);
      await guest.awaitStatus();
      return guest;
    } catch (error) {
      await guest.end();
      throw error;
    }
  }

  get current(): PlainQemu {
    return this.#current;
  }

  /**
   * A QEMU of the guest's machine: one that boots, or one that waits for `migrate-incoming`. What has come runs by
   * itself as soon as it can, or, if it `waits`, when it is told to.
   */
  async launch(
    mode: LaunchMode,
    vbds: readonly PlainVbd[],
    { waits = false }: { waits?: boolean } = {},
  ): Promise<PlainQemu> {
    const { executable, acceleration, kernelFolder, memoryBytes, config, arguments: further } = this.#options;
    const spec = { id: randomUUID(), name: "plain", memoryBytes, vbds: [], config: "" };
    const folder = new DomainFolder({ runDir: this.#options.folder, id: `q${this.#launched++}` });
    await folder.create(spec.id, { mode, spec });
    const args = qemuArguments(
      spec,
      parseQemuConfig(
        JSON.stringify({ ...config, arguments: [...(further ?? []), ...vbds.flatMap(vbdArguments)] }),
      ),
      { folder, host: { executable, acceleration, kernelFolder, extraArguments: true }, mode },
    );
    const { pid, lease } = await launchQemu(folder, {
      executable,
      args: waits ? args : args.filter((argument) => argument !== "-S"),
      qmp: this.#qmp,
      onExit: () => {},
    });
    const qemu = { client: lease.client, lease, pid, serialPath: folder.serialPath, folder: folder.path };
    this.#all.add(qemu);
    return qemu;
  }

  /** The guest has gone over to `qemu`, and the one it came from ends. */
  async moveTo(qemu: PlainQemu): Promise<void> {
    const before = this.#current;
    this.#current = qemu;
    await this.#quit(before);
  }

  /** Its memory alone, as QEMU does it: the disks are on storage that both QEMUs have. */
  async migrateMemory(): Promise<MemoryHop> {
    const begunMs = performance.now();
    const source = this.#current;
    const destination = await this.launch("incoming", this.#options.vbds);
    const uri = `unix:${join(destination.folder, "stream")}`;
    await destination.client.execute("migrate-incoming", { uri });
    const hop = await migrate({ source, destination, uri });
    await this.moveTo(destination);
    return { ...hop, totalMs: performance.now() - begunMs };
  }

  /** It gets no processor, so that another guest's migration has the machine to itself. */
  rest(): void {
    process.kill(this.#current.pid, "SIGSTOP");
  }

  wake(): void {
    process.kill(this.#current.pid, "SIGCONT");
  }

  async awaitStatus(): Promise<void> {
    const console = await GuestConsole.open(this.#current.serialPath);
    try {
      await console.next(({ type }) => type === "status");
    } finally {
      console.close();
    }
  }

  /** The errors that it found in its disks and its memory. */
  async verify(): Promise<number> {
    const console = await GuestConsole.open(this.#current.serialPath);
    try {
      console.say("verify");
      return (await console.next(({ type }) => type === "verified")).errors ?? Number.NaN;
    } finally {
      console.close();
    }
  }

  async end(): Promise<void> {
    for (const qemu of this.#all) await this.#quit(qemu);
  }

  async #quit(qemu: PlainQemu): Promise<void> {
    this.#all.delete(qemu);
    if (isRunning(qemu.pid)) process.kill(qemu.pid, "SIGKILL");
    while (isRunning(qemu.pid)) await pause(ENDED_POLL_MS);
    qemu.lease.release();
  }
}

/** Pre-copy to a QEMU that waits at `uri`. Resolves when the guest runs there. */
export async function migrate({
  source,
  destination,
  uri,
  parameters = {},
}: {
  source: PlainQemu;
  destination: PlainQemu;
  uri: string;
  parameters?: Record<string, string>;
}): Promise<Pick<MemoryHop, "pauseMs" | "bytes">> {
  let stoppedAtMs = Number.NaN;
  const stopListening = source.client.onEvent(({ event, timestampMs }) => {
    if (event === "STOP") stoppedAtMs = timestampMs;
  });
  try {
    const capabilities = [{ capability: "events", state: true }];
    await source.client.execute("migrate-set-capabilities", { capabilities });
    await source.client.execute("migrate-set-parameters", {
      "max-bandwidth": 0,
      "downtime-limit": DOWNTIME_LIMIT_MS,
      ...parameters,
    });
    const resumed = destination.client.nextEvent("RESUME");
    const isOver = ({ status }: Readonly<Record<string, unknown>>): boolean =>
      ["completed", "failed", "cancelled"].includes(status as string);
    const over = source.client.nextEvent("MIGRATION", { matches: isOver });
    await source.client.execute("migrate", { uri });
    const { data } = await over;
    const info = await source.client.execute("query-migrate");
    if (data.status !== "completed")
      throw new Error(`QEMU's migration is ${data.status}: ${info["error-desc"]}`);
    const { timestampMs } = await resumed;
    return { pauseMs: timestampMs - stoppedAtMs, bytes: info.ram?.transferred ?? Number.NaN };
  } finally {
    stopListening();
  }
}

/** As the `qemu` adapter has them once they are native. */
function vbdArguments({ name, path }: PlainVbd, index: number): string[] {
  const node = vbdNode(index);
  const child = childNode(node);
  return [
    ...["-blockdev", JSON.stringify(nativeOptions(child, { path, isDevice: false }))],
    ...["-blockdev", JSON.stringify(upperOptions(node, child))],
    "-device",
    `virtio-blk-pci,id=${node}-device,drive=${node},serial=${name},write-cache=on,werror=stop,rerror=stop,bootindex=${index + 1}`,
  ];
}
