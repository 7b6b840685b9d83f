/**
 * An NBD client that outlives its server, as a hypervisor's does: when the connection is lost, or the server answers
 * ESHUTDOWN (the export is gone or fenced), it connects again, with back-off and without end, and issues again in
 * their order all requests that have no answer. Nothing is ever answered by an error that reconnecting can cure.
 *
 *   connecting ⇄ connected            quiesce, from either: quiesced ──resume──▶ connecting
 *        └───────────┴──close, from any──▶ closed
 *
 * Issuing a write twice is safe: a caller that has no answer cannot know the order of two writes to one block either.
 */
import { NbdClient, type NbdClientOptions } from "./client.ts";
import { type NbdAnswer, NbdCommands, type NbdRequest } from "./client-commands.ts";
import type { NbdExportInfo } from "./client-handshake.ts";
import { NBD_ERRNO } from "./constants.ts";
import { NbdError } from "./errors.ts";
import type { NbdAddress } from "./server.ts";

export type NbdClientState = "connecting" | "connected" | "quiesced" | "closed";

export type NbdStateChange = {
  state: NbdClientState;
  /** Why it is not connected any more, or still not: told once per attempt. */
  error?: NbdError;
};

export type ReconnectingOptions = Omit<NbdClientOptions, "signal"> & {
  /** The first wait after a loss, and the longest. */
  backOffMs?: number;
  backOffMsMax?: number;
  /** The size that the export must have; without it, the size it has at first. */
  sizeBytes?: number;
  onStateChange?: (change: NbdStateChange) => void;
};

type Issued = {
  readonly request: NbdRequest;
  resolve: (answer: NbdAnswer) => void;
  reject: (error: NbdError) => void;
};

export class ReconnectingNbdClient extends NbdCommands {
  readonly #address: NbdAddress;
  readonly #options: ReconnectingOptions;
  /** Without an answer, in the order in which they were issued. */
  readonly #issued = new Set<Issued>();
  #state: NbdClientState = "connecting";
  #client: NbdClient | undefined;
  #info: NbdExportInfo | undefined;
  #sizeBytes: number | undefined;
  /** Losses since the last answer: a server that accepts and refuses at once is not asked in a tight loop. */
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #attempt: AbortController | undefined;
  #idle: (() => void) | undefined;
  #stateWaiters: (() => void)[] = [];

  /** Begins to connect. */
  constructor(address: NbdAddress, options: ReconnectingOptions) {
    super();
    this.#address = address;
    this.#options = options;
    this.#sizeBytes = options.sizeBytes;
    void this.#connect();
  }

  get state(): NbdClientState {
    return this.#state;
  }

  /** Of the last connection. */
  get info(): NbdExportInfo | undefined {
    return this.#info;
  }

  /** What a successor of this client would have to issue, in this order. */
  get unanswered(): readonly NbdRequest[] {
    return [...this.#issued].map(({ request }) => request);
  }

  /** Resolves once connected; rejects with `NBD_CLOSED`. */
  async ready(): Promise<NbdExportInfo> {
    while (this.#state !== "connected") {
      if (this.#state === "closed") throw new NbdError({ code: "NBD_CLOSED" });
      await new Promise<void>((resolve) => this.#stateWaiters.push(resolve));
    }
    return this.#info!;
  }

  submit(request: NbdRequest): Promise<NbdAnswer> {
    if (this.#state === "closed") return Promise.reject(new NbdError({ code: "NBD_CLOSED" }));
    return new Promise((resolve, reject) => {
      const issued = { request, resolve, reject };
      this.#issued.add(issued);
      if (this.#state === "connected") this.#send(this.#client!, issued);
    });
  }

  /**
   * Issues nothing any more, and resolves when the connection is gone: after the answers to what is in flight, or when
   * `signal` asks not to wait for them. What has no answer then is returned, and kept for `resume`.
   */
  async quiesce({ signal }: { signal?: AbortSignal } = {}): Promise<readonly NbdRequest[]> {
    if (this.#state === "closed" || this.#state === "quiesced") return this.unanswered;
    const client = this.#client;
    this.#becomes("quiesced");
    this.#stopConnecting();
    if (client !== undefined) {
      await this.#untilIdle(client, signal);
      if (client.inFlight === 0) await client.disconnect();
      client.destroy();
      if (this.#client === client) this.#client = undefined;
    }
    return this.unanswered;
  }

  /** Connects again, and issues what has no answer. */
  resume(): void {
    if (this.#state !== "quiesced") return;
    this.#failures = 0;
    this.#becomes("connecting");
    void this.#connect();
  }

  /** Rejects what has no answer with `NBD_CLOSED`. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.#becomes("closed");
    this.#stopConnecting();
    const client = this.#client;
    this.#client = undefined;
    const issued = [...this.#issued];
    this.#issued.clear();
    for (const { reject } of issued) reject(new NbdError({ code: "NBD_CLOSED" }));
    if (client !== undefined && client.inFlight === 0) await client.disconnect();
    client?.destroy();
  }

  async #connect(): Promise<void> {
    const attempt = new AbortController();
    this.#attempt = attempt;
    const { exportName, contexts = [] } = this.#options;
    try {
      const client = await NbdClient.connect(this.#address, { exportName, contexts, signal: attempt.signal });
      if (attempt.signal.aborted) client.destroy();
      else this.#connected(client);
    } catch (error) {
      if (attempt.signal.aborted) return;
      if (!(error instanceof NbdError)) throw error;
      this.#retry(error);
    }
  }

  #connected(client: NbdClient): void {
    const { sizeBytes } = client.info;
    const expectedBytes = (this.#sizeBytes ??= sizeBytes);
    if (sizeBytes !== expectedBytes) {
      client.destroy();
      this.#retry(new NbdError({ code: "NBD_SIZE_CHANGED", sizeBytes, expectedBytes }));
      return;
    }
    this.#client = client;
    this.#info = client.info;
    client.onLost((error) => this.#connectionLost(client, error));
    if (this.#client !== client) return;
    this.#becomes("connected");
    for (const issued of [...this.#issued]) {
      if (this.#client === client && this.#state === "connected") this.#send(client, issued);
    }
  }

  #send(client: NbdClient, issued: Issued): void {
    client.submit(issued.request).then(
      (answer) => {
        this.#failures = 0;
        this.#settle(client, issued, () => issued.resolve(answer));
      },
      (error: NbdError) => {
        if (!isCuredByReconnecting(error)) {
          this.#failures = 0;
          this.#settle(client, issued, () => issued.reject(error));
        } else if (error.code === "NBD_REPLY_ERROR") {
          // The export is gone or fenced: its next life may be behind the same name.
          this.#connectionLost(client, error);
          client.destroy();
        }
      },
    );
  }

  #settle(client: NbdClient, issued: Issued, answer: () => void): void {
    // After a close it was rejected already; after a reconnect a late answer of the old connection is not one.
    if (this.#client !== client || !this.#issued.delete(issued)) return;
    answer();
    if (client.inFlight === 0) this.#idle?.();
  }

  #connectionLost(client: NbdClient, error: NbdError): void {
    if (this.#client !== client) return;
    this.#client = undefined;
    this.#idle?.();
    if (this.#state === "connected") this.#retry(error);
  }

  #retry(error: NbdError): void {
    const { backOffMs = 50, backOffMsMax = 2000 } = this.#options;
    this.#becomes("connecting", error);
    if (this.#state !== "connecting") return;
    const delayMs = Math.min(backOffMsMax, backOffMs * 2 ** Math.min(this.#failures, 16));
    this.#failures++;
    this.#timer = setTimeout(() => void this.#connect(), delayMs);
  }

  #stopConnecting(): void {
    clearTimeout(this.#timer);
    this.#attempt?.abort(new NbdError({ code: "NBD_CLOSED" }));
  }

  #untilIdle(client: NbdClient, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const idle = (): void => {
        this.#idle = undefined;
        signal?.removeEventListener("abort", idle);
        resolve();
      };
      this.#idle = idle;
      signal?.addEventListener("abort", idle, { once: true });
      if (client.inFlight === 0 || this.#client !== client || signal?.aborted === true) idle();
    });
  }

  #becomes(state: NbdClientState, error?: NbdError): void {
    this.#state = state;
    this.#options.onStateChange?.(error === undefined ? { state } : { state, error });
    const waiters = this.#stateWaiters;
    this.#stateWaiters = [];
    for (const resolve of waiters) resolve();
  }
}

function isCuredByReconnecting(error: NbdError): boolean {
  if (error.code !== "NBD_REPLY_ERROR") return true;
  return error.detail.code === "NBD_REPLY_ERROR" && error.detail.errno === NBD_ERRNO.ESHUTDOWN;
}
