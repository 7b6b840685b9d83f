/** A real QEMU without a guest's operating system: its block layer and its QMP, stopped before the first instruction. */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { QmpClient } from "../../../node/qmp/qmp-client.ts";

const BINARY = process.env.QEMU ?? "qemu-system-x86_64";

export const hasQemu = spawnSync(BINARY, ["--version"]).status === 0;

export type Qemu = {
  readonly qmpPath: string;
  readonly pid: number;
  /** What the guest of `device` would see: one command of `qemu-io` on it, and what it said. One at a time. */
  io(client: QmpClient, device: string, command: string): Promise<string>;
  /** Ends it as a crash of the process would; completes when it has ended. Idempotent. */
  kill(): Promise<void>;
};

/** A folder for sockets and disks that ends, with every QEMU in it, by `remove`. */
export class QemuFolder {
  readonly path: string = mkdtempSync(join(tmpdir(), "sojourn-qemu-"));
  readonly #running = new Set<Qemu>();
  #count = 0;

  /** Completes when the QMP socket listens. `args`: a machine, devices, block nodes. */
  async start(args: readonly string[] = [], options: { qmpPath?: string } = {}): Promise<Qemu> {
    const qmpPath = options.qmpPath ?? join(this.path, `qmp-${++this.#count}`);
    const common = ["-S", "-M", "q35", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "32"];
    const qmp = ["-qmp", `unix:${qmpPath},server=on,wait=off`];
    // The human monitor's banner comes once all sockets listen.
    // Line by line, as `qemu-io` speaks on the standard output.
    const child = spawn("stdbuf", ["-oL", BINARY, ...common, ...args, ...qmp, "-monitor", "stdio"], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    const said = new SaidLines(child.stdout);
    const qemu = {
      qmpPath,
      pid: child.pid ?? 0,
      io: async (client: QmpClient, device: string, command: string) => {
        const answer = said.next(/^(?:wrote|read|discard) \d+\/\d+ bytes|failed: |Permission conflict/m);
        const path = `/machine/peripheral/${device}/virtio-backend`;
        const line = `qemu-io -d ${path} "${command}"`;
        const refusal = await client.execute("human-monitor-command", { "command-line": line });
        if (refusal.trim() !== "") throw new Error(refusal);
        return answer;
      },
      kill: async () => {
        this.#running.delete(qemu);
        if (child.exitCode !== null || child.signalCode !== null) return;
        const ended = once(child, "exit");
        child.kill("SIGKILL");
        await ended;
      },
    };
    this.#running.add(qemu);
    await banner(child);
    return qemu;
  }

  async remove(): Promise<void> {
    for (const qemu of [...this.#running]) await qemu.kill();
    rmSync(this.path, { recursive: true, force: true });
  }
}

class SaidLines {
  #text = "";
  #wanted: { pattern: RegExp; resolve: (text: string) => void } | undefined;

  constructor(output: NodeJS.ReadableStream) {
    output.setEncoding("utf8").on("data", (text: string) => {
      this.#text += text;
      const end = this.#text.lastIndexOf("\n") + 1;
      const whole = this.#text.slice(0, end);
      if (this.#wanted === undefined || !this.#wanted.pattern.test(whole)) return;
      this.#text = this.#text.slice(end);
      this.#wanted.resolve(whole);
      this.#wanted = undefined;
    });
  }

  next(pattern: RegExp): Promise<string> {
    this.#text = "";
    return new Promise((resolve) => {
      this.#wanted = { pattern, resolve };
    });
  }
}

async function banner(child: ChildProcess): Promise<void> {
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const first = await Promise.race([
    once(child.stdout!, "data").then(() => "banner"),
    once(child, "close").then(() => "end"),
  ]);
  if (first === "end") throw new Error(`QEMU did not start: ${said}`);
}
