/** The guest's serial console: one JSON object per line from the workload, one command per line to it. */

import type { Socket } from "node:net";
import { z } from "zod";
import { connectUnix } from "../../node/connect-unix.ts";

const GuestLine = z.looseObject({ type: z.string(), errors: z.number().optional() });
export type GuestLine = z.infer<typeof GuestLine>;

/** A guest under emulation on a busy machine is slow; one that says nothing for so long is stuck. */
const ANSWER_TIMEOUT_MS = 180_000;

export class GuestConsole {
  readonly #socket: Socket;
  readonly #listeners = new Set<(line: GuestLine) => void>();
  #rest = "";

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => this.#push(text));
  }

  static async open(path: string): Promise<GuestConsole> {
    return new GuestConsole(await connectUnix(path));
  }

  /** Resolves with the next line that `matches`. */
  next(matches: (line: GuestLine) => boolean): Promise<GuestLine> {
    return this.collect(matches, () => {});
  }

  /** The same, and `each` is told of every line until then. */
  async collect(matches: (line: GuestLine) => boolean, each: (line: GuestLine) => void): Promise<GuestLine> {
    const found = Promise.withResolvers<GuestLine>();
    const timer = setTimeout(
      () => found.reject(new Error(`the guest did not answer for ${ANSWER_TIMEOUT_MS / 1000} s`)),
      ANSWER_TIMEOUT_MS,
    );
    const closed = (): void => found.reject(new Error("the guest's console was closed"));
    const listener = (line: GuestLine): void => {
      each(line);
      if (matches(line)) found.resolve(line);
    };
    this.#listeners.add(listener);
    this.#socket.once("close", closed);
    return found.promise.finally(() => {
      clearTimeout(timer);
      this.#listeners.delete(listener);
      this.#socket.off("close", closed);
    });
  }

  say(command: "verify" | "sums" | "halt" | "reboot" | "status" | `fio ${string}`): void {
    this.#socket.write(`${command}\n`);
  }

  close(): void {
    this.#socket.destroy();
  }

  #push(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      const parsed = parseLine(line);
      // The first line may have begun before we listened.
      if (parsed !== undefined) for (const listener of [...this.#listeners]) listener(parsed);
    }
  }
}

/** Undefined for what the kernel says. */
function parseLine(line: string): GuestLine | undefined {
  const at = line.indexOf('{"type":');
  if (at < 0) return undefined;
  try {
    return GuestLine.parse(JSON.parse(line.slice(at)));
  } catch {
    return undefined;
  }
}
