/**
 * What Sojourn needs of a network. Implementations pass `test/contract/network.contract.ts`.
 *
 * A channel carries whole frames both ways, in order, with back-pressure both ways: `send` resolves when
 * the frame has left our queues for the transport's, and a reader that stops reading stops the sender.
 */

export type HostId = string;

export interface Channel {
  readonly peer: HostId;
  /** Waits while the transport is full. Rejects once the channel is closed or lost. */
  send(frame: Uint8Array | readonly Uint8Array[], signal?: AbortSignal): Promise<void>;
  /** The peer's frames. Ends only when the peer ended the channel on purpose; a cut connection throws. */
  frames(signal?: AbortSignal): AsyncGenerator<Uint8Array>;
  /** Ends our side on purpose; what was sent arrives. */
  close(signal?: AbortSignal): Promise<void>;
  /** Gives the channel up at once; the peer sees it as lost. */
  abort(error: Error): void;
}

/** One transport connection of its own: its bytes are counted on the socket. */
export interface Connection {
  readonly peer: HostId;
  open(protocol: string, signal?: AbortSignal): Promise<Channel>;
  bytesSent(): number;
  bytesReceived(): number;
  close(): Promise<void>;
}

export type ChannelHandler = (channel: Channel) => void | Promise<void>;

export interface Network {
  readonly self: HostId;
  /** Where this host listens, as multiaddrs with the peer id. */
  addresses(): readonly string[];
  /** A connection of its own, never a shared one. */
  dial(address: string, signal?: AbortSignal): Promise<Connection>;
  handle(protocol: string, handler: ChannelHandler): Promise<void>;
  start(): Promise<void>;
  stop(): Promise<void>;
}
