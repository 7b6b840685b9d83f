/**
 * Word from xenstore that a domain of this host has shut down: it reboots, powers off, is suspended or is gone. Which
 * one and why has to be asked of xl.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { xenPath } from "./xl.ts";

const COMMAND = "xenstore-watch";
const EVENT = "@releaseDomain";
/** Where there is no such command, or xenstored is restarted. */
const AGAIN_MS = 10_000;

export class ShutdownWatch {
  readonly #onShutdown: () => void;
  #child: ChildProcess | undefined;
  #isStopped = false;

  /** `onShutdown` is also called once at the beginning, for what happened before. */
  constructor(onShutdown: () => void) {
    this.#onShutdown = onShutdown;
    process.once("exit", () => this.stop());
  }

  /** Idempotent. It keeps no process alive. */
  begin(): void {
    if (this.#child !== undefined || this.#isStopped) return;
    const child = spawn(COMMAND, [EVENT], { stdio: ["ignore", "pipe", "ignore"], env: { PATH: xenPath() } });
    this.#child = child;
    child.stdout.on("data", () => this.#onShutdown());
    child.once("error", () => this.#again(child));
    child.once("exit", () => this.#again(child));
    child.unref();
    (child.stdout as unknown as { unref(): void }).unref();
  }

  stop(): void {
    this.#isStopped = true;
    this.#child?.kill();
  }

  #again(child: ChildProcess): void {
    if (this.#child !== child || this.#isStopped) return;
    setTimeout(() => {
      this.#child = undefined;
      this.begin();
    }, AGAIN_MS).unref();
  }
}
