/**
 * One `xl migrate` at the source: its stream, without a transport of its own. xl runs a command with the stream on
 * its stdin; ours says the receiver's first words to it and copies the stream to a descriptor that is a socket of
 * ours. After that nobody says anything to xl: see xl-handshake.ts.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { open } from "node:fs/promises";
import type { Readable } from "node:stream";
import { xenPath } from "./xl.ts";
import { BANNER } from "./xl-handshake.ts";

const STREAM_FD = 3;
/** Its stdout, by which xl would be answered, stays open: its end would be an answer, too. */
const TRANSPORT = `printf '${BANNER.trim()}\\n'; exec 4>&1; exec cat >&${STREAM_FD}`;

export class XlMigrate {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;

  private constructor(child: ChildProcess, pid: number) {
    this.#child = child;
    this.pid = pid;
    this.#exited = new Promise((resolve) => child.once("exit", () => resolve()));
  }

  /** `logPath` gets what xl has to say. */
  static async begin({
    xl,
    domid,
    logPath,
  }: {
    xl: string;
    domid: number;
    logPath: string;
  }): Promise<XlMigrate> {
    const log = await open(logPath, "a");
    try {
      const child = spawn(xl, ["migrate", "-s", "", String(domid), TRANSPORT], {
        // A group of its own, which is ended as one.
        detached: true,
        stdio: ["ignore", log.fd, log.fd, "pipe"],
        env: { PATH: xenPath() },
      });
      await new Promise<void>((resolve, reject) => {
        child.once("error", reject);
        child.once("spawn", resolve);
      });
      return new XlMigrate(child, child.pid!);
    } finally {
      await log.close();
    }
  }

  get stream(): Readable {
    return this.#child.stdio[STREAM_FD] as Readable;
  }

  /** Whoever reads its stream has left: xl fails, and lets the guest go on if it had suspended it. */
  async abandon(): Promise<void> {
    this.stream.destroy();
    await this.#exited;
  }

  /** With all of its processes, at once: it decides nothing any more. */
  async kill(): Promise<void> {
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch {
      // It ended between our look and now.
    }
    await this.#exited;
    this.stream.destroy();
  }
}
