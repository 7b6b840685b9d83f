/**
 * How a seed fails. `crash`: our code threw where it must not (an assertion, a protocol error among honest
 * peers). `wrong`: a safety property is broken. `stuck`: the faults have stopped, and it does not come to an end.
 */
export type VerdictKind = "crash" | "wrong" | "stuck";

export const VERDICT_EXIT_CODES: Readonly<Record<VerdictKind, number>> = {
  crash: 127,
  wrong: 129,
  stuck: 128,
};

export class Verdict extends Error {
  readonly kind: VerdictKind;

  constructor(kind: VerdictKind, cause: unknown, standing?: string) {
    const what = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
    super(standing === undefined ? what : `${what}\n${standing}`);
    this.kind = kind;
  }

  /** The first line: enough for a table. */
  get summary(): string {
    return this.message.split("\n")[0]!;
  }
}
