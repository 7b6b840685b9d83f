/** The two ends of a memory stream's socket inside a guest process. Each serves one connection, once. */

import { unlinkSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { badStream } from "../errors.ts";
import { MemoryDecoder } from "./memory-stream.ts";

export type StreamPipe = {
  /** Resolves when the reader has room for more; rejects when it is gone. */
  send: (bytes: Buffer) => Promise<void>;
  closed: Promise<void>;
  close: () => void;
};

/** Listens for the reader of an outgoing stream. What is sent before it comes waits for it. */
export async function acceptOne(path: string): Promise<StreamPipe> {
  const one = await listenForOne(path);
  return {
    send: async (bytes) => {
      const socket = await one.socket;
      if (socket.destroyed) throw gone();
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const onClose = (): void => reject(gone());
      socket.once("close", onClose);
      // The callback comes when the kernel took the bytes: no more than one chunk is ever ours.
      socket.write(bytes, () => resolve());
      await promise.finally(() => socket.off("close", onClose));
    },
    closed: one.closed,
    close: one.close,
  };
}

export type IncomingPipe = {
  /** Resolves when exactly that many bytes came and are a whole state; rejects when they cannot become one. */
  loaded: (memoryBytes: number) => Promise<void>;
  readonly totalBytes: number;
  closed: Promise<void>;
  close: () => void;
};

/** Listens for the writer of an incoming stream, and applies what it writes as it comes. */
export async function receiveMemory({
  path,
  memory,
  onData,
}: {
  path: string;
  memory: Buffer;
  /** Before what came changes the memory. */
  onData: () => void;
}): Promise<IncomingPipe> {
  const decoder = new MemoryDecoder(memory);
  const one = await listenForOne(path);
  let failure: Error | undefined;
  let changed = Promise.withResolvers<void>();
  const notify = (): void => {
    changed.resolve();
    changed = Promise.withResolvers<void>();
  };
  void one.socket.then(
    (socket) =>
      socket.on("data", (data: Buffer) => {
        try {
          onData();
          if (!failure) decoder.push(data);
        } catch (error) {
          failure = error as Error;
          // Drained, not closed: the writer shall hear the reason from `loaded`, not meet a broken pipe.
        }
        notify();
      }),
    () => {},
  );
  void one.closed.then(() => {
    failure ??= badStream("it ended too early");
    notify();
  });
  return {
    loaded: async (memoryBytes) => {
      while (!failure && decoder.totalBytes < memoryBytes) await changed.promise;
      if (failure && !(decoder.isWhole && decoder.totalBytes === memoryBytes)) throw failure;
      if (decoder.totalBytes > memoryBytes) throw badStream("it is longer than was said");
      if (!decoder.isWhole) throw badStream("it ends in its midst");
    },
    get totalBytes() {
      return decoder.totalBytes;
    },
    closed: one.closed,
    close: one.close,
  };
}

type One = { socket: Promise<Socket>; closed: Promise<void>; close: () => void };

async function listenForOne(path: string): Promise<One> {
  const accepted = Promise.withResolvers<Socket>();
  const closed = Promise.withResolvers<void>();
  accepted.promise.catch(() => {});
  const server: Server = createServer((socket) => {
    server.close();
    socket.on("error", () => socket.destroy());
    // An outgoing stream's reader sends nothing, but its end is only seen by one that reads.
    socket.resume();
    socket.once("end", () => socket.destroy());
    socket.once("close", () => closed.resolve());
    accepted.resolve(socket);
  });
  server.maxConnections = 1;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  const close = (): void => {
    server.close();
    accepted.reject(gone());
    void accepted.promise.then(
      (socket) => socket.destroy(),
      () => closed.resolve(),
    );
  };
  void accepted.promise.then(
    () => unlinkQuietly(path),
    () => unlinkQuietly(path),
  );
  return { socket: accepted.promise, closed: closed.promise, close };
}

function unlinkQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Closing the server may have removed it before us.
  }
}

function gone(): Error {
  return new Error("the stream's other end is gone");
}
