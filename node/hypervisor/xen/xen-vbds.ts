/**
 * The vbds of one domain as devices of this host: `/dev/nbdN` on our exports. The device lives as long as the domain
 * is here; the connection under it changes: a placeholder while the domain is received, our export while it runs,
 * another connection to it after a restart of the daemon. Until then the guest's requests wait.
 */

import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { HypervisorError } from "../errors.ts";
import type { DomainSpec, VbdAttachment } from "../hypervisor.ts";
import { DEVICES_FOLDER } from "./block-script.ts";
import {
  connectDevice,
  devicePath,
  disconnectDevice,
  flushDevice,
  identifierOf,
  reconnectDevice,
  requestsInFlight,
} from "./kernel-nbd.ts";
import { exportSocket, type KernelSocket, placeholderSocket } from "./nbd-socket.ts";

/** Sectors of every disk that Xen knows. */
const SECTOR_BYTES = 512;
/** A daemon that is down for longer has an operator who looks after it. */
const DEAD_CONNECTION_SECONDS = 7 * 24 * 3600;
/** How long a live connection may take to answer before the device is asked to take it once more. */
const ANSWER_MS = 100;
const SWITCH_TRIES = 100;
const IDLE_POLL_MS = 5;
const IDLE_TIMEOUT_MS = 10_000;

export class XenVbds {
  readonly #domain: string;
  readonly #folder: string;
  readonly #placeholders = new Map<string, () => void>();

  constructor(domain: string) {
    this.#domain = domain;
    this.#folder = join(DEVICES_FOLDER, domain);
  }

  /** On exports that are there; for a domain that begins here. */
  async attach(vbds: readonly VbdAttachment[]): Promise<void> {
    await this.#each(vbds, async (vbd) => this.#connect(vbd, await exportSocket(vbd)));
  }

  /** Before there are exports. `socketPath` names sockets that are used for a moment. */
  async attachPlaceholders(spec: DomainSpec, socketPath: (vbd: string) => string): Promise<void> {
    await this.#each(spec.vbds, async (vbd) => {
      const { socket, end } = await placeholderSocket(socketPath(vbd.name), vbd);
      this.#placeholders.set(vbd.name, end);
      await this.#connect(vbd, socket);
    });
  }

  /** Onto the exports, from a placeholder or from a connection that died. Resolves when they answer. */
  async switchToExports(vbds: readonly VbdAttachment[]): Promise<void> {
    await Promise.all(
      vbds.map(async (vbd) => {
        const index = await this.#indexOf(vbd.name);
        if (index === undefined) {
          throw failed(`vbd ${vbd.name} has no device any more`);
        }
        await this.#reconnect(vbd, index);
      }),
    );
  }

  /** Every request that the domain issued before it was suspended has been answered. */
  async settled(vbds: readonly VbdAttachment[]): Promise<void> {
    const indexes = await Promise.all(vbds.map(({ name }) => this.#indexOf(name)));
    const isBusy = (): boolean => indexes.some((index) => index !== undefined && requestsInFlight(index) > 0);
    const deadline = performance.now() + IDLE_TIMEOUT_MS;
    // Twice: the back end may take a request from its ring between two looks.
    for (let idle = 0; idle < 2 && performance.now() < deadline; ) {
      idle = isBusy() ? 0 : idle + 1;
      await pause(IDLE_POLL_MS);
    }
  }

  /** Paths of devices by the names of their vbds. */
  async devices(vbds: readonly { name: string }[]): Promise<Record<string, string>> {
    const found: Record<string, string> = {};
    for (const { name } of vbds) {
      const index = await this.#indexOf(name);
      if (index !== undefined) found[name] = devicePath(index);
    }
    return found;
  }

  /** First nobody finds the devices any more, then they are let go of. Idempotent. */
  async detach(vbds: readonly { name: string }[]): Promise<void> {
    const indexes = await Promise.all(vbds.map(({ name }) => this.#indexOf(name)));
    await rm(this.#folder, { recursive: true, force: true });
    for (const index of indexes) if (index !== undefined) disconnectDevice(index);
    for (const end of this.#placeholders.values()) end();
    this.#placeholders.clear();
  }

  async #each(vbds: readonly VbdAttachment[], attach: (vbd: VbdAttachment) => Promise<void>): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    try {
      for (const vbd of vbds) await attach(vbd);
    } catch (error) {
      await this.detach(vbds);
      throw error;
    }
  }

  async #connect({ name, sizeBytes }: VbdAttachment, socket: KernelSocket): Promise<void> {
    try {
      const index = connectDevice({
        sizeBytes,
        blockSizeBytes: SECTOR_BYTES,
        flags: socket.flags,
        fd: socket.fd,
        deadConnectionSeconds: DEAD_CONNECTION_SECONDS,
        identifier: this.#identifier(name),
      });
      await writeFile(join(this.#folder, name), devicePath(index));
    } finally {
      socket.release();
    }
  }

  /** The kernel takes the connection as soon as it has noticed that the one before is dead, and does not say so. */
  async #reconnect(vbd: VbdAttachment, index: number): Promise<void> {
    const socket = await exportSocket(vbd);
    try {
      this.#placeholders.get(vbd.name)?.();
      this.#placeholders.delete(vbd.name);
      const flushed = flushDevice(index).then(() => true);
      for (let tries = 0; tries < SWITCH_TRIES; tries++) {
        reconnectDevice({ index, fd: socket.fd, identifier: this.#identifier(vbd.name) });
        if (await Promise.race([flushed, pause(tries < 10 ? 1 : ANSWER_MS, false)])) return;
      }
      throw failed(`${devicePath(index)} does not take another connection for vbd ${vbd.name}`);
    } finally {
      socket.release();
    }
  }

  /** Undefined also when the device of that number is somebody else's by now. */
  async #indexOf(vbd: string): Promise<number | undefined> {
    const path = await readFile(join(this.#folder, vbd), "utf8").catch(() => "");
    const index = /^\/dev\/nbd(\d+)$/.exec(path)?.[1];
    if (index === undefined || identifierOf(Number(index)) !== this.#identifier(vbd)) return undefined;
    return Number(index);
  }

  #identifier(vbd: string): string {
    return `sojourn ${this.#domain}/${vbd}`;
  }
}

function failed(reason: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
}
