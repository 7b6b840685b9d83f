/**
 * One client: its socket, its negotiation, then its requests.
 *
 * The negotiation collects exactly what its state wants and holds no more; it has a deadline, and may not ask for more
 * replies than it takes.
 */
import type { Socket } from "node:net";
import { BufferLease, type BufferPool } from "./buffer-pool.ts";
import { type ExportLookup, greeting, type HandshakeState, octetsWanted, step } from "./handshake.ts";
import { type Receiver, receiveFrom } from "./receiving-socket.ts";
import { RequestLoop } from "./request-loop.ts";

export type ConnectionLimits = {
  /** What one connection may hold in buffers; one request more is let in. */
  inFlightBytesMax: number;
  handshakeTimeoutMs: number;
  /** Zero for plain "data" events. */
  receiveBufferSizeBytes: number;
};

export type ConnectionParts = {
  accepted: Socket;
  exports: ExportLookup;
  pool: BufferPool;
  onClosed: (connection: NbdConnection) => void;
};

/** Replies of the negotiation that the client has not read: a listing of a few hundred exports. */
const HANDSHAKE_UNSENT_BYTES_MAX = 64 << 10;

/** A batch of replies, a piece of a write, and as much again: with less, a connection could wait for itself. */
const IN_FLIGHT_BYTES_LEAST = 4 << 20;

export class NbdConnection implements Receiver {
  readonly #socket: Socket;
  readonly #exports: ExportLookup;
  readonly #pool: BufferPool;
  readonly #limits: ConnectionLimits;
  readonly #onClosed: (connection: NbdConnection) => void;
  readonly #deadline: NodeJS.Timeout;
  #handshake: HandshakeState = { phase: "client-flags" };
  /** Octets of the state's wish that came so far; allocated for the largest option only when one is split. */
  #collected: Buffer = Buffer.alloc(0);
  #rest: Buffer | undefined;
  #requests: RequestLoop | undefined;

  constructor({ accepted, exports, pool, onClosed }: ConnectionParts, limits: ConnectionLimits) {
    this.#exports = exports;
    this.#pool = pool;
    this.#limits = limits;
    this.#onClosed = onClosed;
    const socket = receiveFrom(accepted, this, { staticBufferSizeBytes: limits.receiveBufferSizeBytes });
    this.#socket = socket;
    // A peer that goes away is no error of ours; "close" follows.
    socket.on("error", () => {});
    socket.on("end", () => this.#inputEnded());
    socket.on("close", () => this.#closed());
    socket.on("drain", () => this.#handshakeDrained());
    this.#deadline = setTimeout(() => socket.destroy(), limits.handshakeTimeoutMs);
    socket.write(greeting());
  }

  /** Half way in the handshake: the first to go when there are too many. */
  get isNegotiating(): boolean {
    return this.#requests === undefined;
  }

  get receivesPayload(): boolean {
    return this.#requests !== undefined;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Answers what is in flight, then closes; a client that does not take its replies is cut off. */
  close(): void {
    if (this.#requests === undefined) this.#socket.destroy();
    else this.#requests.exportGone();
  }

  received(bytes: Buffer, length: number): void {
    if (this.#requests !== undefined) this.#requests.received(bytes, length);
    else if (this.#handshake.phase !== "closed") this.#negotiate(bytes.subarray(0, length));
  }

  #negotiate(bytes: Buffer): void {
    let rest = bytes;
    while (this.#handshake.phase !== "transmission" && this.#handshake.phase !== "closed") {
      if (this.#socket.writableLength > HANDSHAKE_UNSENT_BYTES_MAX) {
        // The receive buffer is used again when reading goes on, so what is left is kept: 4 KiB, or 64 plainly.
        this.#rest = rest;
        this.#socket.pause();
        return;
      }
      const wanted = octetsWanted(this.#handshake);
      const taken = rest.subarray(0, wanted - this.#collected.length);
      rest = rest.subarray(taken.length);
      if (this.#collected.length + taken.length < wanted) {
        this.#collected = Buffer.concat([this.#collected, taken], this.#collected.length + taken.length);
        return;
      }
      const whole = this.#collected.length === 0 ? taken : Buffer.concat([this.#collected, taken]);
      this.#collected = Buffer.alloc(0);
      this.#step(whole);
    }
    if (this.#handshake.phase === "closed") this.#socket.destroySoon();
    else if (this.#handshake.phase === "transmission") this.#beginTransmission(this.#handshake, rest);
  }

  #step(bytes: Buffer): void {
    const [next, replies] = step(this.#handshake, bytes, this.#exports);
    this.#handshake = next;
    if (replies.length > 0) this.#socket.write(replies.length === 1 ? replies[0]! : Buffer.concat(replies));
  }

  #beginTransmission(session: Extract<HandshakeState, { phase: "transmission" }>, rest: Buffer): void {
    clearTimeout(this.#deadline);
    const lease = new BufferLease(this.#pool);
    const heldBytesMax = Math.max(this.#limits.inFlightBytesMax, IN_FLIGHT_BYTES_LEAST);
    this.#requests = new RequestLoop({ socket: this.#socket, session, lease }, { heldBytesMax });
    if (session.entry.phase === "removed") this.#requests.exportGone();
    else if (rest.length > 0) this.#requests.received(rest, rest.length);
  }

  #handshakeDrained(): void {
    const rest = this.#rest;
    if (rest === undefined) return;
    this.#rest = undefined;
    this.#negotiate(rest);
    if (this.#rest === undefined && this.#requests === undefined) this.#socket.resume();
  }

  #inputEnded(): void {
    if (this.#requests === undefined) this.#socket.destroySoon();
    else this.#requests.inputEnded();
  }

  #closed(): void {
    clearTimeout(this.#deadline);
    const requests = this.#requests;
    requests?.socketClosed();
    // What is in flight can still land, and whoever waits for us waits for that.
    if (requests === undefined || requests.inFlight === 0) this.#onClosed(this);
    else requests.whenQuiet(() => this.#onClosed(this));
  }
}
