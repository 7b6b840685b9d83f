/** What a scenario is at, on stderr: one line rewritten in place on a terminal, else one line per step. */

import { printable } from "../node/cli/output.ts";

type Terminal = Pick<NodeJS.WriteStream, "write"> & { isTTY?: boolean; columns?: number };

export class StatusLine {
  readonly #out: Terminal;
  #step: string | undefined;
  #isShown = false;

  constructor(out: Terminal) {
    this.#out = out;
  }

  /** `step` is what a log should say once; `figures` change all the time. */
  update(step: string, figures = ""): void {
    const text = printable(figures === "" ? step : `${step}: ${figures}`);
    if (this.#out.isTTY) {
      // A line that wraps could not be rewritten.
      this.#out.write(`\r\x1b[K${text.slice(0, (this.#out.columns ?? 80) - 1)}`);
      this.#isShown = true;
    } else if (step !== this.#step) {
      this.#out.write(`${text}\n`);
    }
    this.#step = step;
  }

  /** Leaves a terminal at the beginning of an empty line. */
  end(): void {
    if (this.#isShown) this.#out.write("\r\x1b[K");
    this.#isShown = false;
    this.#step = undefined;
  }
}
