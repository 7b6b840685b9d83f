/** Sets of many small tuples, in little memory: each known tuple has a number, in the order of discovery. */

/** Open addressing over tuples of a fixed length; a full table is made anew, twice as large. */
export class TupleTable {
  readonly #width: number;
  #tuples: Uint32Array;
  /** Number of the tuple, plus one; 0: free. */
  #slots: Uint32Array;
  #size = 0;

  constructor(width: number) {
    this.#width = width;
    this.#tuples = new Uint32Array(width << 12);
    this.#slots = new Uint32Array(1 << 13);
  }

  get size(): number {
    return this.#size;
  }

  /** The number of `tuple`; a new one is `size` before the call. */
  add(tuple: readonly number[]): number {
    const width = this.#width;
    const mask = this.#slots.length - 1;
    let slot = hashOf(tuple) & mask;
    for (let known = this.#slots[slot]!; known !== 0; known = this.#slots[slot]!) {
      if (this.#equals(known - 1, tuple)) return known - 1;
      slot = (slot + 1) & mask;
    }
    const id = this.#size++;
    if ((id + 1) * width > this.#tuples.length) this.#tuples = grown(this.#tuples);
    this.#tuples.set(tuple, id * width);
    this.#slots[slot] = id + 1;
    if (this.#size * 2 > this.#slots.length) this.#rehash();
    return id;
  }

  #equals(id: number, tuple: readonly number[]): boolean {
    const at = id * this.#width;
    for (let index = 0; index < this.#width; index++) {
      if (this.#tuples[at + index] !== tuple[index]) return false;
    }
    return true;
  }

  #rehash(): void {
    const slots = new Uint32Array(this.#slots.length * 2);
    const mask = slots.length - 1;
    for (let id = 0; id < this.#size; id++) {
      let slot = hashOf(this.#tuples.subarray(id * this.#width, (id + 1) * this.#width)) & mask;
      while (slots[slot] !== 0) slot = (slot + 1) & mask;
      slots[slot] = id + 1;
    }
    this.#slots = slots;
  }
}

function hashOf(tuple: ArrayLike<number>): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < tuple.length; index++) {
    hash = Math.imul(hash ^ tuple[index]!, 0x9e3779b1);
    hash ^= hash >>> 15;
  }
  return hash >>> 0;
}

function grown(array: Uint32Array): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(array.length * 2);
  larger.set(array);
  return larger;
}

/** A list of numbers below 2^32 that only grows. */
export class Numbers {
  #values = new Uint32Array(1 << 12);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  push(value: number): void {
    if (this.#size === this.#values.length) this.#values = grown(this.#values);
    this.#values[this.#size++] = value;
  }

  at(index: number): number {
    return this.#values[index]!;
  }

  all(): Uint32Array {
    return this.#values.subarray(0, this.#size);
  }
}
