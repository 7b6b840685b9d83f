/**
 * An NBD client: one connection, any number of requests on their way.
 *
 * Requests that are unanswered when the connection ends are rejected with `NBD_CONNECTION_LOST`; whether they were done is
 * unknown. `ReconnectingNbdClient` is the one that issues them again.
 */
import { connect, type Socket } from "node:net";
import { encodeRequest } from "./client-codec.ts";
import { type NbdAnswer, NbdCommands, type NbdRequest } from "./client-commands.ts";
import { type NbdExportInfo, negotiate, OctetReader } from "./client-handshake.ts";
import { type PendingReply, ReplyReader } from "./client-replies.ts";
import { NBD_CMD } from "./constants.ts";
import { NbdError } from "./errors.ts";
import type { StatusExtent } from "./metadata-contexts.ts";
import type { NbdAddress } from "./server.ts";

export type NbdClientOptions = {
  exportName: string;
  /** Metadata contexts to select; those that the server lacks are left out of `info.contexts`. */
  contexts?: readonly string[];
  signal?: AbortSignal;
};

type Pending = PendingReply & {
  resolve: (answer: NbdAnswer) => void;
  reject: (error: NbdError) => void;
};

export class NbdClient extends NbdCommands {
  readonly info: NbdExportInfo;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #nextCookie = 1;
  #lost: NbdError | undefined;
  #onLost: ((error: NbdError) => void) | undefined;

  private constructor(socket: Socket, info: NbdExportInfo) {
    super();
    this.#socket = socket;
    this.info = info;
  }

  /**
   * Fails with `NBD_CONNECTION_LOST` (nobody listens, or gone), `NBD_EXPORT_UNKNOWN`, `NBD_OPTION_REFUSED` or
   * `NBD_PROTOCOL`; with the signal's reason when that ends the wait.
   */
  static async connect(address: NbdAddress, options: NbdClientOptions): Promise<NbdClient> {
    const { exportName, contexts = [], signal } = options;
    signal?.throwIfAborted();
    const socket = await openSocket(address, signal);
    // The negotiation waits for octets: without the socket, it ends.
    const abort = (): void => void socket.destroy();
    signal?.addEventListener("abort", abort, { once: true });
    const reader = new OctetReader(socket);
    try {
      const info = await negotiate({ socket, reader }, { exportName, contexts });
      signal?.throwIfAborted();
      const client = new NbdClient(socket, info);
      client.#begin(reader.release());
      return client;
    } catch (error) {
      socket.destroy();
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Requests that are not answered. */
  get inFlight(): number {
    return this.#pending.size;
  }

  /** Calls once, after the requests that were in flight have been rejected. At once when it is lost already. */
  onLost(listener: (error: NbdError) => void): void {
    this.#onLost = listener;
    if (this.#lost !== undefined) listener(this.#lost);
  }

  /** The data of a write belongs to the client until the answer. */
  submit(request: NbdRequest): Promise<NbdAnswer> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    return new Promise((resolve, reject) => {
      const { command, flags, offset, length, data } = request;
      const cookie = this.#newCookie();
      const target = command === NBD_CMD.READ ? Buffer.allocUnsafeSlow(length) : undefined;
      const extents = new Map<number, StatusExtent[]>();
      const fields = { command, offset, length, target, receivedBytes: 0, errno: 0, extents };
      this.#pending.set(cookie, { ...fields, resolve, reject });
      const header = encodeRequest({ command, flags, cookie, offset, length });
      if (data === undefined) {
        this.#socket.write(header);
      } else {
        this.#socket.cork();
        this.#socket.write(header);
        this.#socket.write(data);
        this.#socket.uncork();
      }
    });
  }

  /**
   * Says goodbye and closes. Await the answers first: what is in flight is lost. The server's own goodbye is not waited
   * for, a suspended export would not say it.
   */
  async disconnect(): Promise<void> {
    if (this.#lost === undefined) {
      const header = { command: NBD_CMD.DISC, flags: 0, cookie: this.#newCookie(), offset: 0, length: 0 };
      await new Promise<void>((resolve) => this.#socket.end(encodeRequest(header), () => resolve()));
    }
    this.destroy();
  }

  /** Drops the connection now. */
  destroy(): void {
    this.#lose(new NbdError({ code: "NBD_CLOSED" }));
  }

  #begin(received: Buffer): void {
    const { structuredReplies } = this.info;
    const find = (high: number, low: number) => (high === 0 ? this.#pending.get(low) : undefined);
    const answered = (pending: Pending, _high: number, low: number) => this.#answered(pending, low);
    const replies = new ReplyReader<Pending>({ find, answered }, { structuredReplies });
    const receive = (bytes: Buffer): void => {
      if (this.#lost !== undefined) return;
      try {
        replies.received(bytes);
      } catch (error) {
        if (!(error instanceof NbdError)) throw error;
        this.#lose(error);
      }
    };
    this.#socket.on("data", receive);
    this.#socket.on("close", () => this.#lose(lostError("closed by the server")));
    if (this.#socket.destroyed || this.#socket.readableEnded) this.#lose(lostError("closed by the server"));
    receive(received);
    this.#socket.resume();
  }

  #answered(pending: Pending, cookie: number): void {
    this.#pending.delete(cookie);
    const { command, errno, target } = pending;
    if (errno !== 0) {
      pending.reject(new NbdError({ code: "NBD_REPLY_ERROR", command, errno }));
      return;
    }
    const extents = new Map<string, StatusExtent[]>();
    for (const [id, found] of pending.extents) {
      const name = this.info.contexts.get(id);
      if (name !== undefined) extents.set(name, found);
    }
    pending.resolve({ data: target, extents });
  }

  #lose(error: NbdError): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    this.#socket.destroy();
    const unanswered = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of unanswered) reject(error);
    this.#onLost?.(error);
  }

  #newCookie(): number {
    do this.#nextCookie = (this.#nextCookie + 1) >>> 0;
    while (this.#pending.has(this.#nextCookie));
    return this.#nextCookie;
  }
}

function openSocket(address: NbdAddress, signal: AbortSignal | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket =
      "unixPath" in address ? connect(address.unixPath) : connect({ host: address.host, port: address.port });
    socket.setNoDelay(true);
    let cause: Error | undefined;
    // For the socket's whole life: the reason is told by "close".
    socket.on("error", (error) => {
      cause = error;
    });
    const abort = (): void => void socket.destroy();
    signal?.addEventListener("abort", abort, { once: true });
    const settled = (settle: () => void): void => {
      signal?.removeEventListener("abort", abort);
      socket.off("close", failed);
      settle();
    };
    const failed = (): void => {
      const reason = cause !== undefined && "code" in cause ? String(cause.code) : "closed";
      settled(() => reject(signal?.aborted === true ? signal.reason : lostError(reason, cause)));
    };
    socket.once("close", failed);
    socket.once("connect", () => settled(() => resolve(socket)));
  });
}

function lostError(reason: string, cause?: Error): NbdError {
  return new NbdError({ code: "NBD_CONNECTION_LOST", reason }, cause === undefined ? {} : { cause });
}
