/** Connections for the kernel's NBD client: to an export of ours, or to a placeholder before there is one. */

import { rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { negotiate, OctetReader } from "../../../storage/nbd/client-handshake.ts";
import {
  NBD_CMD,
  NBD_ERRNO,
  NBD_FLAG,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  REQUEST_SIZE_BYTES,
  SIMPLE_REPLY_SIZE_BYTES,
} from "../../../storage/nbd/constants.ts";
import { connectUnix } from "../../connect-unix.ts";
import { badSpec, HypervisorError } from "../errors.ts";
import type { VbdAttachment } from "../hypervisor.ts";

/** A connection to be given to the kernel, which takes a reference of its own. */
export type KernelSocket = {
  fd: number;
  sizeBytes: number;
  flags: number;
  /** Our hold on it. The kernel's, if it took it, stays. */
  release(): void;
};

/** What an export of ours offers, as far as the kernel's client can use it; it may not change later. */
export const DEVICE_FLAGS = NBD_FLAG.HAS_FLAGS | NBD_FLAG.SEND_FLUSH | NBD_FLAG.SEND_FUA | NBD_FLAG.SEND_TRIM;

/** Rejects while there is no such export. */
export async function exportSocket({
  socketPath,
  exportName,
  sizeBytes,
}: VbdAttachment): Promise<KernelSocket> {
  const socket = await connectUnix(socketPath);
  try {
    const reader = new OctetReader(socket);
    const info = await negotiate({ socket, reader }, { exportName, contexts: [], structuredReplies: false });
    reader.release();
    if (info.sizeBytes !== sizeBytes) {
      const reason = `vbd ${exportName} has ${info.sizeBytes} bytes, not ${sizeBytes}`;
      throw badSpec("vbds", reason);
    }
    return kernelSocket(socket, sizeBytes);
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/**
 * For a domain that is being received: its vbd must be there as a device before it is there as an export. Reads as
 * zeroes (somebody may look for partitions), and takes no write. `path` is used for as long as this takes.
 */
export async function placeholderSocket(
  path: string,
  { sizeBytes }: { sizeBytes: number },
): Promise<{ socket: KernelSocket; end(): void }> {
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer((socket) => accepted.resolve(socket));
  await rm(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  try {
    const socket = await connectUnix(path);
    socket.pause();
    const other = await accepted.promise;
    answerZeroes(other);
    return { socket: kernelSocket(socket, sizeBytes), end: () => other.destroy() };
  } finally {
    server.close();
    await rm(path, { force: true });
  }
}

function answerZeroes(socket: Socket): void {
  socket.on("error", () => {});
  // Neither the guest nor its I/O holds the daemon up.
  socket.unref();
  let rest: Buffer = Buffer.alloc(0);
  socket.on("data", (data) => {
    rest = rest.length === 0 ? data : Buffer.concat([rest, data]);
    while (rest.length >= REQUEST_SIZE_BYTES) {
      const taken = answerOne(socket, rest);
      if (taken === 0) return;
      rest = rest.subarray(taken);
    }
  });
}

/** How many octets it was; 0 when not all of it is there. */
function answerOne(socket: Socket, bytes: Buffer): number {
  const command = bytes.readUInt16BE(6);
  const length = bytes.readUInt32BE(24);
  const payload = command === NBD_CMD.WRITE ? length : 0;
  if (bytes.readUInt32BE(0) !== NBD_REQUEST_MAGIC || command === NBD_CMD.DISC) {
    socket.destroy();
    return 0;
  }
  if (bytes.length < REQUEST_SIZE_BYTES + payload) return 0;
  const isAnswered = command === NBD_CMD.READ || command === NBD_CMD.FLUSH;
  const reply = Buffer.alloc(SIMPLE_REPLY_SIZE_BYTES + (command === NBD_CMD.READ ? length : 0));
  reply.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, 0);
  reply.writeUInt32BE(isAnswered ? 0 : NBD_ERRNO.EPERM, 4);
  bytes.copy(reply, 8, 8, 16);
  socket.write(reply);
  return REQUEST_SIZE_BYTES + payload;
}

function kernelSocket(socket: Socket, sizeBytes: number): KernelSocket {
  // Not public; there is no other way to the descriptor of a connection that Node made.
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) {
    socket.destroy();
    throw new HypervisorError({
      code: "HYPERVISOR_PROCESS_FAILED",
      reason: "a connection has no descriptor",
    });
  }
  return { fd, sizeBytes, flags: DEVICE_FLAGS, release: () => socket.destroy() };
}
