/** A seeded generator (mulberry32). The simulation draws every decision from it. */
export class Prng {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
    // Neighbouring seeds begin alike; after a few draws they do not.
    for (let i = 0; i < 4; i++) this.u32();
  }

  /** Uniform in [0, 2^32). */
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** Uniform in [min, max], both included. */
  between(min: number, max: number): number {
    return min + (this.u32() % (max - min + 1));
  }

  chance(percent: number): boolean {
    return this.perMille(percent * 10);
  }

  perMille(count: number): boolean {
    return this.u32() % 1000 < count;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.u32() % items.length]!;
  }
}
