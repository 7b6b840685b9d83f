/**
 * A socket that receives into a buffer which is used again and again.
 *
 * A stream of node allocates 64 KiB for every read; with one static buffer large writes are twice as fast. The option for
 * that (`onread`) exists only for sockets that we construct, so the handle of the accepted socket moves into
 * one of our own. Taking the handle is not public API: where it is not found, plain "data" events do the same, slower.
 *
 * A connection that still negotiates has 4 KiB; it gets the large buffer with its first request, so that a thousand
 * connections half way in the handshake cost nothing.
 */
import { Socket, type SocketConstructorOpts } from "node:net";

const NEGOTIATING_SIZE_BYTES = 4 << 10;

export interface Receiver {
  /** The octets are the receiver's until it returns, or until it resumes a socket that it paused. */
  received(bytes: Buffer, length: number): void;
  readonly receivesPayload: boolean;
}

type SocketWithHandle = { _handle?: object | null };

/** Opens `accepted` (created with `pauseOnConnect`) for `receiver`, and returns the socket to use from now on. */
export function receiveFrom(
  accepted: Socket,
  receiver: Receiver,
  { staticBufferSizeBytes }: { staticBufferSizeBytes: number },
): Socket {
  const handle = (accepted as unknown as SocketWithHandle)._handle;
  if (staticBufferSizeBytes === 0 || handle === undefined || handle === null)
    return receivePlainly(accepted, receiver);

  (accepted as unknown as SocketWithHandle)._handle = null;
  // It has nothing to close any more; this only tells the listening server that it is gone.
  accepted.destroy();
  const small = Buffer.allocUnsafeSlow(NEGOTIATING_SIZE_BYTES);
  let large: Buffer | undefined;
  const options = {
    handle,
    allowHalfOpen: true,
    readable: true,
    writable: true,
    onread: {
      buffer: (): Buffer => {
        if (!receiver.receivesPayload) return small;
        large ??= Buffer.allocUnsafeSlow(staticBufferSizeBytes);
        return large;
      },
      callback: (length: number, bytes: Uint8Array): boolean => {
        receiver.received(bytes as Buffer, length);
        return true;
      },
    },
  };
  const socket = new Socket(options as SocketConstructorOpts);
  socket.resume();
  return socket;
}

function receivePlainly(socket: Socket, receiver: Receiver): Socket {
  socket.on("data", (bytes: Buffer) => receiver.received(bytes, bytes.length));
  socket.resume();
  return socket;
}
