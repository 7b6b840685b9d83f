/**
 * Virtual time: a queue of (at, sequence, action) as a binary heap. Nothing waits: `next` jumps to the first
 * action. Equal times run in the order they were scheduled, so a seed always replays alike.
 */
type Entry = { at: number; sequence: number; action: () => void };

export class Clock {
  now = 0;
  #sequence = 0;
  readonly #heap: Entry[] = [];

  after(delayMs: number, action: () => void): void {
    const heap = this.#heap;
    const entry = { at: this.now + delayMs, sequence: this.#sequence++, action };
    let index = heap.push(entry) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (isBefore(heap[parent]!, entry)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = entry;
  }

  /** The first action, with time moved to it; undefined when nothing is scheduled. */
  next(): (() => void) | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return undefined;
    if (first !== last) this.#sink(last);
    this.now = first.at;
    return first.action;
  }

  #sink(entry: Entry): void {
    const heap = this.#heap;
    let index = 0;
    for (let child = 1; child < heap.length; child = 2 * index + 1) {
      const right = heap[child + 1];
      if (right !== undefined && isBefore(right, heap[child]!)) child += 1;
      if (isBefore(entry, heap[child]!)) break;
      heap[index] = heap[child]!;
      index = child;
    }
    heap[index] = entry;
  }
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.sequence < b.sequence);
}
