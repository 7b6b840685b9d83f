/**
 * Tells whoever watches a domain's placement that a migration came to another phase. What follows from it (a record is
 * signed, and gossiped) takes the processors from what a frozen guest waits for: of the phases around the handover
 * others hear only when one lasts.
 */

const FROZEN: readonly string[] = [
  "freezing",
  "preparing",
  "handing-over",
  "loading",
  "prepared",
  "resuming",
];
const LASTS_MS = 500;

export class PhaseNews {
  readonly #tell: () => void;
  #later: NodeJS.Timeout | undefined;

  constructor(tell: () => void) {
    this.#tell = tell;
  }

  tell(phase: string): void {
    clearTimeout(this.#later);
    this.#later = undefined;
    if (FROZEN.includes(phase)) this.#later = setTimeout(this.#tell, LASTS_MS).unref();
    else this.#tell();
  }
}
