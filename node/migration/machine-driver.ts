/**
 * Runs one state machine: one event at a time, its effects in order, each begun after the one before it
 * is done. What takes long (sending, storing, freezing) is only begun by its effect and answers with an
 * event later; a `persist` is awaited. There is no `if` about phases here: those belong in `protocol/`.
 */

import { AssertionFailure } from "../../protocol/errors.ts";

export type MachineParts<State, Event, Effect> = {
  step(state: State, event: Event): readonly [State, readonly Effect[]];
  perform(effect: Effect): void | Promise<void>;
  /** After every step, with its effects begun. */
  changed(state: State, event: Event): void;
  /** A step or an effect threw. Returns the event that the machine should see, if any. */
  failed(error: unknown, state: State): Event | undefined;
};

export class MachineDriver<State, Event, Effect> {
  readonly #parts: MachineParts<State, Event, Effect>;
  #state: State;
  readonly #queue: Event[] = [];
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(initial: State, parts: MachineParts<State, Event, Effect>) {
    this.#state = initial;
    this.#parts = parts;
  }

  get state(): State {
    return this.#state;
  }

  post(event: Event): void {
    if (this.#stopped) return;
    this.#queue.push(event);
    this.#running ??= this.#run();
  }

  /** Performs effects that belong to a state made outside `step`: a start, or a restore from the journal. */
  async begin(effects: readonly Effect[]): Promise<void> {
    for (const effect of effects) await this.#parts.perform(effect);
  }

  /** Resolves when every event posted so far has had its effects. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  /** No further event is taken; resolves when the one in hand is done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#queue.length = 0;
    await this.#running;
  }

  async #run(): Promise<void> {
    // Not in the caller's turn: an effect that answers at once must not overtake its successors.
    await Promise.resolve();
    for (let event = this.#queue.shift(); event !== undefined; event = this.#queue.shift()) {
      const before = this.#state;
      try {
        const [state, effects] = this.#parts.step(before, event);
        this.#state = state;
        for (const effect of effects) {
          const done = this.#parts.perform(effect);
          if (done !== undefined) await done;
        }
        this.#parts.changed(state, event);
      } catch (error) {
        crashIfOurs(error);
        const answer = this.#parts.failed(error, this.#state);
        if (answer !== undefined) this.#queue.unshift(answer);
      }
    }
    this.#running = undefined;
  }
}

/**
 * A broken invariant is our own mistake: nothing that this process believes can be trusted any more. It ends;
 * the journal makes that safe, and the next process begins from there.
 */
export function crashIfOurs(error: unknown): void {
  if (!(error instanceof AssertionFailure)) return;
  process.nextTick(() => {
    throw error;
  });
}
