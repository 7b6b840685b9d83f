/**
 * The network between nested hosts: every host's QEMU is connected to it, and what one sends goes to all others, as
 * on a wire. Frames come as QEMU's stream netdev has them: a length of four octets, big-endian, then the frame.
 */

import { createServer, type Server, type Socket } from "node:net";

const HEAD_BYTES = 4;
/** A host that does not read loses frames, as on any network. */
const QUEUE_BYTES_MAX = 8 << 20;

export class Switch {
  readonly #server: Server;
  readonly #ports = new Set<Socket>();
  #isCut = false;

  private constructor() {
    this.#server = createServer((socket) => this.#join(socket));
  }

  static async listen(path: string): Promise<Switch> {
    const it = new Switch();
    await new Promise<void>((resolve, reject) => {
      it.#server.once("error", reject);
      it.#server.listen(path, resolve);
    });
    return it;
  }

  /** What is sent from now on is lost, as with a cable that was pulled. */
  cut(): void {
    this.#isCut = true;
  }

  mend(): void {
    this.#isCut = false;
  }

  async stop(): Promise<void> {
    for (const port of this.#ports) port.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #join(socket: Socket): void {
    this.#ports.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#ports.delete(socket));
    let rest: Buffer = Buffer.alloc(0);
    socket.on("data", (data) => {
      rest = rest.length === 0 ? data : Buffer.concat([rest, data]);
      const whole = wholeFrames(rest);
      if (whole === 0) return;
      this.#pass(socket, rest.subarray(0, whole));
      rest = rest.subarray(whole);
    });
  }

  #pass(from: Socket, frames: Buffer): void {
    if (this.#isCut) return;
    for (const port of this.#ports) {
      if (port !== from && port.writableLength < QUEUE_BYTES_MAX) port.write(frames);
    }
  }
}

/** How many of the octets are frames that are there to their end. */
function wholeFrames(bytes: Buffer): number {
  let at = 0;
  while (bytes.length - at >= HEAD_BYTES) {
    const end = at + HEAD_BYTES + bytes.readUInt32BE(at);
    if (end > bytes.length) break;
    at = end;
  }
  return at;
}
