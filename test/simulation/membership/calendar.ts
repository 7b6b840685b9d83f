/**
 * Virtual time as a ring of slots, for millions of events: adding and taking cost the same however many wait, where
 * a heap pays for each. Events of one slot run in the order in which they were added, so a seed replays alike.
 */

/** Width of a slot. Finer than any latency of the simulated networks. */
const SLOT_MS = 0.25;

const SLOTS = 1 << 20;
/** Slots that are skipped together while nothing waits in them: a small cluster's days are mostly empty. */
const STRETCH = 64;

export class Calendar<Event> {
  nowMs = 0;
  readonly #ring: (Event[] | undefined)[] = new Array(SLOTS).fill(undefined);
  /** How many events wait in each stretch of the ring. */
  readonly #stretches = new Uint32Array(SLOTS / STRETCH);
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
      const index = this.#slot % SLOTS;
      if (index % STRETCH === 0 && this.#stretches[index / STRETCH] === 0) {
        this.#slot = Math.min(last, this.#slot + STRETCH - 1);
        continue;
      }
      const events = this.#ring[index];
      if (events === undefined) continue;
      this.#ring[index] = undefined;
      this.#stretches[Math.floor(index / STRETCH)]! -= events.length;
      this.nowMs = this.#slot * SLOT_MS;
      this.#pending -= events.length;
      for (const event of events) perform(event);
      if (isDone()) return;
    }
    this.nowMs = last * SLOT_MS;
  }

  #put(slot: number, event: Event): void {
    const index = slot % SLOTS;
    this.#stretches[Math.floor(index / STRETCH)]! += 1;
    const events = this.#ring[index];
    if (events === undefined) this.#ring[index] = [event];
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
