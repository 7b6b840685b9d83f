/** The daemon's end of a domain's live stream in. */

import type { Socket } from "node:net";
import { connectUnix } from "../../connect-unix.ts";
import { HypervisorError } from "../errors.ts";
import type { IncomingMemory } from "../hypervisor.ts";
import type { ControlConnection } from "./control-socket.ts";

export class WasmIncomingMemory implements IncomingMemory {
  readonly #control: ControlConnection;
  readonly #socket: Socket;
  readonly #discard: () => Promise<void>;

  private constructor(parts: { control: ControlConnection; socket: Socket; discard: () => Promise<void> }) {
    this.#control = parts.control;
    this.#socket = parts.socket;
    this.#discard = parts.discard;
    // The domain closes it when it is resumed, or ends.
    this.#socket.once("close", () => parts.control.close());
  }

  static async begin(parts: {
    control: ControlConnection;
    streamPath: string;
    discard: () => Promise<void>;
  }): Promise<WasmIncomingMemory> {
    return new WasmIncomingMemory({ ...parts, socket: await connectUnix(parts.streamPath) });
  }

  write(data: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(data, (cause) => {
        if (!cause) resolve();
        else {
          const reason = "the incoming domain is gone";
          reject(new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason }, { cause }));
        }
      });
    });
  }

  async loaded(memoryBytes: number): Promise<void> {
    await this.#control.request({ op: "loaded", memoryBytes });
  }

  onLoss(listener: () => void): void {
    this.#socket.once("close", listener);
  }

  isLost(): boolean {
    return this.#socket.destroyed;
  }

  async discard(): Promise<void> {
    this.#control.close();
    this.#socket.destroy();
    await this.#discard();
  }
}
