/**
 * Steps a guest and serves its request ring.
 *
 * `stop` is what the handover stands on: once it resolved, no step is run, no request is issued, and no block
 * client exists that could issue one, until `run` is called. A request that nobody answered stays `issued` in
 * the ring and is issued again by whoever runs the guest next, here or elsewhere.
 */

import type { GuestMachine, GuestRequest } from "./guest-machine.ts";
import { BLOCKED } from "./layout.ts";

/** One vbd as the guest reaches it. Operations of a broken link wait; they reject only with the peer's own answer. */
export interface BlockClient {
  read(offset: number, length: number): Promise<Uint8Array>;
  write(offset: number, data: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  trim(offset: number, length: number): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  /** Drops what is in flight, at once. Idempotent. */
  close(): Promise<void>;
}

export type GuestRunnerOptions = {
  machine: GuestMachine;
  /** Opens the vbd of this number. Must not fail for a link that is down: the client waits for it. */
  connect: (vbd: number) => BlockClient;
  /** The guest or what serves it broke: it runs no more. */
  onCrash: (error: Error) => void;
  /** After each step. */
  onStep: () => void;
};

/** Below this a guest that waits for its rate is not woken: a few operations are done at once instead. */
const SLEEP_MS_MIN = 10;
/** How long `stop` waits for writes in flight before it cuts the link under them. */
const DRAIN_MS_MAX = 1000;
/** EIO, where the peer gave no number. */
const ERROR_NUMBER_DEFAULT = 5;

export class GuestRunner {
  readonly #options: GuestRunnerOptions;
  #clients: BlockClient[] = [];
  #running = false;
  /** Counts the runs: an answer that belongs to an earlier one is dropped. */
  #run = 0;
  #steppedAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #changesInFlight = 0;
  #drained: (() => void) | undefined;

  constructor(options: GuestRunnerOptions) {
    this.#options = options;
  }

  get running(): boolean {
    return this.#running;
  }

  run(): void {
    if (this.#running) return;
    const { machine, connect } = this.#options;
    this.#running = true;
    this.#run++;
    this.#changesInFlight = 0;
    this.#clients = Array.from({ length: machine.vbdCount }, (_, vbd) => connect(vbd));
    machine.requeueIssued();
    // Time that passed while the guest stood still is not its time.
    this.#steppedAt = performance.now();
    this.#stepSoon();
  }

  /** Steps no more; waits for what changes a vbd, drops what reads, closes the vbds. */
  async stop(): Promise<void> {
    const wasRunning = this.#running;
    this.#running = false;
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    this.#timer = this.#immediate = undefined;
    if (wasRunning && this.#changesInFlight > 0) await this.#drain();
    this.#run++;
    const clients = this.#clients;
    this.#clients = [];
    // Closed from here on, whatever the server still has to say to the goodbye: that is no part of the downtime.
    for (const client of clients) client.close().catch(() => {});
  }

  /** Steps without waiting for the guest's own time: there is news for it. */
  wake(): void {
    if (this.#running) this.#stepSoon();
  }

  // A write cut off by a closed link may still land later, beside the one issued in its place: harmless while
  // both carry the same bytes, so the wait is a courtesy to the server and may end.
  async #drain(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, DRAIN_MS_MAX);
    this.#drained = resolve;
    await promise;
    this.#drained = undefined;
    clearTimeout(timer);
  }

  #stepSoon(): void {
    if (this.#immediate) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#immediate = setImmediate(() => {
      this.#immediate = undefined;
      this.#step();
    });
  }

  #step(): void {
    const { machine, onCrash, onStep } = this.#options;
    const now = performance.now();
    const elapsedMicros = (now - this.#steppedAt) * 1000;
    this.#steppedAt = now;
    let waitMicros: number;
    try {
      waitMicros = machine.step(elapsedMicros);
      for (const request of machine.takeQueued()) this.#issue(request);
    } catch (error) {
      this.#running = false;
      onCrash(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    onStep();
    if (!this.#running) return;
    if (waitMicros === 0) this.#stepSoon();
    else if (waitMicros < BLOCKED && !this.#immediate) {
      // Rounded up: a timer that fires before the time is worth nothing.
      const waitMs = Math.max(Math.ceil(waitMicros / 1000), SLEEP_MS_MIN);
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#step();
      }, waitMs);
    }
  }

  #issue(request: GuestRequest): void {
    const client = this.#clients[request.vbd];
    if (!client) throw new Error(`no client of vbd ${request.vbd}`);
    const run = this.#run;
    if (request.operation === "read") {
      // Not into guest memory: an answer may come when this guest already runs elsewhere.
      client.read(request.offset, request.length).then(
        (data) => this.#answer(run, request, { data }),
        (error: unknown) => this.#answer(run, request, { errorNumber: errorNumberOf(error) }),
      );
      return;
    }
    this.#changesInFlight++;
    change(client, request).then(
      () => this.#answer(run, request, {}),
      (error: unknown) => this.#answer(run, request, { errorNumber: errorNumberOf(error) }),
    );
  }

  #answer(run: number, request: GuestRequest, answer: { data?: Uint8Array; errorNumber?: number }): void {
    if (run !== this.#run) return;
    const changed = request.operation !== "read";
    if (changed) this.#changesInFlight--;
    // While it stops, only what changed a vbd is still taken: that saves doing it twice.
    if (this.#running || changed) this.#options.machine.answer(request, answer);
    // A guest that sleeps for its rate finds the answer when it wakes: a step per answer would double its CPU.
    if (this.#running && (!this.#timer || this.#options.machine.blocked)) this.#stepSoon();
    if (this.#changesInFlight === 0) this.#drained?.();
  }
}

function change(client: BlockClient, request: GuestRequest): Promise<void> {
  switch (request.operation) {
    case "write":
      return client.write(request.offset, request.data);
    case "trim":
      return client.trim(request.offset, request.length);
    case "zero":
      return client.writeZeroes(request.offset, request.length);
    default:
      return client.flush();
  }
}

/** The number of the peer's error, where it gave one. */
function errorNumberOf(error: unknown): number {
  const detail = error instanceof Error && "detail" in error ? error.detail : undefined;
  const errno = typeof detail === "object" && detail !== null && "errno" in detail ? detail.errno : undefined;
  return typeof errno === "number" && errno > 0 ? errno : ERROR_NUMBER_DEFAULT;
}
