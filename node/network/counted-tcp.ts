/**
 * @libp2p/tcp, with three things it lacks: a connection knows its socket, so that its bytes can be counted
 * where they leave the host; one `send` is one system call instead of one for each buffer; and a close
 * delivers what was sent before it.
 *
 * The socket is a field of tcp's connection that its types do not mention, and the methods replaced here are
 * those its base class leaves open; `test/node/network` guards both.
 */

import { once } from "node:events";
import { Socket } from "node:net";
import type { AbortOptions, MultiaddrConnection, Transport, Upgrader } from "@libp2p/interface";
import { type TCPComponents, type TCPOptions, tcp } from "@libp2p/tcp";
import type { Uint8ArrayList } from "uint8arraylist";
import { assert } from "../../protocol/errors.ts";

/** What tcp's connection has beyond its public interface. */
type TcpConnection = MultiaddrConnection & {
  socket: unknown;
  onData(data: Uint8Array): void;
  sendData(data: Uint8ArrayList): { sentBytes: number; canSendMore: boolean };
  sendClose(options?: AbortOptions): Promise<void>;
};

/**
 * The socket under each connection. An upgraded connection and the raw one below it share one timeline object,
 * for inbound and outbound ones alike, and nothing else that libp2p shows of both.
 */
const sockets = new WeakMap<object, Socket>();

export function socketOf(connection: { timeline: object }): Socket {
  const socket = sockets.get(connection.timeline);
  assert(socket !== undefined, "a connection that did not come from countedTcp");
  return socket;
}

export type CountedTcpOptions = TCPOptions & {
  /** Told why an upgrade failed: libp2p itself passes on no more than a text. */
  onUpgradeFailed?: (raw: MultiaddrConnection, error: unknown) => Error;
  /** Told why a connection from outside did not come about. */
  onInboundFailed?: (raw: MultiaddrConnection, error: unknown) => void;
};

export function countedTcp(options: CountedTcpOptions = {}): (components: TCPComponents) => Transport {
  const { onUpgradeFailed, onInboundFailed, ...tcpOptions } = options;
  const listeners = { onUpgradeFailed, onInboundFailed };
  return (components) => {
    const transport = tcp(tcpOptions)(components);
    const dial = transport.dial.bind(transport);
    const createListener = transport.createListener.bind(transport);
    transport.dial = (address, dialOptions) =>
      dial(address, { ...dialOptions, upgrader: counting(dialOptions.upgrader, listeners) });
    transport.createListener = (listenOptions) =>
      createListener({ ...listenOptions, upgrader: counting(listenOptions.upgrader, listeners) });
    return transport;
  };
}

type Listeners = {
  onUpgradeFailed: CountedTcpOptions["onUpgradeFailed"];
  onInboundFailed: CountedTcpOptions["onInboundFailed"];
};

function counting(upgrader: Upgrader, { onUpgradeFailed, onInboundFailed }: Listeners): Upgrader {
  return {
    upgradeInbound: async (raw, options) => {
      try {
        await upgrader.upgradeInbound(tuned(raw), options);
      } catch (error) {
        onInboundFailed?.(raw, error);
        throw error;
      }
    },
    upgradeOutbound: async (raw, options) => {
      try {
        return await upgrader.upgradeOutbound(tuned(raw), options);
      } catch (error) {
        throw onUpgradeFailed?.(raw, error) ?? error;
      }
    },
    createInboundAbortSignal: (signal) => upgrader.createInboundAbortSignal(signal),
    getConnectionEncrypters: () => upgrader.getConnectionEncrypters(),
    getStreamMuxers: () => upgrader.getStreamMuxers(),
  };
}

function tuned(raw: MultiaddrConnection): MultiaddrConnection {
  const connection = raw as TcpConnection;
  const { socket } = connection;
  assert(socket instanceof Socket, "@libp2p/tcp no longer shows its socket");
  sockets.set(raw.timeline, socket);
  connection.sendData = (data) => writeAll(socket, data);
  closeOrderly(connection, socket);
  return raw;
}

/** A frame is a header, a few ciphertexts and their tags: together they are one writev. */
export function writeAll(socket: Socket, data: Uint8ArrayList): { sentBytes: number; canSendMore: boolean } {
  let sentBytes = 0;
  socket.cork();
  try {
    for (const buffer of data) {
      sentBytes += buffer.byteLength;
      socket.write(buffer);
    }
  } finally {
    socket.uncork();
  }
  return { sentBytes, canSendMore: !socket.writableNeedDrain };
}

/**
 * Stock tcp loses what was sent last, twice over: a late window update makes the muxer answer on a closing
 * connection, which resets it; and a socket that is closed with unread bytes makes the system send a reset,
 * at which the peer throws away what it has not read. So from its close on a connection listens to nobody,
 * but goes on reading until the peer has closed as well.
 */
function closeOrderly(connection: TcpConnection, socket: Socket): void {
  const close = connection.close.bind(connection);
  const onData = connection.onData.bind(connection);
  let leaving = false;
  connection.onData = (data) => {
    if (!leaving) onData(data);
  };
  connection.close = async (options) => {
    leaving = true;
    await close(options);
  };
  connection.sendClose = async ({ signal } = {}) => {
    if (socket.destroyed) return;
    socket.resume();
    socket.end();
    try {
      await once(socket, "close", signal === undefined ? {} : { signal });
    } catch (error) {
      socket.destroy();
      throw error;
    }
  };
}
