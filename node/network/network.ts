/**
 * What Sojourn needs of a network. Implementations pass `test/contract/network.contract.ts`.
 *
 * A channel carries whole frames both ways, in order, with back-pressure both ways: `send` resolves when
 * the frame has left our queues for the transport's, and a reader that stops reading stops the sender.
 * Failures are `NetworkError`s, except that an aborted wait rejects with its signal's reason.
 */

export type HostId = string;

export interface Channel {
  readonly peer: HostId;
  readonly protocol: string;
  /**
   * Waits while the transport is full. Rejects once the channel is closed or lost.
   *
   * The parts of a frame are sent one behind the other and never copied together, so they must not change
   * afterwards: they may still be on their way when `send` resolves. Concurrent sends leave in the order of
   * their calls, one at a time; memory is bounded by as many frames as callers wait. A send that is aborted
   * while it waits for the transport may still arrive.
   */
  send(frame: Uint8Array | readonly Uint8Array[], signal?: AbortSignal): Promise<void>;
  /**
   * The peer's frames. Ends only when the peer ended the channel on purpose; a cut connection throws
   * NETWORK_LOST, after the whole frames that still arrived. One reader at a time; a later one goes on
   * where the last one stopped. A frame belongs to the reader and is never touched again.
   */
  frames(signal?: AbortSignal): AsyncGenerator<Uint8Array>;
  /**
   * The end of a pipe: sends every frame of `source`, then ends our side; a source that throws aborts the
   * channel, so that the peer never takes a torn transfer for a whole one.
   */
  readonly sink: (source: FrameSource) => Promise<void>;
  /** Ends our side on purpose; what was sent arrives. The peer may go on sending. */
  close(signal?: AbortSignal): Promise<void>;
  /** Gives the channel up at once; the peer sees it as lost. */
  abort(error: Error): void;
}

export type FrameSource =
  | Iterable<Uint8Array | readonly Uint8Array[]>
  | AsyncIterable<Uint8Array | readonly Uint8Array[]>;

/** One transport connection of its own: its bytes are counted on the socket. */
export interface Connection {
  readonly peer: HostId;
  readonly direction: "inbound" | "outbound";
  open(protocol: string, signal?: AbortSignal): Promise<Channel>;
  /** One round trip through the peer's event loop, in milliseconds. It queues behind what is being sent. */
  ping(signal?: AbortSignal): Promise<number>;
  /** Bytes written to the socket, handshake and framing included. Stays readable after the end. */
  bytesSent(): number;
  bytesReceived(): number;
  /** Calls `listener` once, when the connection is gone for whatever reason; returns how to forget it. */
  onClose(listener: (error: Error | undefined) => void): () => void;
  /** Channels that were not closed before are aborted: the peer must not take them for complete. */
  close(): Promise<void>;
}

/** A handler that throws aborts its channel and nothing else. */
export type ChannelHandler = (channel: Channel, connection: Connection) => void | Promise<void>;

export interface Network {
  readonly self: HostId;
  /** Where this host can be dialled, as multiaddrs with the peer id; none behind a NAT. */
  addresses(): readonly string[];
  /** A connection of its own, never a shared one, over which the peer has answered once. */
  dial(address: string, signal?: AbortSignal): Promise<Connection>;
  /** Connections that are open now, whoever dialled. */
  connections(): readonly Connection[];
  handle(protocol: string, handler: ChannelHandler): Promise<void>;
  start(): Promise<void>;
  /** Aborts what is open, closes every connection and stops listening. */
  stop(): Promise<void>;
}
