/**
 * Calls between the daemon's two processes, over the channel that Node gives a parent and its child.
 *
 * Both ends serve and call. A method is a path into the served object: `metadata.domains.get`. What crosses
 * is copied by the structured clone (bitmaps as bytes, never as objects). When the other process is gone
 * every open call fails with RPC_LOST: a caller that asked for something durable must not take silence for
 * success.
 */

export type RpcPort = {
  post(message: unknown): void;
  onMessage(listener: (message: unknown) => void): void;
  onClose(listener: () => void): void;
};

export class RpcError extends Error {
  readonly code: string;
  readonly detail: unknown;

  constructor(code: string, message: string, options?: ErrorOptions & { detail?: unknown }) {
    super(message, options);
    this.name = "RpcError";
    this.code = code;
    this.detail = options?.detail;
  }
}

type Call = { kind: "call"; id: number; path: readonly string[]; args: readonly unknown[] };
type Answer =
  | { kind: "result"; id: number; value: unknown }
  | { kind: "error"; id: number; code: string; message: string; detail: unknown };
type Notice = { kind: "notice"; name: string; value: unknown };
type RpcMessage = Call | Answer | Notice;

/** An object whose methods (also those of its members) all return promises. */
type Remote<T> = {
  readonly [K in keyof T]: T[K] extends (...args: infer A) => infer R
    ? (...args: A) => Promise<Awaited<R>>
    : Remote<T[K]>;
};

export class Rpc {
  readonly #port: RpcPort;
  readonly #served: object;
  readonly #open = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  readonly #listeners = new Map<string, (value: never) => void>();
  #nextId = 1;
  #closed = false;

  constructor(port: RpcPort, served: object) {
    this.#port = port;
    this.#served = served;
    port.onMessage((message) => this.#receive(message as RpcMessage));
    port.onClose(() => this.#lose());
  }

  /** The other end's object, called as if it were here. */
  remote<T extends object>(path: readonly string[] = []): Remote<T> {
    const call = (): void => undefined;
    return new Proxy(call, {
      get: (_target, name) => {
        // A proxy that is awaited must not look like a promise.
        if (typeof name !== "string" || name === "then") return undefined;
        return this.remote([...path, name]);
      },
      apply: (_target, _self, args: unknown[]) => this.#call(path, args),
    }) as unknown as Remote<T>;
  }

  /** Tells the other end, without an answer. */
  notify(name: string, value: unknown): void {
    if (!this.#closed) this.#port.post({ kind: "notice", name, value } satisfies Notice);
  }

  onNotice<T>(name: string, listener: (value: T) => void): void {
    this.#listeners.set(name, listener as (value: never) => void);
  }

  #call(path: readonly string[], args: readonly unknown[]): Promise<unknown> {
    if (this.#closed) return Promise.reject(lost(path));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#open.set(id, { resolve, reject: (error) => reject(error) });
      this.#port.post({ kind: "call", id, path, args } satisfies Call);
    });
  }

  #receive(message: RpcMessage): void {
    switch (message.kind) {
      case "call":
        void this.#serve(message);
        return;
      case "notice":
        this.#listeners.get(message.name)?.(message.value as never);
        return;
      case "result":
        this.#open.get(message.id)?.resolve(message.value);
        this.#open.delete(message.id);
        return;
      case "error":
        this.#open
          .get(message.id)
          ?.reject(new RpcError(message.code, message.message, { detail: message.detail }));
        this.#open.delete(message.id);
        return;
    }
  }

  async #serve({ id, path, args }: Call): Promise<void> {
    try {
      const value = await invoke(this.#served, path, args);
      if (!this.#closed) this.#port.post({ kind: "result", id, value } satisfies Answer);
    } catch (error) {
      const { code = "INTERNAL", detail } = error as { code?: string; detail?: unknown };
      const message = error instanceof Error ? error.message : String(error);
      if (!this.#closed) this.#port.post({ kind: "error", id, code, message, detail } satisfies Answer);
    }
  }

  #lose(): void {
    this.#closed = true;
    for (const { reject } of this.#open.values()) reject(lost([]));
    this.#open.clear();
  }
}

async function invoke(served: object, path: readonly string[], args: readonly unknown[]): Promise<unknown> {
  let self: unknown = served;
  for (const name of path.slice(0, -1)) self = (self as Record<string, unknown>)[name];
  const method = (self as Record<string, unknown>)[path[path.length - 1]!];
  if (typeof method !== "function") throw new RpcError("RPC_NO_METHOD", `no method ${path.join(".")}`);
  return await method.apply(self, args);
}

function lost(path: readonly string[]): RpcError {
  return new RpcError("RPC_LOST", `the daemon's other process is gone (${path.join(".") || "call open"})`);
}

/** This process's channel to its parent. */
export function parentPort(): RpcPort {
  return {
    post: (message) => process.send?.(message),
    onMessage: (listener) => process.on("message", listener),
    onClose: (listener) => process.on("disconnect", listener),
  };
}
