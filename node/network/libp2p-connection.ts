/** A `Connection` over one libp2p connection, with its channels. */

import type { Socket } from "node:net";
import type { Connection as Libp2pStreams, Stream } from "@libp2p/interface";
import { PING_PROTOCOL } from "@libp2p/ping";
import { StreamChannel, type StreamChannelOptions } from "./channel.ts";
import { socketOf } from "./counted-tcp.ts";
import { NetworkError } from "./errors.ts";
import type { Channel, Connection, HostId } from "./network.ts";
import { roundTrip } from "./round-trip.ts";

/** Channels of one protocol in one connection, each way. libp2p's own limits are 32 and 64. */
export const CHANNELS_MAX = 4096;

/** A ping is an answer also when it takes long; this only ends one that nobody waits for. */
const PING_TIMEOUT_MS = 10_000;

export type Libp2pConnectionOptions = {
  channel: StreamChannelOptions;
  /** What was sent before `close` has this long to leave; then the connection is reset. */
  closeTimeoutMs: number;
};

export class Libp2pConnection implements Connection {
  readonly peer: HostId;

  readonly #streams: Libp2pStreams;
  readonly #socket: Socket;
  readonly #options: Libp2pConnectionOptions;
  readonly #channels = new Set<StreamChannel>();
  #closing: Promise<void> | undefined;

  constructor(streams: Libp2pStreams, options: Libp2pConnectionOptions) {
    this.peer = streams.remotePeer.toString();
    this.#streams = streams;
    this.#socket = socketOf(streams);
    this.#options = options;
  }

  get direction(): "inbound" | "outbound" {
    return this.#streams.direction;
  }

  /** The object that this connection and the raw one below it share. */
  get timeline(): object {
    return this.#streams.timeline;
  }

  /** The protocol that protects it. */
  get encryption(): string {
    return this.#streams.encryption ?? "none";
  }

  async open(protocol: string, signal?: AbortSignal): Promise<Channel> {
    return this.adopt(await this.#newStream(protocol, signal));
  }

  /** Makes a channel of a stream. At once, in the stream's own turn: what arrives before has no reader. */
  adopt(stream: Stream): StreamChannel {
    const channel = new StreamChannel({ stream, peer: this.peer }, this.#options.channel);
    if (stream.status === "open") {
      this.#channels.add(channel);
      stream.addEventListener("close", () => this.#channels.delete(channel));
    }
    return channel;
  }

  async ping(signal?: AbortSignal): Promise<number> {
    const timeout = AbortSignal.timeout(PING_TIMEOUT_MS);
    const bounded = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
    const stream = await this.#newStream(PING_PROTOCOL, bounded);
    try {
      return await roundTrip(stream, bounded);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw this.#lost("no answer to a ping", error);
    }
  }

  bytesSent(): number {
    return this.#socket.bytesWritten;
  }

  bytesReceived(): number {
    return this.#socket.bytesRead;
  }

  onClose(listener: (error: Error | undefined) => void): () => void {
    const controller = new AbortController();
    const options = { once: true, signal: controller.signal };
    this.#streams.addEventListener("close", (event) => listener(event.error), options);
    return () => controller.abort();
  }

  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  /** Resets the connection; nothing more is sent. */
  abort(error: Error): void {
    this.#closing ??= Promise.resolve();
    this.#streams.abort(error);
  }

  async #end(): Promise<void> {
    const timeout = AbortSignal.timeout(this.#options.closeTimeoutMs);
    try {
      // The muxer would end every open stream in good order, and the peer would take a transfer that was
      // cut by our leaving for a whole one. Only what its owner closed may look closed.
      const leaving = [...this.#channels].map((channel) => leave(channel, timeout));
      await Promise.all(leaving);
      await this.#streams.close({ signal: timeout });
    } catch (error) {
      this.#streams.abort(error instanceof Error ? error : new Error(String(error)));
    }
  }

  async #newStream(protocol: string, signal: AbortSignal | undefined): Promise<Stream> {
    if (this.#closing !== undefined) {
      throw new NetworkError({ code: "NETWORK_CLOSED", peer: this.peer, what: "connection" });
    }
    try {
      const limits = { maxOutboundStreams: CHANNELS_MAX };
      return await this.#streams.newStream(protocol, signal === undefined ? limits : { ...limits, signal });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof Error && error.name === "UnsupportedProtocolError") {
        const detail = { code: "NETWORK_NO_PROTOCOL", peer: this.peer, protocol } as const;
        throw new NetworkError(detail, { cause: error });
      }
      throw this.#lost(`could not open ${protocol}`, error);
    }
  }

  #lost(reason: string, cause: unknown): NetworkError {
    return new NetworkError({ code: "NETWORK_LOST", peer: this.peer, reason }, { cause });
  }
}

async function leave(channel: StreamChannel, timeout: AbortSignal): Promise<void> {
  const { closing } = channel;
  if (closing === undefined) {
    channel.abort(new NetworkError({ code: "NETWORK_CLOSED", peer: channel.peer, what: "connection" }));
    return;
  }
  await new Promise<void>((resolve, reject) => {
    timeout.addEventListener("abort", () => reject(timeout.reason), { once: true });
    closing.then(resolve);
  });
}
