/** Whole migrations to be read: small worlds of the simulation, each with a story that one seed tells. */
import type { Options } from "../simulation/options.ts";

/** Two hosts, six blocks, a guest that writes now and then; nothing goes wrong. */
const CALM: Partial<Options> = {
  hosts: 2,
  hops: 1,
  sizes: [6 * 4096],
  store: { latencyMs: 2, knowsHoles: true },
  guest: {
    stepMs: 8,
    outstandingMax: 2,
    writePercent: 60,
    flushPercent: 5,
    hotPercent: 50,
    overlapPercent: 0,
  },
  memory: { pages: 3, windowRecords: 8, recordMs: 4, convergedPages: 2 },
  machine: {
    inFlightBlocksMax: 4,
    iterationsMax: 3,
    totalSentFactorMax: 3,
    remainingBlocksToFreeze: 1,
    hotSendsMax: 2,
    writeSlowdownMax: 0,
  },
  answerMsMax: 0,
  network: { latencyMsMax: 5, noticeMsMax: 10, breakingPerMille: 0, stallPercent: 0 },
  every: { idleBreakMs: undefined, killMs: undefined, powerMs: undefined, cancelMs: undefined },
  dyingPerMille: 0,
  dyingByPowerPercent: 0,
  diskFailingPerMille: 0,
  hypervisorRefusesPercent: 0,
  journalFailingPercent: 0,
  flushFailingPercent: 0,
  memoryDelayMsMax: 0,
  pushDelayMsMax: 0,
  calmAtMs: 1000,
};

export type Scenario = {
  /** Its file's name. */
  name: string;
  story: string;
  seed: number;
  options: Partial<Options>;
  /** What makes it this story, in this order. */
  turns: readonly RegExp[];
};

export const SCENARIOS: readonly Scenario[] = [
  {
    name: "there-and-back",
    story: "A domain moves from A to B and back. The way back sends only what was written at B.",
    seed: 131,
    options: { ...CALM, hops: 2 },
    turns: [
      /ladder allocated/,
      /post-copy ── received synchronised/,
      /ladder bitmaps/,
      /finishing ── received aborted/,
    ],
  },
  {
    name: "the-link-is-lost-while-the-domain-is-frozen",
    story: "The link breaks after `prepare`. The domain runs on at A at once, and is prepared again later.",
    seed: 325,
    options: { ...CALM, every: { ...CALM.every!, idleBreakMs: 60 }, calmAtMs: 400 },
    turns: [
      /prepare #1/,
      /session breaks/,
      /preparing ── peer-lost ──▶ memory-copy/,
      /prepare #2/,
      /▶ finished/,
    ],
  },
  {
    name: "the-destination-is-killed-after-the-handover",
    story: "B's daemon dies when it has just begun to own the domain. It goes on, and A tells it again.",
    seed: 27,
    options: { ...CALM, every: { ...CALM.every!, killMs: 100 }, calmAtMs: 400 },
    turns: [
      /resuming ── domain-resumed ──▶ post-copy/,
      /B: ✗ the daemon is killed/,
      /▶ handover/,
      /resuming ── domain-resumed ──▶ post-copy/,
      /▶ resumed, missing [1-9]/,
      /▶ finished/,
    ],
  },
];

/** A transcript without what repeats itself. */
export function toldBy(transcript: readonly string[]): string[] {
  return transcript.filter((line) => !/ms {2}guest: |memory-taken/.test(line));
}

export function tells({ turns }: Scenario, lines: readonly string[]): boolean {
  let next = 0;
  for (const line of lines) if (next < turns.length && turns[next]!.test(line)) next += 1;
  return next === turns.length;
}
