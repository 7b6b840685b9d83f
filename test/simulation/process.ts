/**
 * One run of a host's daemon, from its start to its end or its death. Everything the daemon does to the world
 * goes through its process: a dead one cannot write, send or set a timer any more, however far its code still
 * runs. So a `kill -9` may come between any two system calls, also in the middle of code that never awaits.
 *
 * A system call that was begun has its effect or not when the process dies; never afterwards.
 */
import type { Clock } from "./clock.ts";
import type { Prng } from "./prng.ts";

export type DeathRisk = {
  /** Of a thousand points that the process passes. */
  perMille: () => number;
  /** Takes the process down, by whatever means. */
  strike: (process: Process, where: string) => void;
};

export class Process {
  readonly clock: Clock;
  readonly prng: Prng;
  readonly #risk: DeathRisk;
  #alive = true;
  readonly #open = new Set<() => void>();

  constructor(parts: { clock: Clock; prng: Prng; risk: DeathRisk }) {
    this.clock = parts.clock;
    this.prng = parts.prng;
    this.#risk = parts.risk;
  }

  get alive(): boolean {
    return this.#alive;
  }

  after(delayMs: number, action: () => void): void {
    this.clock.after(delayMs, () => {
      if (this.#alive) action();
    });
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, resolve));
  }

  /** A place where the process may die. Returns whether it lives on. */
  point(where: string): boolean {
    if (this.#alive && this.prng.perMille(this.#risk.perMille())) this.#risk.strike(this, where);
    return this.#alive;
  }

  /** A system call: its effect happens at some time before it completes, `delayMs` from now. */
  call<T>(delayMs: number, effect: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      let complete: (() => void) | undefined;
      const happen = (): void => {
        if (!this.#open.delete(happen)) return;
        try {
          const result = effect();
          complete = () => resolve(result);
        } catch (error) {
          complete = () => reject(error);
        }
      };
      this.#open.add(happen);
      this.clock.after(this.prng.between(0, delayMs), happen);
      this.clock.after(delayMs, () => {
        happen();
        if (this.#alive) complete?.();
      });
    });
  }

  die(): void {
    if (!this.#alive) return;
    this.#alive = false;
    for (const happen of [...this.#open]) {
      if (this.prng.chance(50)) happen();
      else this.#open.delete(happen);
    }
  }
}
