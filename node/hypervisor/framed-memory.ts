/** A live stream into this host whose hypervisor's own bytes come in frames, see stream-frames.ts. */

import { badStream } from "./errors.ts";
import type { IncomingMemory } from "./hypervisor.ts";
import { FrameReader } from "./stream-frames.ts";

/** What builds the domain from the hypervisor's own stream. What it rejects with says what the hypervisor said. */
export type StreamTaker = {
  /** Resolves when it was taken: the hypervisor's back-pressure. */
  pass(data: Uint8Array): Promise<void>;
  /** What came so far is to be forgotten: another stream begins. */
  again(): Promise<void>;
  /** The stream is whole: resolves when the domain is, and can be resumed. */
  finish(): Promise<void>;
  /** Ends what there is of the domain. Idempotent. */
  discard(): Promise<void>;
  /** As an `IncomingMemory`'s. */
  onLoss?(listener: () => void): void;
  isLost?(): boolean;
};

export class FramedIncomingMemory implements IncomingMemory {
  readonly #taker: StreamTaker;
  readonly #frames = new FrameReader();
  #takenBytes = 0;
  #isWhole = false;
  #failure: Error | undefined;
  #changed = Promise.withResolvers<void>();

  constructor(taker: StreamTaker) {
    this.#taker = taker;
  }

  /** What follows a failure is refused; the failure itself is for `loaded` to tell. */
  async write(data: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      for (const part of this.#frames.push(data)) {
        if (part.type === "data") await this.#pass(part.data);
        else if (part.type === "again") await this.#again();
        else this.#isWhole = true;
      }
    } catch (error) {
      await this.#fail(error as Error);
    }
    this.#takenBytes += data.length;
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  async loaded(memoryBytes: number): Promise<void> {
    while (this.#failure === undefined && this.#takenBytes < memoryBytes) await this.#changed.promise;
    if (this.#failure === undefined && this.#takenBytes > memoryBytes) {
      await this.#fail(badStream("it is longer than was said"));
    }
    if (this.#failure === undefined && !this.#isWhole) await this.#fail(badStream("it ends in its midst"));
    if (this.#failure !== undefined) throw this.#failure;
    try {
      await this.#taker.finish();
    } catch (error) {
      await this.#fail(error as Error);
      throw this.#failure ?? error;
    }
  }

  async discard(): Promise<void> {
    this.#failure ??= badStream("it was discarded");
    this.#changed.resolve();
    await this.#taker.discard();
  }

  onLoss(listener: () => void): void {
    this.#taker.onLoss?.(listener);
  }

  isLost(): boolean {
    return this.#taker.isLost?.() ?? false;
  }

  async #pass(data: Uint8Array): Promise<void> {
    if (this.#isWhole) throw badStream("it goes on after its end");
    await this.#taker.pass(data);
  }

  async #again(): Promise<void> {
    this.#isWhole = false;
    await this.#taker.again();
  }

  /** Half a state is of no use to anyone: what holds it ends, and nobody can resume it. */
  async #fail(error: Error): Promise<void> {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    await this.#taker.discard();
  }
}
