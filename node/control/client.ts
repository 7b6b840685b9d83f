/** A caller's end of the control socket: one connection, any number of calls side by side. */

import { connect, type Socket } from "node:net";
import type { Api, ApiEvent, ApiMethod, ApiResponse } from "./api.ts";
import { ApiError, controlError } from "./errors.ts";
import { LineSplitter } from "./lines.ts";
import { checkSocketPath } from "./socket-path.ts";

/** A list of a thousand domains is about 1 MiB; more than this is not an answer of ours. */
const RESPONSE_LINE_SIZE_MAX = 64 << 20;

export type CallOptions<M extends ApiMethod> = {
  onEvent?: (event: ApiEvent<M>) => void;
  /** Ends the wait, not the work: the daemon learns that its caller left when the client is closed. */
  signal?: AbortSignal;
};

type PendingCall = {
  method: ApiMethod;
  onEvent: (event: unknown) => void;
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
};

export class ControlClient {
  readonly #socket: Socket;
  readonly #lines = new LineSplitter(RESPONSE_LINE_SIZE_MAX);
  readonly #pending = new Map<number, PendingCall>();
  #nextId = 1;
  /** Why no call can be made any more. */
  #ended: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    // A lost connection is reported to every call by "close", whatever came before it.
    socket.on("error", () => undefined);
    socket.on("close", () => this.#end(undefined));
  }

  /** Throws CONTROL_NO_DAEMON or CONTROL_NOT_PERMITTED. */
  static async connect(options: { socketPath: string; signal?: AbortSignal }): Promise<ControlClient> {
    const { socketPath, signal } = options;
    checkSocketPath(socketPath);
    signal?.throwIfAborted();
    const socket = connect(socketPath);
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        socket.destroy();
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      socket.once("connect", () => {
        signal?.removeEventListener("abort", onAbort);
        socket.removeAllListeners("error");
        resolve();
      });
      socket.once("error", (cause: NodeJS.ErrnoException) => {
        signal?.removeEventListener("abort", onAbort);
        reject(connectError(socketPath, cause));
      });
    });
    return new ControlClient(socket);
  }

  /** Rejects with an ApiError: the daemon's own, or CONTROL_CONNECTION_LOST. */
  async call<M extends ApiMethod>(
    method: M,
    params: Api[M]["params"],
    options: CallOptions<M> = {},
  ): Promise<Api[M]["result"]> {
    const { onEvent, signal } = options;
    signal?.throwIfAborted();
    if (this.#ended !== undefined) throw controlError({ code: "CONTROL_CONNECTION_LOST", method });
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      const onAnyEvent = (event: unknown): void => onEvent?.(event as ApiEvent<M>);
      this.#pending.set(id, { method, onEvent: onAnyEvent, resolve, reject });
    });
    const onAbort = (): void => this.#pending.get(id)?.reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#socket.write(`${JSON.stringify({ id, method, params })}\n`);
    try {
      return (await answer) as Api[M]["result"];
    } finally {
      this.#pending.delete(id);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Leaves after what was asked has been sent. What the daemon does meanwhile goes on. Idempotent. */
  async close(): Promise<void> {
    if (this.#socket.closed) return;
    const closed = new Promise<void>((resolve) => this.#socket.once("close", () => resolve()));
    this.#socket.end(() => this.#socket.destroy());
    await closed;
  }

  #read(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) this.#take(JSON.parse(Buffer.from(line).toString()));
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      this.#end(controlError({ code: "CONTROL_BAD_RESPONSE", reason }, { cause }));
    }
  }

  #take(response: ApiResponse): void {
    if (response.id === null) {
      this.#end(new ApiError(response.error));
      return;
    }
    // An answer to a call that was given up.
    const pending = this.#pending.get(response.id);
    if (pending === undefined) return;
    if ("event" in response) deliver(pending, response.event);
    else if ("result" in response) pending.resolve(response.result);
    else pending.reject(new ApiError(response.error));
  }

  #end(reason: Error | undefined): void {
    this.#ended ??= reason ?? new Error("the connection is closed");
    this.#socket.destroy();
    for (const { method, reject } of this.#pending.values()) {
      reject(reason ?? controlError({ code: "CONTROL_CONNECTION_LOST", method }));
    }
    this.#pending.clear();
  }
}

/** A listener that throws ends its own call, not the connection. */
function deliver(call: PendingCall, event: unknown): void {
  try {
    call.onEvent(event);
  } catch (cause) {
    call.reject(cause instanceof Error ? cause : new Error(String(cause)));
  }
}

function connectError(socketPath: string, cause: NodeJS.ErrnoException): ApiError {
  if (cause.code === "EACCES" || cause.code === "EPERM") {
    return controlError({ code: "CONTROL_NOT_PERMITTED", socketPath }, { cause });
  }
  const reason = cause.code ?? cause.message;
  return controlError({ code: "CONTROL_NO_DAEMON", socketPath, reason }, { cause });
}
