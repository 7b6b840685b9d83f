/** What `sojourn doctor` has to say about one thing. */

/** `limited`: it works, at a cost. `missing`: what needs it does not work. */
export type FindingState = "ok" | "limited" | "missing";

export type Finding = {
  /** The thing, in a word or two. */
  what: string;
  state: FindingState;
  /** What there is. */
  found: string;
  /** What does not work, or works less well; absent when all is well. */
  costs?: string;
  remedy?: string;
  /** Without it there is no daemon at all. */
  isNeeded?: boolean;
};

/** Output of a program that ends by itself; undefined where it cannot be run or fails. */
export type Run = (command: string, args: readonly string[]) => Promise<string | undefined>;
