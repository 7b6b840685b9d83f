/** A peer that does not answer at all is lost, however open the socket looks. */

import type { Connection } from "../network/network.ts";

/** Calls `onStall` once the peer has neither answered a ping nor sent a byte for `stallTimeoutMs`. */
export function watchForStall(
  connection: Connection,
  { stallTimeoutMs, onStall }: { stallTimeoutMs: number; onStall: (error: Error) => void },
): { stop(): Promise<void> } {
  const stopped = new AbortController();
  const run = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      const before = connection.bytesReceived();
      try {
        await connection.ping(AbortSignal.any([stopped.signal, AbortSignal.timeout(stallTimeoutMs)]));
      } catch {
        // A ping queues behind what is being sent: on a slow link bytes that arrive are the sign of life.
        const isStalled = connection.bytesReceived() === before;
        if (isStalled && !stopped.signal.aborted) {
          onStall(new Error(`no answer for ${stallTimeoutMs} ms`));
          return;
        }
      }
      await wait(stallTimeoutMs / 4, stopped.signal);
    }
  };
  const running = run();
  return {
    stop: async () => {
      stopped.abort();
      await running;
    },
  };
}

/** Calls `onOver` when something has lasted for `ms`. */
export class Limit {
  readonly #ms: number;
  readonly #onOver: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number, onOver: () => void) {
    this.#ms = ms;
    this.#onOver = onOver;
  }

  /** It lasts, or it is over: the first of several looks that say the same counts. */
  see(lasts: boolean): void {
    if (lasts === (this.#timer !== undefined)) return;
    clearTimeout(this.#timer);
    this.#timer = lasts ? setTimeout(this.#onOver, this.#ms) : undefined;
  }
}

/** Resolves after `ms`, or as soon as the signal is aborted. */
export async function wait(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
