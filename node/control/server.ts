/**
 * The daemon's end of the control socket: newline-delimited JSON over a unix socket of its owner (0600).
 *
 *   client: {"id":1,"method":"migrate","params":{…}}
 *   server: {"id":1,"event":{…}} … then {"id":1,"result":{…}} or {"id":1,"error":{…}}
 *
 * Requests on one connection run side by side. What cannot be read as a request is answered once and
 * ends the connection; an unknown method or bad parameters only end the request. A handler's caller may
 * leave at any time: the handler's signal says so, and what it had started elsewhere goes on.
 */

import { chmod, lstat, mkdir, unlink } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { nodeErrorOf } from "../errors.ts";
import type { Log } from "../log.ts";
import {
  type ApiErrorBody,
  type ApiHandlers,
  type ApiMethod,
  type ApiRequest,
  type ApiResponse,
  REQUEST_LINE_SIZE_MAX,
} from "./api.ts";
import { ApiError, controlError } from "./errors.ts";
import { LineSplitter, LineTooLong } from "./lines.ts";
import { apiParams, explainIssues, isApiMethod } from "./params.ts";
import { checkSocketPath } from "./socket-path.ts";

/** Each holds a handler and its reply; a person needs one, a test harness a few. */
const REQUESTS_PER_CONNECTION_MAX = 64;
const CONNECTIONS_MAX = 256;

/** Answers waiting in one socket, beyond which events are left out: a reader that sleeps must not cost memory. */
const UNREAD_SIZE_MAX = 1 << 20;

/** How long an ending connection waits for its client to read the last answers. */
const CLOSE_GRACE_MS = 1000;

type ControlLog = Pick<Log, "debug" | "error">;

export class ControlServer {
  readonly #handlers: ApiHandlers;
  readonly #log: ControlLog;
  readonly #socketPath: string;
  readonly #connections = new Set<Connection>();
  #server: Server | undefined;
  #starting: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;

  constructor(parts: { handlers: ApiHandlers; log: ControlLog }, options: { socketPath: string }) {
    this.#handlers = parts.handlers;
    this.#log = parts.log;
    this.#socketPath = options.socketPath;
  }

  /** Throws CONTROL_SOCKET_IN_USE when another daemon answers, CONTROL_BAD_SOCKET_PATH when none can. */
  start(): Promise<void> {
    this.#starting ??= this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    checkSocketPath(this.#socketPath);
    await mkdir(dirname(this.#socketPath), { recursive: true, mode: 0o700 });
    await removeStaleSocket(this.#socketPath);
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
    server.maxConnections = CONNECTIONS_MAX;
    await listen(server, this.#socketPath);
    this.#server = server;
    server.on("error", (cause) => this.#log.error("control socket failed", { reason: cause.message }));
    await chmod(this.#socketPath, 0o600);
  }

  /** Callers that still wait get CONTROL_STOPPING; what handlers had started is their owners' to stop. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    await this.#starting?.catch(() => undefined);
    const server = this.#server;
    if (server === undefined) return;
    // Node removes the socket's file when it closes its listener.
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    await Promise.all([...this.#connections].map((connection) => connection.stop()));
    await closed;
  }

  #accept(socket: Socket): void {
    const connection = new Connection({ socket, handlers: this.#handlers, log: this.#log });
    this.#connections.add(connection);
    void connection.closed.then(() => this.#connections.delete(connection));
  }
}

/** One client: reads its requests, runs their handlers, writes their answers. */
class Connection {
  readonly #socket: Socket;
  readonly #handlers: ApiHandlers;
  readonly #log: ControlLog;
  readonly #lines = new LineSplitter(REQUEST_LINE_SIZE_MAX);
  readonly #gone = new AbortController();
  readonly #running = new Set<Promise<void>>();
  readonly closed: Promise<void>;

  constructor(parts: { socket: Socket; handlers: ApiHandlers; log: ControlLog }) {
    this.#socket = parts.socket;
    this.#handlers = parts.handlers;
    this.#log = parts.log;
    this.closed = new Promise((resolve) => {
      parts.socket.once("close", () => {
        this.#gone.abort(new Error("the caller is gone"));
        resolve();
      });
    });
    parts.socket.on("data", (chunk: Buffer) => this.#read(chunk));
    parts.socket.once("end", () => {
      // A client that ends its side waits for nothing any more: our client never half-closes to listen on.
      this.#gone.abort(new Error("the caller is gone"));
      parts.socket.end();
    });
    parts.socket.on("error", (cause) =>
      this.#log.debug("control connection failed", { reason: cause.message }),
    );
  }

  async stop(): Promise<void> {
    this.#gone.abort(new Error("the daemon stops"));
    await Promise.all(this.#running);
    this.#close();
    await this.closed;
  }

  /** What was answered still reaches a client that reads; one that does not is left after a moment. */
  #close(): void {
    const socket = this.#socket;
    socket.removeAllListeners("data");
    socket.resume();
    const leave = setTimeout(() => socket.destroy(), CLOSE_GRACE_MS);
    socket.once("close", () => clearTimeout(leave));
    socket.end(() => socket.destroy());
  }

  #read(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) {
        if (this.#gone.signal.aborted) return;
        this.#take(parseRequest(line));
      }
    } catch (cause) {
      if (!(cause instanceof ApiError || cause instanceof LineTooLong)) throw cause;
      const error =
        cause instanceof ApiError
          ? cause
          : controlError({ code: "CONTROL_BAD_REQUEST", reason: cause.message });
      this.#send({ id: null, error: error.toBody() });
      this.#gone.abort(error);
      this.#close();
    }
  }

  #take(request: ApiRequest): void {
    if (this.#running.size >= REQUESTS_PER_CONNECTION_MAX) {
      const error = controlError({
        code: "CONTROL_TOO_MANY_REQUESTS",
        requestsMax: REQUESTS_PER_CONNECTION_MAX,
      });
      this.#send({ id: request.id, error: error.toBody() });
      return;
    }
    const running = this.#answer(request).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async #answer({ id, method, params }: ApiRequest): Promise<void> {
    try {
      if (!isApiMethod(method)) throw controlError({ code: "CONTROL_UNKNOWN_METHOD", method });
      this.#send({ id, result: await this.#call(id, method, params) });
    } catch (cause) {
      this.#send({ id, error: this.#errorBody(method, cause) });
    }
  }

  /** Waits for the handler only as long as somebody waits for us. */
  async #call<M extends ApiMethod>(id: number, method: M, given: unknown): Promise<unknown> {
    const parsed = apiParams[method].safeParse(given ?? {});
    if (!parsed.success) {
      throw controlError({ code: "CONTROL_BAD_PARAMS", method, reason: explainIssues(parsed.error) });
    }
    const signal = this.#gone.signal;
    const emit = (event: unknown): void => {
      if (!signal.aborted && this.#socket.writableLength < UNREAD_SIZE_MAX) this.#send({ id, event });
    };
    const stopped = Promise.withResolvers<never>();
    const onAbort = (): void => stopped.reject(controlError({ code: "CONTROL_STOPPING", method }));
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      // In an async function, so that a handler that throws at once is no different from one that rejects.
      const result = (async () => this.#handlers[method](parsed.data, { emit, signal }))();
      return await Promise.race([result, stopped.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #errorBody(method: string, cause: unknown): ApiErrorBody {
    const body = errorBodyOf(cause);
    if (body.code === "INTERNAL") this.#log.error("control handler failed", { method, error: cause });
    return body;
  }

  #send(response: ApiResponse): void {
    if (!this.#socket.writable) return;
    this.#socket.write(`${JSON.stringify(response)}\n`);
  }
}

function parseRequest(line: Uint8Array): ApiRequest {
  const bad = (reason: string, cause?: unknown): ApiError =>
    controlError({ code: "CONTROL_BAD_REQUEST", reason }, { cause });
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(line));
  } catch (cause) {
    throw bad("a line is not JSON", cause);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw bad("a line is not an object");
  const { id, method, params } = value as Record<string, unknown>;
  if (typeof id !== "number" || !Number.isSafeInteger(id)) throw bad("id is not an integer");
  if (typeof method !== "string") throw bad("method is not a string");
  if (method.length > 64) throw bad("method is longer than 64 characters");
  return { id, method, params };
}

function errorBodyOf(cause: unknown): ApiErrorBody {
  const body = nodeErrorOf(cause).toBody();
  return body.detail === undefined ? body : { ...body, detail: plainJson(body.detail) };
}

/** Facts hold block numbers, which may be bigints; what cannot be told must not hide the failure itself. */
function plainJson(detail: object): Record<string, unknown> {
  try {
    return JSON.parse(
      JSON.stringify(detail, (_, value) => (typeof value === "bigint" ? String(value) : value)),
    );
  } catch {
    return {};
  }
}

function listen(server: Server, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause) => {
      reject(controlError({ code: "CONTROL_BAD_SOCKET_PATH", socketPath, reason: cause.message }, { cause }));
    });
    server.listen(socketPath, resolve);
  });
}

/** Removes a socket on which nobody answers; leaves everything else alone and says what it is. */
async function removeStaleSocket(socketPath: string): Promise<void> {
  const found = await lstat(socketPath).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return undefined;
    throw controlError({ code: "CONTROL_BAD_SOCKET_PATH", socketPath, reason: cause.message }, { cause });
  });
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw controlError({
      code: "CONTROL_BAD_SOCKET_PATH",
      socketPath,
      reason: "a file of another kind is there",
    });
  }
  const failure = await probe(socketPath);
  if (failure === undefined) throw controlError({ code: "CONTROL_SOCKET_IN_USE", socketPath });
  if (failure.code === "ENOENT") return;
  if (failure.code !== "ECONNREFUSED") {
    throw controlError(
      { code: "CONTROL_BAD_SOCKET_PATH", socketPath, reason: failure.message },
      { cause: failure },
    );
  }
  await unlink(socketPath);
}

/** Connects and leaves; what went wrong, or undefined when somebody answered. */
function probe(socketPath: string): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once("connect", () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once("error", resolve);
  });
}
