/**
 * A libp2p connection whose bytes go through a TLSSocket that sits on the raw connection's own socket.
 *
 * libp2p still closes and aborts the raw connection: both are routed through TLS, so that what is queued
 * leaves first. In particular nobody may reset the raw socket any more: `resetAndDestroy()` on a socket
 * that TLS wraps is a use after free and crashes the process (Node 20 to 24).
 */

import { once } from "node:events";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { AbortOptions } from "@libp2p/interface";
import { AbstractMultiaddrConnection } from "@libp2p/utils";
import type { Uint8ArrayList } from "uint8arraylist";
import { writeAll } from "./counted-tcp.ts";

/**
 * Takes the socket away from its raw connection, before TLS gets it. Bytes that were already read go back
 * in front of the socket: a dialler may send its ClientHello together with the protocol it proposes.
 */
export async function takeOver(raw: AbstractMultiaddrConnection, socket: Socket): Promise<void> {
  socket.pause();
  raw.sendReset = () => void socket.destroy();
  const early: Uint8Array[] = [];
  const collect = (event: { data: Uint8Array | Uint8ArrayList }): void =>
    void early.push(event.data.subarray());
  if (raw.readBufferLength > 0) {
    raw.addEventListener("message", collect);
    // What is buffered is handed to a new listener in a microtask.
    await Promise.resolve();
    raw.removeEventListener("message", collect);
    if (raw.readBufferLength > 0) throw new Error("could not recover the bytes before the handshake");
  }
  // Only the raw connection's own listener is there.
  socket.removeAllListeners("data");
  if (early.length > 0) socket.unshift(Buffer.concat(early));
  socket.pause();
}

export class TlsConnection extends AbstractMultiaddrConnection {
  readonly #raw: AbstractMultiaddrConnection;
  readonly #tls: TLSSocket;
  #leaving = false;

  constructor(raw: AbstractMultiaddrConnection, tls: TLSSocket) {
    super({
      log: raw.log.newScope("native-tls"),
      direction: raw.direction,
      remoteAddr: raw.remoteAddr,
      inactivityTimeout: raw.inactivityTimeout,
      maxReadBufferLength: raw.maxReadBufferLength,
    });
    this.#raw = raw;
    this.#tls = tls;
    tls.on("data", (bytes) => {
      if (!this.#leaving) this.onData(bytes);
    });
    tls.on("drain", () => this.safeDispatchEvent("drain"));
    tls.on("error", (error) => {
      raw.abort(error);
      this.abort(error);
    });
    tls.once("end", () => this.onTransportClosed());
    tls.once("close", () => this.onTransportClosed());
    this.#takePlaceOf(raw);
  }

  override async close(options?: AbortOptions): Promise<void> {
    // The muxer is closed by now; a late frame would make it answer on a closing connection and reset it.
    this.#leaving = true;
    await super.close(options);
  }

  override sendData(data: Uint8ArrayList): { sentBytes: number; canSendMore: boolean } {
    return writeAll(this.#tls, data);
  }

  /** Flushes, says so, and reads on until the peer has closed too: unread bytes would turn the end into a reset. */
  override async sendClose({ signal }: AbortOptions = {}): Promise<void> {
    const tls = this.#tls;
    if (tls.destroyed) return;
    tls.resume();
    tls.end();
    try {
      await once(tls, "close", signal === undefined ? {} : { signal });
    } catch (error) {
      tls.destroy();
      throw error;
    }
  }

  override sendReset(error: Error): void {
    this.#tls.destroy();
    this.#raw.abort(error);
  }

  override sendPause(): void {
    this.#tls.pause();
  }

  override sendResume(): void {
    this.#tls.resume();
  }

  #takePlaceOf(raw: AbstractMultiaddrConnection): void {
    raw.sendReset = () => void this.#tls.destroy();
    raw.sendClose = (options) => this.close(options);
    raw.sendData = () => {
      throw new Error("the raw connection belongs to TLS");
    };
    raw.sendPause = () => {};
    raw.sendResume = () => {};
    raw.addEventListener("close", ({ error, local }) => {
      if (error === undefined) this.onTransportClosed();
      else if (local === true) this.abort(error);
      else if (this.status === "open" || this.status === "closing") this.onRemoteReset();
    });
  }
}
