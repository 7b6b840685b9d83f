/**
 * The live stream of a `qemu` domain, into this host: QEMU takes it over a socket and waits, stopped. QEMU can load
 * one stream in its life: a stream that begins again is for another QEMU.
 */

import type { Socket } from "node:net";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import { badStream } from "../errors.ts";
import { FramedIncomingMemory, type StreamTaker } from "../framed-memory.ts";
import type { IncomingMemory } from "../hypervisor.ts";

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

export async function incomingQemu(parts: IncomingParts): Promise<IncomingMemory> {
  return new FramedIncomingMemory(new QemuTaker(parts, await parts.launch()));
}

class QemuTaker implements StreamTaker {
  readonly #parts: IncomingParts;
  #receiver: Receiver;
  /** How QEMU's load ended. */
  #load: Promise<string>;
  #isBeginningAgain = false;
  readonly #lossListeners: (() => void)[] = [];

  constructor(parts: IncomingParts, receiver: Receiver) {
    this.#parts = parts;
    this.#receiver = receiver;
    this.#load = loadOf(receiver);
  }

  /** Resolves when the kernel took it: QEMU reads on as fast as it loads. */
  async pass(data: Uint8Array): Promise<void> {
    const { socket } = this.#receiver;
    const error = await new Promise<Error | null | undefined>((resolve) => socket.write(data, resolve));
    if (error) throw badStream(`QEMU does not take it: ${await this.#parts.lastWords()}`);
  }

  async again(): Promise<void> {
    this.#receiver.socket.destroy();
    this.#isBeginningAgain = true;
    this.#receiver = await this.#parts.launch();
    this.#isBeginningAgain = false;
    this.#load = loadOf(this.#receiver);
    for (const listener of this.#lossListeners) this.#listen(listener);
  }

  onLoss(listener: () => void): void {
    this.#lossListeners.push(listener);
    this.#listen(listener);
  }

  isLost(): boolean {
    return this.#receiver.client.isClosed;
  }

  #listen(listener: () => void): void {
    const receiver = this.#receiver;
    receiver.client.onLoss(() => {
      // Not that of one which `again` ends, or has ended.
      if (this.#receiver === receiver && !this.#isBeginningAgain) listener();
    });
  }

  async finish(): Promise<void> {
    const status = await this.#load;
    if (status === "completed") return;
    throw badStream(`QEMU does not take it (${status}): ${await this.#parts.lastWords()}`);
  }

  async discard(): Promise<void> {
    this.#receiver.socket.destroy();
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
