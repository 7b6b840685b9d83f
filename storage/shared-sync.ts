/**
 * Many callers, one disk flush.
 *
 * A flush covers what was written before it began, so a caller that comes while one runs needs another; but all
 * who come meanwhile can share that one. At most one runs and at most one waits.
 */
export class SharedSync {
  readonly #operation: () => Promise<void>;
  #settled: Promise<void> = Promise.resolve();
  #queued: Promise<void> | undefined;

  constructor(operation: () => Promise<void>) {
    this.#operation = operation;
  }

  /** Completes with a run of the operation that began after this call. */
  request(): Promise<void> {
    if (this.#queued !== undefined) return this.#queued;
    const run = this.#settled.then(() => {
      this.#queued = undefined;
      return this.#operation();
    });
    this.#queued = run;
    this.#settled = run.catch(() => {});
    return run;
  }

  /** Completes when nothing runs and nothing waits, however that ended. */
  async idle(): Promise<void> {
    let settled: Promise<void>;
    do {
      settled = this.#settled;
      await settled;
    } while (settled !== this.#settled);
  }
}
