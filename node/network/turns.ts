/** One piece of work after the other, in the order of the calls. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /**
   * What `work` gives, after everything before it has settled. Rejects with the signal's reason as soon as it
   * fires, so that a caller can leave a queue behind a stalled link; `work` keeps its place and must look at
   * the signal itself.
   */
  run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => undefined);
    return untilAborted(done, signal);
  }

  /** Resolves when nothing that was asked for until now is left. */
  idle(): Promise<void> {
    return this.#last.then(() => undefined);
  }
}

/** The promise, or the signal's reason as soon as it fires. */
export function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort);
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
