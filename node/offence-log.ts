/** Names who does what no honest host does: each host and kind once in a minute, with how often it was. */

import type { Log } from "./log.ts";

const SILENCE_MS = 60_000;
/** Hosts are bounded by the member list; kinds are few. */
const ENTRIES_MAX = 16_384;

export class OffenceLog {
  readonly #log: Log;
  readonly #about: string;
  readonly #seen = new Map<string, { untilMs: number; unsaid: number }>();

  constructor(log: Log, about: string) {
    this.#log = log;
    this.#about = about;
  }

  note(offender: string, kind: string, detail: Readonly<Record<string, unknown>> = {}): void {
    const key = `${kind} ${offender}`;
    const now = performance.now();
    const seen = this.#seen.get(key);
    if (seen !== undefined && now < seen.untilMs) {
      seen.unsaid += 1;
      return;
    }
    if (seen === undefined && this.#seen.size >= ENTRIES_MAX) this.#seen.clear();
    this.#seen.set(key, { untilMs: now + SILENCE_MS, unsaid: 0 });
    const since = seen === undefined || seen.unsaid === 0 ? {} : { alsoSinceThen: seen.unsaid };
    this.#log.warn("offence", { about: this.#about, offender, kind, ...detail, ...since });
  }
}
