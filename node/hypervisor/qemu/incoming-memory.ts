/**
 * The live stream of a `qemu` domain, into this host: QEMU takes it over a socket and waits, stopped. QEMU can load
 * one stream in its life: a stream that begins again is for another QEMU.
 */

import type { Socket } from "node:net";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import { HypervisorError } from "../errors.ts";
import type { IncomingMemory } from "../hypervisor.ts";
import { FrameReader } from "./stream-frames.ts";

/** A QEMU that waits for a stream on `socket`. */
export type Receiver = { client: QmpClient; socket: Socket };

export type IncomingParts = {
  /** Ends the QEMU before, where there is one, and begins another. */
  launch(): Promise<Receiver>;
  /** Ends the QEMU that `launch` began last. Idempotent. */
  discard(): Promise<void>;
  /** What QEMU said last. */
  lastWords(): Promise<string>;
};

export class QemuIncomingMemory implements IncomingMemory {
  readonly #parts: IncomingParts;
  readonly #frames = new FrameReader();
  #receiver: Receiver;
  #takenBytes = 0;
  #isWhole = false;
  #failure: Error | undefined;
  #changed = Promise.withResolvers<void>();
  #isDiscarded = false;
  /** How QEMU's load ended. */
  #load: Promise<string>;

  private constructor(parts: IncomingParts, receiver: Receiver) {
    this.#parts = parts;
    this.#receiver = receiver;
    this.#load = loadOf(receiver);
  }

  static async begin(parts: IncomingParts): Promise<QemuIncomingMemory> {
    return new QemuIncomingMemory(parts, await parts.launch());
  }

  /** What follows a failure is refused; the failure itself is for `loaded` to tell. */
  async write(data: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      for (const part of this.#frames.push(data)) {
        if (part.type === "data") await this.#pass(part.data);
        else if (part.type === "again") await this.#again();
        else this.#isWhole = true;
      }
    } catch (error) {
      await this.#fail(error as Error);
    }
    this.#takenBytes += data.length;
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  async loaded(memoryBytes: number): Promise<void> {
    while (this.#failure === undefined && this.#takenBytes < memoryBytes) await this.#changed.promise;
    if (this.#failure === undefined && this.#takenBytes > memoryBytes) {
      await this.#fail(badStream("it is longer than was said"));
    }
    if (this.#failure === undefined && !this.#isWhole) await this.#fail(badStream("it ends in its midst"));
    if (this.#failure !== undefined) throw this.#failure;
    const status = await this.#load;
    if (status === "completed") return;
    await this.#fail(badStream(`QEMU does not take it (${status}): ${await this.#parts.lastWords()}`));
    throw this.#failure;
  }

  async discard(): Promise<void> {
    this.#isDiscarded = true;
    this.#failure ??= badStream("it was discarded");
    this.#receiver.socket.destroy();
    this.#changed.resolve();
    await this.#parts.discard();
  }

  /** Resolves when the kernel took it: QEMU reads on as fast as it loads. */
  async #pass(data: Uint8Array): Promise<void> {
    if (this.#isWhole) throw badStream("it goes on after its end");
    const { socket } = this.#receiver;
    const error = await new Promise<Error | null | undefined>((resolve) => socket.write(data, resolve));
    if (error) throw badStream(`QEMU does not take it: ${await this.#parts.lastWords()}`);
  }

  async #again(): Promise<void> {
    this.#receiver.socket.destroy();
    this.#isWhole = false;
    this.#receiver = await this.#parts.launch();
    this.#load = loadOf(this.#receiver);
  }

  /** Half a state is of no use to anyone: the QEMU that holds it ends, and nobody can resume it. */
  async #fail(error: Error): Promise<void> {
    if (this.#isDiscarded || this.#failure !== undefined) return;
    this.#failure = error;
    await this.#parts.discard();
  }
}

async function loadOf({ client }: Receiver): Promise<string> {
  const isLast = ({ status }: Readonly<Record<string, unknown>>): boolean =>
    status === "completed" || status === "failed";
  try {
    const { data } = await client.nextEvent("MIGRATION", { matches: isLast });
    return String(data.status);
  } catch {
    return "QEMU ended";
  }
}

function badStream(reason: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_STREAM", reason });
}
