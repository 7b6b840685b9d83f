/**
 * The log of who was not let in, and why. A stranger decides how often he knocks, so lines are limited: what was
 * left out is counted and said with the next line.
 */

import type { NetworkLog } from "./libp2p-network.ts";

const LINES_MAX = 20;
const PERIOD_MS = 10_000;

export class RefusalLog {
  readonly #log: NetworkLog;
  readonly #role: string;
  #periodStart = 0;
  #lines = 0;
  #leftOut = 0;

  constructor(log: NetworkLog, role: string) {
    this.#log = log;
    this.#role = role;
  }

  refused(fields: { peer?: string; address?: string; reason: string }): void {
    const now = performance.now();
    if (now - this.#periodStart > PERIOD_MS) {
      this.#periodStart = now;
      this.#lines = 0;
    }
    if (this.#lines >= LINES_MAX) {
      this.#leftOut += 1;
      return;
    }
    this.#lines += 1;
    const leftOut = this.#leftOut === 0 ? {} : { refusedUnsaid: this.#leftOut };
    this.#leftOut = 0;
    this.#log.warn("refused", { role: this.#role, ...fields, ...leftOut });
  }
}
