/** One direction of an in-memory channel: frames in order, at most a window of bytes ahead of the reader. */

import { FRAME_HEADER_SIZE } from "./framing.ts";
import { untilAborted } from "./turns.ts";

export class MemoryLane {
  readonly #windowSizeBytes: number;
  readonly #onSent: (sizeBytes: number) => void;
  readonly #frames: Uint8Array[] = [];
  #sizeBytes = 0;
  #ended = false;
  #failure: { reader: Error; writer: Error } | undefined;
  #changed = Promise.withResolvers<void>();

  constructor(windowSizeBytes: number, onSent: (sizeBytes: number) => void) {
    this.#windowSizeBytes = windowSizeBytes;
    this.#onSent = onSent;
  }

  async push(frame: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    while (this.#failure === undefined && this.#sizeBytes >= this.#windowSizeBytes) {
      await untilAborted(this.#changed.promise, signal);
    }
    if (this.#failure !== undefined) throw this.#failure.writer;
    this.#frames.push(frame);
    this.#sizeBytes += frame.byteLength;
    this.#onSent(frame.byteLength + FRAME_HEADER_SIZE);
    this.#notify();
  }

  /** The next frame; undefined after the writer's end. */
  async next(signal: AbortSignal | undefined): Promise<Uint8Array | undefined> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined) {
        this.#sizeBytes -= frame.byteLength;
        this.#notify();
        return frame;
      }
      if (this.#ended) return undefined;
      if (this.#failure !== undefined) throw this.#failure.reader;
      await untilAborted(this.#changed.promise, signal);
    }
  }

  end(): void {
    if (this.#failure !== undefined) throw this.#failure.writer;
    this.#ended = true;
    this.#notify();
  }

  fail(failure: { reader: Error; writer: Error }): void {
    this.#failure ??= failure;
    this.#notify();
  }

  clear(): void {
    this.#frames.length = 0;
    this.#sizeBytes = 0;
    this.#ended = false;
  }

  #notify(): void {
    const changed = this.#changed;
    this.#changed = Promise.withResolvers<void>();
    changed.resolve();
  }
}
