/**
 * The live stream of a `xen` domain, out of this host.
 *
 *   first pass ──held near its end──freeze──▶ further passes, guest suspended, tail ──▶ xl ended, frozen
 *        ▲                                                                                 │
 *        └───────────────────────────── thaw: another stream ──────────────────────────────┘
 *
 * xl decides itself how many passes it makes (five at most) and suspends the guest after them; it can only be kept
 * from getting there. So its first pass is read up to a little before its end, and not further: the guest runs, and
 * that is what converged means here. `freeze` lets the rest come, which ends with the guest suspended and its state
 * whole. Then xl is ended, see xl-handshake.ts.
 */

import { HypervisorError } from "../errors.ts";
import type { OutgoingMemory } from "../hypervisor.ts";
import { frameHead } from "../stream-frames.ts";
import type { XlMigrate } from "./xl-migrate.ts";
import { XlStreamReader } from "./xl-stream.ts";

type Round = { round: number; remainingBytes: number; converged: boolean };

export type OutgoingParts = {
  memoryBytes: number;
  /** Begins an `xl migrate` of the running domain. */
  begin(): Promise<XlMigrate>;
  /** The suspended guest goes on. */
  resume(): Promise<void>;
  /** Resolves when the suspended guest has no I/O on its way any more. Rejects when it is not suspended. */
  settled(): Promise<void>;
  /** For people: how much the stream was, and how long it took from `freeze` to its end. */
  whole(figures: { passes: number; bytes: number; sinceFreezeMs: number }): void;
  /** What xl said last. */
  lastWords(): Promise<string>;
};

const PAGE_BYTES = 4096;
/** Pages that are not read before the freeze: two records of libxc, and what lies in pipes. */
const HELD_PAGES = 3 * 1024;

export class XenOutgoingMemory implements OutgoingMemory {
  readonly stream: AsyncIterable<Uint8Array>;
  readonly #parts: OutgoingParts;
  readonly #listeners: ((round: Round) => void)[] = [];
  #migrate: XlMigrate;
  #state: "passes" | "freezing" | "frozen" | "cancelled" = "passes";
  #givenBytes = 0;
  #lastRound: Round | undefined;
  #freezingSinceMs = 0;
  /** Resolves when the stream may be read to its end. */
  #released = Promise.withResolvers<void>();
  /** With the length of the stream, once it is whole and xl has ended. */
  #whole = Promise.withResolvers<number>();
  /** Settles when there is another stream to read, or none any more. */
  #further = Promise.withResolvers<void>();

  private constructor(parts: OutgoingParts, migrate: XlMigrate) {
    this.#parts = parts;
    this.#migrate = migrate;
    this.stream = this.#read();
    this.#whole.promise.catch(() => {});
  }

  static async begin(parts: OutgoingParts): Promise<XenOutgoingMemory> {
    return new XenOutgoingMemory(parts, await parts.begin());
  }

  /** Whether it was cancelled: the domain is nobody else's to wait for. */
  get isOver(): boolean {
    return this.#isCancelled();
  }

  onRound(listener: (round: Round) => void): void {
    this.#listeners.push(listener);
    if (this.#lastRound) listener(this.#lastRound);
  }

  async freeze(): Promise<void> {
    if (this.#state === "frozen") return;
    if (this.#state !== "passes") throw badState("freeze", this.#state);
    this.#state = "freezing";
    this.#freezingSinceMs = performance.now();
    this.#released.resolve();
    await this.#whole.promise;
    await this.#parts.settled();
    this.#state = "frozen";
  }

  async ended(): Promise<number> {
    return this.#whole.promise;
  }

  async thaw(): Promise<void> {
    if (this.#state !== "frozen") throw badState("thaw", this.#state);
    await this.#parts.resume();
    this.#whole = Promise.withResolvers();
    this.#whole.promise.catch(() => {});
    this.#released = Promise.withResolvers();
    this.#lastRound = undefined;
    this.#state = "passes";
    this.#migrate = await this.#parts.begin();
    const further = this.#further;
    this.#further = Promise.withResolvers();
    further.resolve();
  }

  async cancel(): Promise<void> {
    if (this.#state === "cancelled") return;
    const isFrozen = this.#state === "frozen";
    this.#state = "cancelled";
    this.#whole.reject(gone("the migration was cancelled"));
    this.#released.resolve();
    this.#further.resolve();
    await this.#migrate.abandon();
    // It came to the end of its stream by itself, and was ended there with the guest suspended.
    if (!isFrozen) await this.#parts.resume();
  }

  async *#read(): AsyncGenerator<Uint8Array> {
    for (let isFirst = true; !this.#isCancelled(); isFirst = false) {
      const further = this.#further;
      if (!isFirst) yield this.#give(frameHead("again"));
      yield* this.#readOne(this.#migrate);
      await further.promise;
    }
  }

  async *#readOne(migrate: XlMigrate): AsyncGenerator<Uint8Array> {
    const reader = new XlStreamReader();
    try {
      for await (const chunk of migrate.stream.iterator({ destroyOnReturn: false })) {
        const data = chunk as Uint8Array;
        reader.push(data);
        yield this.#give(frameHead("data", data.length));
        yield this.#give(data);
        if (reader.isWhole) break;
        await this.#hold(reader);
      }
    } catch (error) {
      // A stream that was given up ends in its midst: what became of it is said below.
      if (error instanceof HypervisorError) this.#whole.reject(error);
    }
    if (reader.isWhole) {
      await migrate.kill();
      const whole = this.#give(frameHead("whole"));
      const sinceFreezeMs =
        this.#state === "freezing" ? Math.round(performance.now() - this.#freezingSinceMs) : 0;
      this.#parts.whole({ passes: reader.progress.pass, bytes: this.#givenBytes, sinceFreezeMs });
      this.#whole.resolve(this.#givenBytes);
      this.#tell({ round: reader.progress.pass, remainingBytes: 0, converged: true });
      yield whole;
    } else if (!this.#isCancelled()) {
      await migrate.abandon();
      const error = gone(`\`xl migrate\` ended: ${await this.#parts.lastWords()}`);
      this.#whole.reject(error);
      throw error;
    }
  }

  async #hold({ progress }: XlStreamReader): Promise<void> {
    const pages = this.#parts.memoryBytes / PAGE_BYTES;
    if (progress.pass === 1 && progress.nextPage < pages - HELD_PAGES) return;
    if (progress.pass === 0 || this.#lastRound !== undefined) return;
    const remainingBytes = Math.max(0, pages - progress.nextPage) * PAGE_BYTES;
    this.#tell({ round: progress.pass, remainingBytes, converged: true });
    await this.#released.promise;
  }

  #tell(round: Round): void {
    this.#lastRound = round;
    for (const listener of this.#listeners) listener(round);
  }

  #give(bytes: Uint8Array): Uint8Array {
    this.#givenBytes += bytes.length;
    return bytes;
  }

  #isCancelled(): boolean {
    return this.#state === "cancelled";
  }
}

function gone(reason: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
}

function badState(operation: string, state: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_STATE", operation, state });
}
