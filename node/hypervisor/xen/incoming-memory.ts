/**
 * The live stream of a `xen` domain, into this host: `xl migrate-receive` takes it and builds the domain, paused and
 * under a name that says so. When it says that it has all of it, it is ended, see xl-handshake.ts. One that is
 * cut short in the midst of a stream clears away by itself what it had begun; it is never killed there.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { open } from "node:fs/promises";
import { badStream } from "../errors.ts";
import { FramedIncomingMemory, type StreamTaker } from "../framed-memory.ts";
import type { IncomingMemory } from "../hypervisor.ts";
import { xenPath } from "./xl.ts";
import { ReceiverWords } from "./xl-handshake.ts";
import { XlStreamReader } from "./xl-stream.ts";

export type IncomingParts = {
  xl: string;
  logPath: string;
  /** Refuses a configuration that asks for what no peer may ask for. Throws HYPERVISOR_BAD_STREAM. */
  check(config: string): void;
  /** What was received is whole: durable when it resolves. */
  keep(): Promise<void>;
  /** Ends a domain that is here in part or whole. Idempotent. */
  remove(): Promise<void>;
  /** The same, and lets go of the vbds and of the folder. */
  discard(): Promise<void>;
  lastWords(): Promise<string>;
};

/** How long a receiver may take to clear away what it had begun. */
const TIDY_MS = 60_000;

export async function incomingXen(parts: IncomingParts): Promise<IncomingMemory> {
  return new FramedIncomingMemory(new XlTaker(parts, await Receiver.begin(parts)));
}

class XlTaker implements StreamTaker {
  readonly #parts: IncomingParts;
  #receiver: Receiver;
  #reader = new XlStreamReader();
  #isChecked = false;

  constructor(parts: IncomingParts, receiver: Receiver) {
    this.#parts = parts;
    this.#receiver = receiver;
  }

  async pass(data: Uint8Array): Promise<void> {
    this.#reader.push(data);
    if (!this.#isChecked && this.#reader.config !== undefined) {
      // Before xl has seen all of it.
      this.#parts.check(this.#reader.config);
      this.#isChecked = true;
    }
    const error = await this.#receiver.write(data);
    if (error) throw badStream(`xl does not take it: ${await this.#parts.lastWords()}`);
  }

  async again(): Promise<void> {
    this.#isChecked = false;
    this.#reader = new XlStreamReader();
    await this.#receiver.cutShort();
    await this.#parts.remove();
    this.#receiver = await Receiver.begin(this.#parts);
  }

  async finish(): Promise<void> {
    try {
      await this.#receiver.received;
    } catch (cause) {
      throw badStream(`xl does not take it: ${(cause as Error).message}: ${await this.#parts.lastWords()}`);
    }
    await this.#receiver.kill();
    await this.#parts.keep();
  }

  async discard(): Promise<void> {
    await this.#receiver.cutShort();
    await this.#parts.discard();
  }
}

/** One `xl migrate-receive`. */
class Receiver {
  /** Resolves when it has all of the domain; rejects when it ends before that. */
  readonly received: Promise<void>;
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = new Promise((resolve) => child.once("exit", () => resolve()));
    const words = new ReceiverWords();
    this.received = new Promise((resolve, reject) => {
      child.stdout?.on("data", (bytes: Uint8Array) => {
        try {
          words.push(bytes);
        } catch (error) {
          reject(error);
        }
        if (words.hasReceived) resolve();
      });
      child.once("close", (code, signal) => reject(new Error(`it ended (${signal ?? code})`)));
    });
    this.received.catch(() => {});
    child.stdin?.on("error", () => {});
  }

  static async begin({ xl, logPath }: IncomingParts): Promise<Receiver> {
    const log = await open(logPath, "a");
    try {
      const child = spawn(xl, ["migrate-receive"], {
        // A session of its own: no signal that is meant for us reaches it.
        detached: true,
        stdio: ["pipe", "pipe", log.fd],
        env: { PATH: xenPath() },
      });
      await new Promise<void>((resolve, reject) => {
        child.once("error", reject);
        child.once("spawn", resolve);
      });
      return new Receiver(child);
    } finally {
      await log.close();
    }
  }

  /** Resolves when the pipe took it: xl reads on as fast as it restores. */
  write(data: Uint8Array): Promise<Error | null | undefined> {
    return new Promise((resolve) => this.#child.stdin!.write(data, resolve));
  }

  /** To be called once it waits for nothing but our word. */
  async kill(): Promise<void> {
    if (!this.#hasEnded()) process.kill(this.#child.pid!, "SIGKILL");
    await this.#exited;
  }

  /** It finds its stream at an end and tidies up. */
  async cutShort(): Promise<void> {
    if (this.#hasEnded()) return;
    this.#child.stdin!.destroy();
    const timer = setTimeout(() => void this.kill(), TIDY_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }
}
