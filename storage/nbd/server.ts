/**
 * The NBD server: sockets around the negotiation and the request loop.
 *
 * Memory is bounded whatever the clients do: by the number of connections (of which those that negotiate hold a few KiB and
 * give way, oldest first), by what one connection may hold, and by what all may hold together.
 */
import { chmod, lstat, unlink } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { BufferPool } from "./buffer-pool.ts";
import { NbdConnection } from "./connection.ts";
import { NbdError } from "./errors.ts";
import type { ExportLookup } from "./handshake.ts";

/** Where a server listens, or a client connects. */
export type NbdAddress = { unixPath: string } | { host: string; port: number };

export type NbdLog = {
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
};

export type NbdServerOptions = {
  /** What one connection may hold in buffers, in octets; one request more is let in. */
  inFlightBytesMax: number;
  /** What all connections may hold together; each may still hold 2 MiB when the others have taken it all. */
  heldBytesMax: number;
  connectionsMax: number;
  handshakeTimeoutMs: number;
  /** The static receive buffer of a connection. Zero: plain "data" events, which use no private part of node. */
  receiveBufferSizeBytes: number;
};

export const NBD_SERVER_DEFAULTS: NbdServerOptions = {
  inFlightBytesMax: 16 << 20,
  heldBytesMax: 256 << 20,
  connectionsMax: 256,
  handshakeTimeoutMs: 10_000,
  receiveBufferSizeBytes: 1 << 20,
};

export class NbdServer {
  readonly #exports: ExportLookup;
  readonly #log: NbdLog | undefined;
  readonly #options: NbdServerOptions;
  readonly #pool: BufferPool;
  readonly #listeners = new Map<Server, NbdAddress>();
  /** In the order of their arrival. */
  readonly #connections = new Set<NbdConnection>();
  #closedWaiters: (() => void)[] = [];
  #stopped = false;

  constructor(
    { exports, log }: { exports: ExportLookup; log?: NbdLog },
    options: Partial<NbdServerOptions> = {},
  ) {
    this.#exports = exports;
    this.#log = log;
    this.#options = { ...NBD_SERVER_DEFAULTS, ...options };
    this.#pool = new BufferPool({ heldBytesMax: this.#options.heldBytesMax });
  }

  /** Buffers that requests and replies hold now, in octets. */
  get heldBytes(): number {
    return this.#pool.heldBytes;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /**
   * Listens there too, and returns the address with the port that was chosen. A unix socket is its owner's alone; one that a
   * killed process left behind is replaced, one that answers is `NBD_SOCKET_IN_USE`.
   */
  async listen(address: NbdAddress): Promise<NbdAddress> {
    if ("unixPath" in address) await removeStaleSocket(address.unixPath);
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) =>
      this.#accept(socket),
    );
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.once("listening", resolve);
      if ("unixPath" in address) server.listen(address.unixPath);
      else server.listen({ host: address.host, port: address.port });
    });
    server.on("error", (error) => this.#log?.warn("nbd listener failed", { error: error.message }));
    if ("unixPath" in address) await chmod(address.unixPath, 0o600);
    const bound =
      "unixPath" in address ? address : { host: address.host, port: (server.address() as AddressInfo).port };
    this.#listeners.set(server, bound);
    this.#log?.info("nbd server listens", bound);
    return bound;
  }

  /** Takes no more, lets what is in flight complete, closes every connection. Idempotent. */
  async stop(): Promise<void> {
    this.#stopped = true;
    const listeners = [...this.#listeners.keys()];
    this.#listeners.clear();
    const unlistened = listeners.map(
      (server) => new Promise<void>((resolve) => server.close(() => resolve())),
    );
    for (const connection of [...this.#connections]) connection.close();
    if (this.#connections.size > 0) await new Promise<void>((resolve) => this.#closedWaiters.push(resolve));
    await Promise.all(unlistened);
  }

  #accept(socket: Socket): void {
    if (this.#stopped || !this.#makeRoom()) {
      socket.destroy();
      return;
    }
    // Requests are small and waited for. On a unix socket this does nothing.
    socket.setNoDelay(true);
    const onClosed = (connection: NbdConnection) => this.#forget(connection);
    const parts = { accepted: socket, exports: this.#exports, pool: this.#pool, onClosed };
    this.#connections.add(new NbdConnection(parts, this.#options));
  }

  /** Whoever only negotiates gives way to the next, so that a crowd of them cannot shut others out. */
  #makeRoom(): boolean {
    if (this.#connections.size < this.#options.connectionsMax) return true;
    for (const connection of this.#connections) {
      if (!connection.isNegotiating) continue;
      this.#connections.delete(connection);
      connection.destroy();
      return true;
    }
    this.#log?.warn("nbd connection refused", { connections: this.#connections.size });
    return false;
  }

  #forget(connection: NbdConnection): void {
    this.#connections.delete(connection);
    if (this.#connections.size > 0) return;
    const waiters = this.#closedWaiters;
    this.#closedWaiters = [];
    for (const resolve of waiters) resolve();
  }
}

async function removeStaleSocket(path: string): Promise<void> {
  // Connecting to a plain file is refused like connecting to a dead socket; whatever it is, it is not ours to remove.
  const isSocket = (await lstat(path).catch(() => undefined))?.isSocket() ?? false;
  if (!isSocket) return;
  const refused = await new Promise<string | undefined>((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(undefined);
    });
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "unknown"));
  });
  if (refused === undefined) throw new NbdError({ code: "NBD_SOCKET_IN_USE", path });
  if (refused === "ECONNREFUSED") await unlink(path);
}
