/**
 * A network link between two daemons that a scenario can break: a TCP relay which can be cut, stalled, healed and
 * slowed down, and which counts what went through. It understands nothing of what it carries.
 *
 *   heal()   (the beginning) every connection is relayed, both ways, with back-pressure
 *   stall()  connections stay and new ones are accepted, but no byte moves: a switch that lost its mind
 *   cut()    every connection is reset and new ones are refused: a cable that was pulled
 */

import { connect, createServer, type Server, type Socket } from "node:net";

export type LinkState = "up" | "stalled" | "cut";

export type LinkProxyOptions = {
  /** Where the relay listens, on 127.0.0.1; 0 lets the system choose. */
  port?: number;
  targetPort: number;
  /** Per direction, over all connections together. */
  bytesPerSecondMax?: number;
};

/** Bytes that were relayed: `sent` by who dialled, `received` by who dialled. */
export type LinkBytes = { sent: number; received: number };

export class LinkProxy {
  readonly #targetPort: number;
  readonly #flows = new Set<Flow>();
  readonly #bytes: LinkBytes = { sent: 0, received: 0 };
  readonly #pace: { sent: Pace; received: Pace };
  #server: Server | undefined;
  #port: number;
  #state: LinkState = "up";

  constructor({ port = 0, targetPort, bytesPerSecondMax }: LinkProxyOptions) {
    this.#port = port;
    this.#targetPort = targetPort;
    this.#pace = { sent: new Pace(bytesPerSecondMax), received: new Pace(bytesPerSecondMax) };
  }

  get port(): number {
    return this.#port;
  }

  get state(): LinkState {
    return this.#state;
  }

  /** Connections that are open now. */
  get connections(): number {
    return this.#flows.size;
  }

  bytes(): LinkBytes {
    return { ...this.#bytes };
  }

  async start(): Promise<void> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
      this.#accept(socket),
    );
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      // Kept, so that a link which was cut comes back where its users look for it.
      server.listen({ host: "127.0.0.1", port: this.#port }, () => {
        server.off("error", reject);
        resolve();
      });
    });
    this.#port = (server.address() as { port: number }).port;
    this.#server = server;
  }

  /** Idempotent. */
  async stop(): Promise<void> {
    await this.#reset();
  }

  async cut(): Promise<void> {
    this.#state = "cut";
    await this.#reset();
  }

  async stall(): Promise<void> {
    this.#state = "stalled";
    for (const flow of this.#flows) flow.stall();
    if (this.#server === undefined) await this.start();
  }

  async heal(): Promise<void> {
    this.#state = "up";
    if (this.#server === undefined) await this.start();
    for (const flow of this.#flows) flow.heal();
  }

  /** Undefined: as fast as it goes. */
  limit(bytesPerSecondMax: number | undefined): void {
    this.#pace.sent.bytesPerSecondMax = bytesPerSecondMax;
    this.#pace.received.bytesPerSecondMax = bytesPerSecondMax;
  }

  #accept(inner: Socket): void {
    const flow = new Flow(inner, {
      targetPort: this.#targetPort,
      pace: this.#pace,
      count: (direction, bytes) => {
        this.#bytes[direction] += bytes;
      },
      ended: () => this.#flows.delete(flow),
    });
    this.#flows.add(flow);
    if (this.#state === "up") flow.heal();
  }

  async #reset(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    const closed = server === undefined ? undefined : new Promise((resolve) => server.close(resolve));
    for (const flow of this.#flows) flow.reset();
    await closed;
  }
}

type Direction = keyof LinkBytes;

type FlowParts = {
  targetPort: number;
  pace: Record<Direction, Pace>;
  count(direction: Direction, bytes: number): void;
  ended(): void;
};

/** One relayed connection. Begins stalled: the far side is dialled when bytes may move. */
class Flow {
  readonly #inner: Socket;
  readonly #parts: FlowParts;
  #outer: Socket | undefined;
  #halves: readonly Half[] = [];

  constructor(inner: Socket, parts: FlowParts) {
    this.#inner = inner;
    this.#parts = parts;
    inner.setNoDelay(true);
    inner.on("error", () => this.reset());
    inner.on("close", () => this.#innerClosed());
  }

  stall(): void {
    for (const half of this.#halves) half.stop("stall");
  }

  heal(): void {
    if (this.#inner.destroyed) return;
    if (this.#outer === undefined) this.#dial();
    for (const half of this.#halves) half.go("stall");
  }

  reset(): void {
    // As a broken cable: neither end may take this for an orderly end.
    this.#inner.resetAndDestroy();
    this.#outer?.resetAndDestroy();
    if (this.#outer === undefined) this.#parts.ended();
  }

  #dial(): void {
    const { targetPort, pace, count } = this.#parts;
    const outer = connect({ host: "127.0.0.1", port: targetPort, allowHalfOpen: true });
    this.#outer = outer;
    outer.setNoDelay(true);
    outer.on("error", () => this.reset());
    outer.on("close", () => {
      if (!this.#inner.destroyed && this.#inner.writable) this.#inner.resetAndDestroy();
      if (this.#inner.destroyed) this.#parts.ended();
    });
    this.#halves = [
      new Half(this.#inner, outer, { pace: pace.sent, count: (bytes) => count("sent", bytes) }),
      new Half(outer, this.#inner, { pace: pace.received, count: (bytes) => count("received", bytes) }),
    ];
    outer.pause();
    outer.once("connect", () => {
      for (const half of this.#halves) half.go("dial");
    });
  }

  #innerClosed(): void {
    if (this.#outer !== undefined && !this.#outer.destroyed && this.#outer.writable)
      this.#outer.resetAndDestroy();
    if (this.#outer === undefined || this.#outer.destroyed) this.#parts.ended();
  }
}

type Reason = "dial" | "stall" | "drain" | "pace";

/** One direction of a connection: reads only while nothing speaks against it. */
class Half {
  readonly #from: Socket;
  readonly #stopped = new Set<Reason>(["dial", "stall"]);

  constructor(from: Socket, to: Socket, { pace, count }: { pace: Pace; count(bytes: number): void }) {
    this.#from = from;
    from.on("data", (chunk: Buffer) => {
      count(chunk.length);
      if (!to.write(chunk)) this.stop("drain");
      const waitMs = pace.spend(chunk.length);
      if (waitMs === 0) return;
      this.stop("pace");
      setTimeout(() => this.go("pace"), waitMs).unref();
    });
    // A listener for data makes the stream flow.
    from.pause();
    from.on("end", () => to.end());
    to.on("drain", () => this.go("drain"));
  }

  stop(reason: Reason): void {
    this.#stopped.add(reason);
    this.#from.pause();
  }

  go(reason: Reason): void {
    this.#stopped.delete(reason);
    if (this.#stopped.size === 0) this.#from.resume();
  }
}

/** The time at which all that was sent so far would have left a line of that rate. */
class Pace {
  bytesPerSecondMax: number | undefined;
  #freeAtMs = 0;

  constructor(bytesPerSecondMax: number | undefined) {
    this.bytesPerSecondMax = bytesPerSecondMax;
  }

  /** How long to wait before the next byte, in milliseconds. */
  spend(bytes: number): number {
    if (this.bytesPerSecondMax === undefined) return 0;
    const now = performance.now();
    this.#freeAtMs = Math.max(this.#freeAtMs, now) + (bytes * 1000) / this.bytesPerSecondMax;
    return this.#freeAtMs - now;
  }
}
