/**
 * A `Network` inside one process: the same contract without sockets, for tests of what stands on it.
 *
 *   const hub = new MemoryHub();
 *   const a = hub.join("a"), b = hub.join("b");
 *
 * Frames are copied when they are sent, as a wire would. A lane holds a window of bytes like a stream of the
 * real network, so back-pressure is the same.
 */

import { assert } from "../../protocol/errors.ts";
import { NetworkError } from "./errors.ts";
import { MemoryLane } from "./memory-lane.ts";
import type { Channel, ChannelHandler, Connection, FrameSource, HostId, Network } from "./network.ts";
import { Turns, untilAborted } from "./turns.ts";

export type MemoryHubOptions = { frameSizeMax?: number; windowSizeBytes?: number };

export class MemoryHub {
  readonly #hosts = new Map<string, MemoryNetwork>();
  readonly options: Required<MemoryHubOptions>;

  constructor({ frameSizeMax = 2 << 20, windowSizeBytes = 4 << 20 }: MemoryHubOptions = {}) {
    this.options = { frameSizeMax, windowSizeBytes };
  }

  /** A host of that name. Its address is /memory/NAME/p2p/NAME. */
  join(name: HostId, options: { frameSizeMax?: number } = {}): MemoryNetwork {
    assert(!this.#hosts.has(name), `two hosts named ${name}`);
    const host = new MemoryNetwork(this, name, { ...this.options, ...options });
    this.#hosts.set(name, host);
    return host;
  }

  at(name: string): MemoryNetwork | undefined {
    return this.#hosts.get(name);
  }
}

export class MemoryNetwork implements Network {
  readonly self: HostId;
  readonly options: Required<MemoryHubOptions>;
  readonly #hub: MemoryHub;
  readonly #handlers = new Map<string, ChannelHandler>();
  readonly #connections = new Set<MemoryConnection>();
  #state: "new" | "started" | "stopped" = "new";

  constructor(hub: MemoryHub, self: HostId, options: Required<MemoryHubOptions>) {
    this.#hub = hub;
    this.self = self;
    this.options = options;
  }

  addresses(): readonly string[] {
    return this.#state === "started" ? [`/memory/${this.self}/p2p/${this.self}`] : [];
  }

  connections(): readonly Connection[] {
    return [...this.#connections];
  }

  async handle(protocol: string, handler: ChannelHandler): Promise<void> {
    assert(!this.#handlers.has(protocol), `two handlers of ${protocol}`);
    this.#handlers.set(protocol, handler);
  }

  handlerOf(protocol: string): ChannelHandler | undefined {
    return this.#handlers.get(protocol);
  }

  async start(): Promise<void> {
    assert(this.#state === "new", "a network starts once");
    this.#state = "started";
  }

  async stop(): Promise<void> {
    this.#state = "stopped";
    await Promise.all([...this.#connections].map((connection) => connection.close()));
  }

  async dial(address: string, signal?: AbortSignal): Promise<Connection> {
    signal?.throwIfAborted();
    if (this.#state !== "started") {
      throw new NetworkError({ code: "NETWORK_CLOSED", peer: this.self, what: "network" });
    }
    const [, kind, name, , expected] = address.split("/");
    if (kind !== "memory" || name === undefined) {
      throw new NetworkError({ code: "NETWORK_BAD_ADDRESS", address });
    }
    const host = this.#hub.at(name);
    if (host === undefined || host.#state !== "started") {
      throw new NetworkError({ code: "NETWORK_UNREACHABLE", address, reason: "nobody there" });
    }
    if (expected !== undefined && expected !== host.self) {
      throw new NetworkError({ code: "NETWORK_WRONG_PEER", address });
    }
    if (host === this) throw new NetworkError({ code: "NETWORK_REFUSED", address, reason: "own address" });
    const ours = new MemoryConnection(this, host, "outbound");
    const theirs = new MemoryConnection(host, this, "inbound");
    ours.join(theirs);
    theirs.join(ours);
    this.#keep(ours);
    host.#keep(theirs);
    return ours;
  }

  #keep(connection: MemoryConnection): void {
    this.#connections.add(connection);
    connection.onClose(() => this.#connections.delete(connection));
  }
}

export class MemoryConnection implements Connection {
  readonly peer: HostId;
  readonly direction: "inbound" | "outbound";
  readonly #host: MemoryNetwork;
  readonly #remote: MemoryNetwork;
  readonly #channels = new Set<MemoryChannel>();
  readonly #listeners = new Set<(error: Error | undefined) => void>();
  #other: MemoryConnection | undefined;
  #open = true;
  #sent = 0;
  #received = 0;

  constructor(host: MemoryNetwork, remote: MemoryNetwork, direction: "inbound" | "outbound") {
    this.#host = host;
    this.#remote = remote;
    this.peer = remote.self;
    this.direction = direction;
  }

  join(other: MemoryConnection): void {
    this.#other = other;
  }

  async open(protocol: string, signal?: AbortSignal): Promise<Channel> {
    signal?.throwIfAborted();
    const other = this.#otherEnd();
    const handler = this.#remote.handlerOf(protocol);
    if (handler === undefined)
      throw new NetworkError({ code: "NETWORK_NO_PROTOCOL", peer: this.peer, protocol });

    const { windowSizeBytes } = this.#host.options;
    const there = new MemoryLane(windowSizeBytes, (sizeBytes) => this.#count(sizeBytes));
    const back = new MemoryLane(windowSizeBytes, (sizeBytes) => other.#count(sizeBytes));
    const ours = new MemoryChannel({ peer: this.peer, protocol, out: there, in: back }, this.#host.options);
    const theirs = new MemoryChannel(
      { peer: other.peer, protocol, out: back, in: there },
      this.#remote.options,
    );
    this.#keep(ours);
    other.#keep(theirs);
    runHandler(handler, theirs, other).catch((error: unknown) => {
      theirs.abort(error instanceof Error ? error : new Error(String(error)));
    });
    return ours;
  }

  async ping(signal?: AbortSignal): Promise<number> {
    signal?.throwIfAborted();
    this.#otherEnd();
    const askedAt = performance.now();
    await new Promise((resolve) => setImmediate(resolve));
    return performance.now() - askedAt;
  }

  bytesSent(): number {
    return this.#sent;
  }

  bytesReceived(): number {
    return this.#received;
  }

  onClose(listener: (error: Error | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#channels].map((channel) => channel.closing));
    this.#dropBoth(undefined);
  }

  /** Pulls the cable: nothing is said to anybody, both ends only notice. */
  cut(): void {
    this.#dropBoth(new Error("connection reset"));
  }

  #otherEnd(): MemoryConnection {
    if (!this.#open || this.#other === undefined) {
      throw new NetworkError({ code: "NETWORK_CLOSED", peer: this.peer, what: "connection" });
    }
    return this.#other;
  }

  #count(sizeBytes: number): void {
    this.#sent += sizeBytes;
    if (this.#other !== undefined) this.#other.#received += sizeBytes;
  }

  #keep(channel: MemoryChannel): void {
    this.#channels.add(channel);
  }

  #dropBoth(error: Error | undefined): void {
    this.#drop(error);
    if (this.#other !== undefined) this.#other.#drop(error);
  }

  #drop(error: Error | undefined): void {
    if (!this.#open) return;
    this.#open = false;
    for (const channel of this.#channels) channel.lose();
    this.#channels.clear();
    for (const listener of this.#listeners) listener(error);
    this.#listeners.clear();
  }
}

type Ends = { peer: HostId; protocol: string; out: MemoryLane; in: MemoryLane };

class MemoryChannel implements Channel {
  readonly peer: HostId;
  readonly protocol: string;
  readonly sink = (source: FrameSource): Promise<void> => this.#sendAll(source);
  readonly #out: MemoryLane;
  readonly #in: MemoryLane;
  readonly #frameSizeMax: number;
  readonly #sends = new Turns();
  #reading = false;
  #closing: Promise<void> | undefined;

  constructor(ends: Ends, { frameSizeMax }: Required<MemoryHubOptions>) {
    this.peer = ends.peer;
    this.protocol = ends.protocol;
    this.#out = ends.out;
    this.#in = ends.in;
    this.#frameSizeMax = frameSizeMax;
  }

  /** Resolves when a close that was asked for is done. Never rejects. */
  get closing(): Promise<void> | undefined {
    return this.#closing?.catch(() => undefined);
  }

  send(frame: Uint8Array | readonly Uint8Array[], signal?: AbortSignal): Promise<void> {
    if (this.#closing !== undefined) {
      return Promise.reject(new NetworkError({ code: "NETWORK_CLOSED", peer: this.peer, what: "channel" }));
    }
    const copy = new Uint8Array(Buffer.concat(frame instanceof Uint8Array ? [frame] : frame));
    if (copy.byteLength > this.#frameSizeMax) return Promise.reject(this.#tooLarge(copy.byteLength));
    return this.#sends.run(() => this.#out.push(copy, signal), signal);
  }

  async *frames(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    assert(!this.#reading, "a channel has one reader at a time");
    this.#reading = true;
    try {
      for (;;) {
        signal?.throwIfAborted();
        const frame = await this.#in.next(signal);
        if (frame === undefined) return;
        if (frame.byteLength > this.#frameSizeMax) {
          const error = this.#tooLarge(frame.byteLength);
          this.abort(error);
          throw error;
        }
        yield frame;
      }
    } finally {
      this.#reading = false;
    }
  }

  close(signal?: AbortSignal): Promise<void> {
    this.#closing ??= this.#sends.run(async () => this.#out.end());
    return untilAborted(this.#closing, signal);
  }

  abort(error: Error): void {
    this.#in.clear();
    this.#in.fail({ reader: error, writer: this.#lost("the peer gave up") });
    this.#out.fail({ reader: this.#lost("the peer gave up"), writer: error });
  }

  /** The connection is gone. What was ended before stays ended. */
  lose(): void {
    const error = this.#lost("the connection was cut");
    this.#in.fail({ reader: error, writer: error });
    this.#out.fail({ reader: error, writer: error });
  }

  async #sendAll(source: FrameSource): Promise<void> {
    try {
      for await (const frame of source) await this.send(frame);
      await this.close();
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }

  #lost(reason: string): NetworkError {
    return new NetworkError({ code: "NETWORK_LOST", peer: this.peer, reason });
  }

  #tooLarge(sizeBytes: number): NetworkError {
    const limitBytes = this.#frameSizeMax;
    return new NetworkError({ code: "NETWORK_FRAME_TOO_LARGE", peer: this.peer, sizeBytes, limitBytes });
  }
}

async function runHandler(handler: ChannelHandler, ...channel: Parameters<ChannelHandler>): Promise<void> {
  await handler(...channel);
}
