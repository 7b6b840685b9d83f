/**
 * Swarm testing: every seed draws its own sizes, its own pace, and which faults are possible at all, so that some
 * worlds are calm in one way and brutal in another.
 */
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { StoreOptions } from "./disk.ts";
import { SECTOR_BYTES } from "./disk.ts";
import type { Prng } from "./prng.ts";

export type Options = {
  hosts: number;
  /** Migrations that the operator starts. */
  hops: number;
  sizes: readonly number[];
  store: StoreOptions;
  regionBlocks: number;
  activeRegionsMax: number;
  /** When the world stops doing harm. */
  calmAtMs: number;
  guest: {
    stepMs: number;
    outstandingMax: number;
    writePercent: number;
    flushPercent: number;
    /** Of its requests, how many go to the first few blocks. */
    hotPercent: number;
    overlapPercent: number;
  };
  memory: { pages: number; windowRecords: number; recordMs: number; convergedPages: number };
  machine: {
    inFlightBlocksMax: number;
    iterationsMax: number;
    totalSentFactorMax: number;
    remainingBlocksToFreeze: number;
    hotSendsMax: number;
    writeSlowdownMax: number;
  };
  /** How long an answer of the daemon's own parts may be on its way to the machine. */
  answerMsMax: number;
  network: { latencyMsMax: number; noticeMsMax: number; breakingPerMille: number; stallPercent: number };
  memoryDelayMsMax: number;
  /** What a block of post-copy may take at the source: a long post-copy meets more faults. */
  pushDelayMsMax: number;
  /** Mean time between faults of a kind, in ms; undefined: none of them. */
  every: {
    idleBreakMs: number | undefined;
    killMs: number | undefined;
    powerMs: number | undefined;
    cancelMs: number | undefined;
  };
  /** Of a thousand points (effects, system calls) that a process passes. */
  dyingPerMille: number;
  /** A process that dies takes its host's power with it. */
  dyingByPowerPercent: number;
  diskFailingPerMille: number;
  journalFailingPercent: number;
  /** Of the flushes that end post-copy. */
  flushFailingPercent: number;
  hypervisorRefusesPercent: number;
};

/** `late`: for what was added since, so that the seeds of before keep their worlds where it draws nothing. */
export function drawOptions(prng: Prng, late: Prng): Options {
  const sometimes = (percent: number, min: number, max: number): number =>
    prng.chance(percent) ? prng.between(min, max) : 0;
  const mean = (percent: number, min: number, max: number): number | undefined =>
    prng.chance(percent) ? prng.between(min, max) : undefined;
  const blocksMax = prng.pick([1, 4, 12, 25, 60]);
  const sizes = Array.from({ length: prng.pick([1, 1, 2, 3]) }, () => {
    const whole = prng.between(0, blocksMax - 1) * BLOCK_SIZE_BYTES;
    return whole + (prng.chance(60) ? BLOCK_SIZE_BYTES : prng.between(1, 8) * SECTOR_BYTES);
  });
  const isCalm = prng.chance(15);
  const crashes = !isCalm && prng.chance(60);
  const options: Options = {
    hosts: prng.between(2, 3),
    hops: prng.between(1, 5),
    sizes,
    store: { latencyMs: prng.pick([0, 2, 10, 40]), knowsHoles: prng.chance(80) },
    regionBlocks: prng.pick([1, 4, 16]),
    activeRegionsMax: prng.between(1, 4),
    calmAtMs: prng.between(200, 4000),
    guest: {
      stepMs: prng.pick([2, 5, 20, 60]),
      outstandingMax: prng.between(1, 6),
      writePercent: prng.pick([0, 30, 60, 90]),
      flushPercent: prng.pick([0, 5, 20]),
      hotPercent: prng.pick([0, 50, 90]),
      overlapPercent: prng.pick([0, 10]),
    },
    memory: {
      pages: prng.between(1, 10),
      windowRecords: prng.between(1, 12),
      recordMs: prng.between(1, 6),
      convergedPages: prng.between(0, 3),
    },
    machine: {
      inFlightBlocksMax: prng.between(1, 16),
      iterationsMax: prng.between(1, 5),
      totalSentFactorMax: prng.between(1, 3),
      remainingBlocksToFreeze: prng.pick([0, 2, 8]),
      hotSendsMax: prng.between(1, 3),
      writeSlowdownMax: 0,
    },
    answerMsMax: prng.pick([0, 0, 10, 60]),
    network: {
      latencyMsMax: prng.pick([1, 5, 40]),
      noticeMsMax: prng.pick([0, 20, 300]),
      breakingPerMille: isCalm ? 0 : sometimes(40, 1, 40),
      stallPercent: isCalm ? 0 : sometimes(20, 1, 10),
    },
    every: {
      idleBreakMs: isCalm ? undefined : mean(50, 50, 800),
      killMs: crashes ? mean(60, 100, 1500) : undefined,
      powerMs: crashes ? mean(40, 200, 3000) : undefined,
      cancelMs: isCalm ? undefined : mean(20, 100, 1500),
    },
    dyingPerMille: crashes ? sometimes(50, 1, 12) : 0,
    dyingByPowerPercent: prng.pick([0, 30, 100]),
    diskFailingPerMille: isCalm ? 0 : sometimes(15, 1, 20),
    hypervisorRefusesPercent: isCalm ? 0 : sometimes(15, 5, 40),
    journalFailingPercent: isCalm ? 0 : sometimes(15, 2, 30),
    flushFailingPercent: isCalm ? 0 : sometimes(10, 20, 70),
    memoryDelayMsMax: late.chance(20) ? late.between(20, 300) : 0,
    pushDelayMsMax: late.chance(25) ? late.between(50, 1500) : 0,
  };
  const drawn = !isCalm && late.chance(15) ? withBadPower(options, late) : options;
  const writeSlowdownMax = late.chance(25) ? 0.5 : 0;
  return { ...drawn, machine: { ...drawn.machine, writeSlowdownMax } };
}

/**
 * Nothing but losses of power, often and for long, under a guest that flushes little: what the logs of dirty and
 * of missing blocks are for shows only where the power goes at the right moment.
 */
function withBadPower(options: Options, prng: Prng): Options {
  return {
    ...options,
    hops: 5,
    calmAtMs: 4000,
    guest: { ...options.guest, stepMs: 20, writePercent: 60, flushPercent: prng.pick([0, 10, 30]) },
    network: { ...options.network, breakingPerMille: 0 },
    every: {
      idleBreakMs: undefined,
      killMs: undefined,
      powerMs: prng.between(150, 500),
      cancelMs: undefined,
    },
    dyingPerMille: 0,
    pushDelayMsMax: prng.chance(50) ? prng.between(200, 1000) : 0,
  };
}
