/**
 * Runs one state machine: one event at a time, its effects in order, each begun after the one before it is
 * done. What takes long is only begun by its effect and answers with an event later; a `persist` is awaited.
 * The process may die between any two effects.
 */
import type { Process } from "./process.ts";

export type MachineParts<State, Event, Effect> = {
  process: Process;
  step: (state: State, event: Event) => readonly [State, readonly Effect[]];
  perform: (effect: Effect) => void | Promise<void>;
  changed: (before: State, event: Event, after: State) => void;
  /** An effect threw. Returns the event that the machine should see, if any. */
  failed: (error: unknown, state: State) => Event | undefined;
  /** The machine threw. Honest peers never make it: we are wrong. */
  broken: (error: unknown) => void;
};

export class MachineDriver<State, Event, Effect> {
  readonly #parts: MachineParts<State, Event, Effect>;
  readonly #queue: { event: Event; taken?: (() => void) | undefined }[] = [];
  #running = false;
  state: State;

  constructor(initial: State, parts: MachineParts<State, Event, Effect>) {
    this.state = initial;
    this.#parts = parts;
  }

  /** `taken` is called when the event's turn has come, before its effects. */
  post(event: Event, taken?: () => void): void {
    this.#queue.push({ event, taken });
    if (!this.#running) void this.#run();
  }

  /** Performs effects that belong to a state made outside `step`: a start, or a restore from the journal. */
  async begin(effects: readonly Effect[]): Promise<void> {
    this.#running = true;
    await this.#perform(effects);
    void this.#run();
  }

  async #run(): Promise<void> {
    const { process } = this.#parts;
    this.#running = true;
    // Not in the caller's turn: an effect that answers at once must not overtake its successors.
    await null;
    for (let next = this.#queue.shift(); next !== undefined && process.alive; next = this.#queue.shift()) {
      const { event, taken } = next;
      const before = this.state;
      taken?.();
      let effects: readonly Effect[];
      try {
        [this.state, effects] = this.#parts.step(before, event);
      } catch (error) {
        return this.#parts.broken(error);
      }
      this.#parts.changed(before, event, this.state);
      await this.#perform(effects);
    }
    this.#running = false;
  }

  async #perform(effects: readonly Effect[]): Promise<void> {
    for (const effect of effects) {
      if (!this.#parts.process.point("effect")) return;
      try {
        const done = this.#parts.perform(effect);
        if (done !== undefined) await done;
      } catch (error) {
        const answer = this.#parts.failed(error, this.state);
        if (answer !== undefined) this.#queue.unshift({ event: answer });
        return;
      }
    }
  }
}
