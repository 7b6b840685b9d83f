/**
 * The control socket of a guest process: one JSON request per line, one JSON reply per line, in order. The
 * replies of `migrate-out` are followed by events on the same connection.
 */

import { createServer, type Server, type Socket } from "node:net";
import { connectUnix } from "../../connect-unix.ts";
import { HypervisorError, type HypervisorErrorDetail } from "../errors.ts";

const LINE_BYTES_MAX = 256 * 1024;

export type Json = Record<string, unknown>;
/** `emit` sends further lines on the connection of this request; `closed` settles when it ends. */
export type RequestContext = { emit: (event: Json) => void; closed: Promise<void> };
export type RequestHandler = (request: Json, context: RequestContext) => Promise<Json>;

export function serveControl(path: string, handler: RequestHandler): Promise<Server> {
  const server = createServer((socket) => serveConnection(socket, handler));
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => resolve(server));
  });
}

function serveConnection(socket: Socket, handler: RequestHandler): void {
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  socket.on("error", () => socket.destroy());
  socket.once("close", () => resolve());
  const emit = (event: Json): void => {
    if (socket.writable) socket.write(`${JSON.stringify(event)}\n`);
  };
  let turn = Promise.resolve();
  onLines(socket, (line) => {
    turn = turn.then(async () => emit(await answer(line, handler, { emit, closed })));
  });
}

async function answer(line: string, handler: RequestHandler, context: RequestContext): Promise<Json> {
  try {
    return { ok: true, ...(await handler(JSON.parse(line) as Json, context)) };
  } catch (error) {
    if (error instanceof HypervisorError) return { ok: false, error: error.detail };
    const reason = error instanceof Error ? error.message : String(error);
    return { ok: false, error: { code: "HYPERVISOR_PROCESS_FAILED", reason } };
  }
}

/** A connection to a guest process. Every request in flight rejects when it ends. */
export class ControlConnection {
  readonly #socket: Socket;
  readonly #waiting: { resolve: (reply: Json) => void; reject: (error: Error) => void }[] = [];
  #onEvent: (event: Json) => void = () => {};
  /** Settles when the connection ended, and with it perhaps the process. */
  readonly closed: Promise<void>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => socket.destroy());
    socket.once("close", () => this.#lost());
    onLines(socket, (line) => this.#line(JSON.parse(line) as Json));
  }

  /** Rejects with the system's error where nobody listens. */
  static async connect(path: string): Promise<ControlConnection> {
    return new ControlConnection(await connectUnix(path));
  }

  onEvent(listener: (event: Json) => void): void {
    this.#onEvent = listener;
  }

  request(request: Json): Promise<Json> {
    if (this.#socket.destroyed) return Promise.reject(lost());
    this.#socket.write(`${JSON.stringify(request)}\n`);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  close(): void {
    this.#socket.destroy();
  }

  #line(reply: Json): void {
    if ("event" in reply) {
      this.#onEvent(reply);
      return;
    }
    const waiting = this.#waiting.shift();
    if (reply.ok === true) waiting?.resolve(reply);
    else waiting?.reject(new HypervisorError(reply.error as HypervisorErrorDetail));
  }

  #lost(): void {
    for (const { reject } of this.#waiting.splice(0)) reject(lost());
  }
}

function lost(): HypervisorError {
  return new HypervisorError({
    code: "HYPERVISOR_PROCESS_FAILED",
    reason: "the guest process closed its control socket",
  });
}

function onLines(socket: Socket, onLine: (line: string) => void): void {
  let rest = "";
  socket.setEncoding("utf8");
  socket.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
    if (rest.length > LINE_BYTES_MAX) socket.destroy();
  });
}
