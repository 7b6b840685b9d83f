/** Time, so that what needs it says so. Monotonic for durations, wall time for people. */
export type Clock = {
  /** Milliseconds since some fixed moment; never goes back. */
  nowMs(): number;
  /** Milliseconds since 1970. */
  wallMs(): number;
};

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
};
