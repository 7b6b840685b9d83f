/** The command `xl`, one process per question. */

import { execFile } from "node:child_process";
import { HypervisorError } from "../errors.ts";
import { parseXlList, type XenDomain } from "./xl-list.ts";

const OUTPUT_BYTES_MAX = 4 << 20;
/** libxl gives up by itself well before; this only bounds a hang. */
const TIMEOUT_MS = 300_000;
const WORDS_CHARS = 600;

export class Xl {
  readonly #command: string;

  constructor(command: string) {
    this.#command = command;
  }

  /** Without dom0. */
  async list(): Promise<XenDomain[]> {
    return parseXlList(await this.#run(["list", "-v"]));
  }

  /** A domain may be there twice, as while it is being received by the host that it leaves. */
  async find(uuid: string): Promise<XenDomain | undefined> {
    return (await this.list()).find((domain) => domain.uuid === uuid);
  }

  /** From a configuration file; running. */
  async create(path: string): Promise<void> {
    await this.#run(["create", "-q", path]);
  }

  async destroy(domid: number): Promise<void> {
    await this.#run(["destroy", String(domid)]);
  }

  async pause(domid: number): Promise<void> {
    await this.#run(["pause", String(domid)]);
  }

  async unpause(domid: number): Promise<void> {
    await this.#run(["unpause", String(domid)]);
  }

  async rename(domid: number, name: string): Promise<void> {
    await this.#run(["rename", String(domid), name]);
  }

  /** Asks the guest; it takes its time, or does not listen. */
  async shutdown(domid: number): Promise<void> {
    await this.#run(["shutdown", String(domid)]);
  }

  async #run(args: readonly string[]): Promise<string> {
    const options = { maxBuffer: OUTPUT_BYTES_MAX, timeout: TIMEOUT_MS, env: { PATH: xenPath() } };
    return new Promise((resolve, reject) => {
      execFile(this.#command, [...args], options, (error, stdout, stderr) => {
        if (error === null) return resolve(stdout);
        const isAbsent = error.code === "ENOENT";
        const said = `${stdout}${stderr}`.trim().slice(-WORDS_CHARS);
        const reason = isAbsent
          ? `${this.#command} is not there; install Xen's tools, or set xen.xl on this host`
          : `\`xl ${args[0]}\`: ${said === "" ? error.message : said}`;
        reject(new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason }, { cause: error }));
      });
    });
  }
}

/** xl and its hotplug scripts lie where root's PATH looks. */
export function xenPath(): string {
  return `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`;
}
