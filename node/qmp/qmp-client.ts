/**
 * A client of QMP, the QEMU Machine Protocol: one JSON object per line over a unix socket.
 *
 *     ◀── {"QMP": {"version": …}}                          greeting
 *     ──▶ {"execute": "qmp_capabilities", "id": 1}
 *     ◀── {"return": {}, "id": 1}
 *     ──▶ {"execute": …, "arguments": …, "id": n}          in any number; QEMU does them in order
 *     ◀── {"return": …, "id": n} | {"error": …, "id": n}
 *     ◀── {"event": …, "data": …, "timestamp": …}          at any time
 *
 * A QMP socket serves one client at a time: `QmpConnections` shares it among the parts of this process.
 */

import { connect, type Socket } from "node:net";
import { LineSplitter } from "../control/lines.ts";
import type { QmpArguments, QmpCommandName, QmpReturn } from "./commands.ts";
import { QmpError } from "./errors.ts";

/** A list of all block nodes of a large machine has some hundred kilobytes. */
const LINE_SIZE_MAX = 16 * 1024 * 1024;
/** QEMU greets at once, unless it is busy with another client. */
const GREETING_TIMEOUT_MS = 5_000;

export type QmpEvent = {
  event: string;
  data: Readonly<Record<string, unknown>>;
  /** QEMU's clock, milliseconds since 1970. */
  timestampMs: number;
};

export type QmpVersion = { major: number; minor: number; micro: number };

export type QmpConnectOptions = { greetingTimeoutMs?: number; lineSizeMax?: number; signal?: AbortSignal };

type Waiting = { command: string; resolve: (value: unknown) => void; reject: (error: QmpError) => void };
type Listener = (event: QmpEvent) => void;

export class QmpClient {
  readonly path: string;
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Set<Listener>();
  readonly #greeted = Promise.withResolvers<QmpVersion>();
  readonly #lossListeners = new Set<(loss: QmpError) => void>();
  #version: QmpVersion | undefined;
  #loss: QmpError | undefined;
  #errno: string | undefined;
  #nextId = 1;

  private constructor(path: string, socket: Socket, lineSizeMax: number) {
    this.path = path;
    this.#socket = socket;
    const lines = new LineSplitter(lineSizeMax);
    socket.on("data", (chunk) => {
      try {
        for (const line of lines.push(chunk)) this.#take(line);
      } catch (error) {
        this.#lose(new QmpError({ code: "QMP_BAD_PEER", path, reason: reasonOf(error) }, { cause: error }));
      }
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.#errno = error.code;
      this.#ended(error.message);
    });
    socket.once("close", () => this.#ended("QEMU closed it"));
    // Who asks for the version asks before anything is lost.
    this.#greeted.promise.catch(() => {});
  }

  /** Completes when QEMU takes commands. Throws QMP_UNREACHABLE, QMP_BAD_PEER. */
  static async connect(path: string, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const socket = connect(path);
    const client = new QmpClient(path, socket, options.lineSizeMax ?? LINE_SIZE_MAX);
    const timeoutMs = options.greetingTimeoutMs ?? GREETING_TIMEOUT_MS;
    const unreachable = (reason: string): void =>
      client.#lose(new QmpError({ code: "QMP_UNREACHABLE", path, reason, isAbsent: false }));
    const timer = setTimeout(
      () => unreachable(`no greeting within ${timeoutMs} ms; another client may hold it`),
      timeoutMs,
    );
    const aborted = (): void => unreachable("the attempt was given up");
    options.signal?.addEventListener("abort", aborted, { once: true });
    try {
      options.signal?.throwIfAborted();
      client.#version = await client.#greeted.promise;
      await client.execute("qmp_capabilities");
      return client;
    } catch (error) {
      client.close();
      if (error instanceof QmpError && error.code !== "QMP_CLOSED") throw error;
      const isAbsent = ["ENOENT", "ECONNREFUSED"].includes(client.#errno ?? "");
      const reason = reasonOf(error);
      throw new QmpError({ code: "QMP_UNREACHABLE", path, reason, isAbsent }, { cause: error });
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", aborted);
    }
  }

  /** Of QEMU, as it greeted. */
  get version(): QmpVersion {
    return this.#version!;
  }

  get isClosed(): boolean {
    return this.#loss !== undefined;
  }

  /**
   * Has QEMU do a command. Throws QMP_ERROR with QEMU's own text when it does not, and QMP_CLOSED when the
   * connection ends first: then nobody knows whether it did.
   */
  execute<Name extends QmpCommandName>(command: Name, ...args: QmpArguments<Name>): Promise<QmpReturn<Name>> {
    if (this.#loss !== undefined) return Promise.reject(this.#closedDuring(command));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { command, resolve: (value) => resolve(value as QmpReturn<Name>), reject });
      const request = { execute: command, ...(args.length > 0 ? { arguments: args[0] } : {}), id };
      this.#socket.write(`${JSON.stringify(request)}\n`);
    });
  }

  /** Calls `listener` with every event, in QEMU's order and before the reply that follows it. Returns the way out. */
  onEvent(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls `listener` once when the connection ends, at once when it has. Returns the way out. */
  onLoss(listener: (loss: QmpError) => void): () => void {
    if (this.#loss !== undefined) listener(this.#loss);
    else this.#lossListeners.add(listener);
    return () => this.#lossListeners.delete(listener);
  }

  /**
   * The next event of that name which `matches`. To be called before the command that leads to it, so that
   * it cannot be missed. Rejects with QMP_CLOSED when the connection ends, and with the signal's reason.
   */
  nextEvent(
    name: string,
    { matches, signal }: { matches?: (data: QmpEvent["data"]) => boolean; signal?: AbortSignal } = {},
  ): Promise<QmpEvent> {
    const { promise, resolve, reject } = Promise.withResolvers<QmpEvent>();
    const aborted = (): void => reject(signal?.reason);
    const remove = this.onEvent((event) => {
      if (event.event === name && (matches === undefined || matches(event.data))) resolve(event);
    });
    if (signal?.aborted) aborted();
    signal?.addEventListener("abort", aborted, { once: true });
    const removeLoss = this.onLoss(() => reject(this.#closedDuring(`the wait for ${name}`)));
    return promise.finally(() => {
      remove();
      removeLoss();
      signal?.removeEventListener("abort", aborted);
    });
  }

  /** Ends the connection; QEMU goes on. Idempotent. */
  close(): void {
    this.#ended("we closed it");
  }

  #take(line: Uint8Array): void {
    const message: unknown = JSON.parse(Buffer.from(line).toString("utf8"));
    if (!isObject(message)) throw new Error("a line is not an object");
    if (isObject(message.QMP)) this.#greeted.resolve(versionOf(message.QMP));
    else if (typeof message.event === "string") this.#emit(eventOf(message.event, message));
    else this.#settle(message);
  }

  #settle(message: Record<string, unknown>): void {
    const error = message.error;
    const id = message.id;
    const waiting = typeof id === "number" ? this.#waiting.get(id) : undefined;
    // Without an id QEMU could not read what we sent.
    if (waiting === undefined) throw new Error(`a reply to nothing: ${JSON.stringify(error ?? null)}`);
    this.#waiting.delete(id as number);
    const { command } = waiting;
    if (isObject(error)) {
      const detail = { class: String(error.class), description: String(error.desc) };
      waiting.reject(new QmpError({ code: "QMP_ERROR", command, ...detail }));
    } else waiting.resolve(message.return);
  }

  #emit(event: QmpEvent): void {
    for (const listener of [...this.#listeners]) listener(event);
  }

  #ended(reason: string): void {
    this.#lose(new QmpError({ code: "QMP_CLOSED", path: this.path, operation: "the connection", reason }));
  }

  #lose(loss: QmpError): void {
    if (this.#loss !== undefined) return;
    this.#loss = loss;
    this.#socket.destroy();
    this.#greeted.reject(loss);
    for (const { command, reject } of this.#waiting.values()) reject(this.#closedDuring(command));
    this.#waiting.clear();
    for (const listener of this.#lossListeners) listener(loss);
    this.#lossListeners.clear();
  }

  #closedDuring(operation: string): QmpError {
    const loss = this.#loss!;
    if (loss.detail.code !== "QMP_CLOSED") return loss;
    return new QmpError({ ...loss.detail, operation }, { cause: loss });
  }
}

function eventOf(event: string, message: Record<string, unknown>): QmpEvent {
  const { data, timestamp } = message;
  const stamp = isObject(timestamp) ? timestamp : {};
  const timestampMs = Number(stamp.seconds) * 1000 + Number(stamp.microseconds) / 1000;
  return { event, data: isObject(data) ? data : {}, timestampMs };
}

function versionOf(greeting: Record<string, unknown>): QmpVersion {
  const version = isObject(greeting.version) ? greeting.version : {};
  const qemu = isObject(version.qemu) ? version.qemu : {};
  const numberOf = (field: string): number => Number(qemu[field] ?? 0);
  return { major: numberOf("major"), minor: numberOf("minor"), micro: numberOf("micro") };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function reasonOf(error: unknown): string {
  if (error instanceof QmpError && "reason" in error.detail) return error.detail.reason;
  return error instanceof Error ? error.message : String(error);
}
