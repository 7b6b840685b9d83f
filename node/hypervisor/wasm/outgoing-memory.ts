/** The daemon's end of a domain's live stream out: a control connection, and the stream's own socket. */

import type { Socket } from "node:net";
import { connectUnix } from "../../connect-unix.ts";
import { HypervisorError } from "../errors.ts";
import type { OutgoingMemory } from "../hypervisor.ts";
import type { ControlConnection, Json } from "./control-socket.ts";
import type { Round } from "./memory-outgoing.ts";

export class WasmOutgoingMemory implements OutgoingMemory {
  readonly stream: AsyncIterable<Uint8Array>;
  readonly #control: ControlConnection;
  readonly #socket: Socket;
  readonly #listeners: ((round: Round) => void)[] = [];
  #lastRound: Round | undefined;
  #givenBytes = 0;
  #totalBytes: number | undefined;
  #ended = Promise.withResolvers<number>();
  #cancelled = false;

  private constructor(control: ControlConnection, socket: Socket) {
    this.#control = control;
    this.#socket = socket;
    this.stream = this.#read();
    this.#ended.promise.catch(() => {});
    control.onEvent((event) => this.#event(event));
    void control.closed.then(() => {
      this.#ended.reject(gone());
      socket.destroy();
    });
    // An error ends the stream; who reads it hears of it there.
  }

  static async begin(control: ControlConnection): Promise<WasmOutgoingMemory> {
    try {
      const { streamPath } = await control.request({ op: "migrate-out" });
      return new WasmOutgoingMemory(control, await connectUnix(String(streamPath)));
    } catch (error) {
      control.close();
      throw error;
    }
  }

  /** A pass that ended before anyone listened is told at once: the driver must not wait for the next. */
  onRound(listener: (round: Round) => void): void {
    this.#listeners.push(listener);
    if (this.#lastRound) listener(this.#lastRound);
  }

  async freeze(): Promise<void> {
    await this.#control.request({ op: "freeze" });
  }

  ended(): Promise<number> {
    return this.#ended.promise;
  }

  async thaw(): Promise<void> {
    await this.#control.request({ op: "thaw" });
    this.#totalBytes = undefined;
    this.#ended = Promise.withResolvers();
    this.#ended.promise.catch(() => {});
  }

  async cancel(): Promise<void> {
    if (this.#cancelled) return;
    this.#cancelled = true;
    await this.#control.request({ op: "cancel" }).catch(() => {});
    this.#control.close();
    this.#socket.destroy();
  }

  async *#read(): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of this.#socket.iterator({ destroyOnReturn: false })) {
        this.#givenBytes += (chunk as Uint8Array).length;
        this.#checkEnded();
        yield chunk as Uint8Array;
      }
    } catch (error) {
      if (!this.#cancelled) throw error;
    }
  }

  #event(event: Json): void {
    if (event.event === "round") {
      const { round, remainingBytes, converged } = event as Round & Json;
      this.#lastRound = { round, remainingBytes, converged };
      for (const listener of this.#listeners) listener(this.#lastRound);
    } else if (event.event === "ended") {
      this.#totalBytes = Number(event.totalBytes);
      this.#checkEnded();
    }
  }

  #checkEnded(): void {
    if (this.#totalBytes !== undefined && this.#givenBytes >= this.#totalBytes) {
      this.#ended.resolve(this.#totalBytes);
    }
  }
}

function gone(): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason: "the domain's stream ended" });
}
