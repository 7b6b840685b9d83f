/** Seeded chance for tests; a failing test prints its seed. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** An integer from 0 to below `limit`. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  }

  chance(probability: number): boolean {
    return this.below(1_000_000) < probability * 1_000_000;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

/** Runs `body` for each seed and names the one that failed. `SEED=n` runs that one alone. */
export async function forSeeds(
  count: number,
  body: (random: Random, seed: number) => Promise<void>,
): Promise<void> {
  const only = process.env.SEED;
  const seeds = only === undefined ? Array.from({ length: count }, (_, seed) => seed) : [Number(only)];
  for (const seed of seeds) {
    try {
      await body(new Random(seed), seed);
    } catch (error) {
      throw new Error(`seed ${seed} (run it alone with SEED=${seed}): ${String(error)}`, { cause: error });
    }
  }
}

/** Lets everything run that can run without new events. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
