/**
 * Virtual time as a ring of slots, for millions of events: adding and taking cost the same however many wait, where
 * a heap pays for each. Events of one slot run in the order in which they were added, so a seed replays alike.
 */

/** Width of a slot. Finer than any latency of the simulated networks. */
const SLOT_MS = 0.25;

const SLOTS = 1 << 20;

export class Calendar<Event> {
  nowMs = 0;
  readonly #ring: (Event[] | undefined)[] = new Array(SLOTS).fill(undefined);
  /** Beyond the ring; looked through twice in each of its turns. */
  #far: { slot: number; event: Event }[] = [];
  #slot = 0;
  #pending = 0;

  get pending(): number {
    return this.#pending;
  }

  after(delayMs: number, event: Event): void {
    // Never the slot that is running: an event must not see effects of its own time twice.
    const slot = Math.max(this.#slot + 1, Math.ceil((this.nowMs + delayMs) / SLOT_MS));
    this.#pending += 1;
    if (slot - this.#slot >= SLOTS) this.#far.push({ slot, event });
    else this.#put(slot, event);
  }

  /** Runs everything that is due within `durationMs`, until `isDone`, which is asked after each slot with events. */
  run(durationMs: number, perform: (event: Event) => void, isDone: () => boolean = () => false): void {
    const last = Math.floor((this.nowMs + durationMs) / SLOT_MS);
    while (this.#slot < last) {
      this.#slot += 1;
      if (this.#slot % (SLOTS / 2) === 0) this.#bringNear();
      const events = this.#ring[this.#slot % SLOTS];
      if (events === undefined) continue;
      this.#ring[this.#slot % SLOTS] = undefined;
      this.nowMs = this.#slot * SLOT_MS;
      this.#pending -= events.length;
      for (const event of events) perform(event);
      if (isDone()) return;
    }
    this.nowMs = last * SLOT_MS;
  }

  #put(slot: number, event: Event): void {
    const events = this.#ring[slot % SLOTS];
    if (events === undefined) this.#ring[slot % SLOTS] = [event];
    else events.push(event);
  }

  #bringNear(): void {
    const far = this.#far;
    this.#far = [];
    for (const { slot, event } of far) {
      if (slot - this.#slot < SLOTS) this.#put(slot, event);
      else this.#far.push({ slot, event });
    }
  }
}
