/**
 * Timings and limits of membership. The numbers of the presets are memberlist's (DefaultLANConfig and
 * DefaultWANConfig), so that what is published about it can be compared; what it does not have says so.
 *
 * Hosts of one cluster should agree on the timings, but need not: nothing breaks, they only judge differently.
 */

import { assert } from "../errors.ts";

export type MembershipConfig = {
  /** One member is probed in each of these. A healthy host's; a sick one waits up to `awarenessMax + 1` times. */
  readonly probeIntervalMs: number;
  /** After this others are asked to probe the member as well; until the end of the interval they have time. */
  readonly probeTimeoutMs: number;
  /** How many others are asked. */
  readonly indirectProbes: number;
  /** A helper that has no answer says so after this: before the asker gives up, so that its health is known. */
  readonly nackAfterMs: number;
  /** Local health is 0 (well) to this. 0 switches the scaling off. */
  readonly awarenessMax: number;
  /** The least time of a suspicion is this × max(1, log10 of the hosts) probe intervals. */
  readonly suspicionMult: number;
  /** A suspicion nobody confirms lasts this many times longer. 1: suspicions do not shrink. */
  readonly suspicionMaxMult: number;
  /** A probe of a suspect carries the suspicion, so that it can refute at once. */
  readonly buddy: boolean;
  /**
   * Hosts, on average, that probe a member out of turn when they hear that it is suspect: they confirm or end the
   * suspicion early. Not in memberlist. Without it a small cluster waits long for the confirmations.
   */
  readonly secondLooks: number;
  /**
   * A suspect that nobody else suspects hears of it once more before it is declared dead. Not in memberlist, where a
   * host that was cut off declares others dead after it is back.
   */
  readonly lastCall: boolean;

  readonly gossipIntervalMs: number;
  readonly gossipHosts: number;
  /** An update is sent this × ceil(log10(hosts + 1)) times by each host. */
  readonly retransmitMult: number;
  /** The dead are gossiped to for so long, so that those that are not can refute. */
  readonly gossipToTheDeadMs: number;
  /** Octets of updates in one message. memberlist must fit a datagram; a stream need not. */
  readonly updatesSizeMax: number;

  /** Whole-state exchange with one random member; longer in clusters of over 32 hosts. */
  readonly exchangeIntervalMs: number;
  /** An exchange with one of the dead (as Serf does): heals partitions that lasted longer than any gossip. */
  readonly reconnectIntervalMs: number;
  /** Seeds are asked again after this, doubling up to the maximum, until one answered or somebody else did. */
  readonly joinRetryMs: number;
  readonly joinRetryMaxMs: number;
  /** A peer that asks for our state more often is not answered. */
  readonly answerIntervalMs: number;

  /** At most one refutation in this: an accuser must not make us flood the cluster. */
  readonly refuteIntervalMs: number;
  /** At most one announcement of changed metadata in this. */
  readonly announceIntervalMs: number;
  /** A host that leaves goes at the latest after this. */
  readonly leaveTimeoutMs: number;

  /** The dead and those that left are shown, and the dead sought, for so long. */
  readonly forgetAfterMs: number;
  /** After that only the proof of their end is kept, against old news of them, for so long. */
  readonly tombstoneMs: number;

  readonly membersMax: number;
  readonly tombstonesMax: number;
  /** Probes on behalf of others at one time. */
  readonly relaysMax: number;
  readonly seedsMax: number;
};

const HOUR_MS = 3_600_000;

export const LAN: MembershipConfig = {
  probeIntervalMs: 1000,
  probeTimeoutMs: 500,
  indirectProbes: 3,
  nackAfterMs: 400,
  awarenessMax: 7,
  suspicionMult: 4,
  suspicionMaxMult: 6,
  buddy: true,
  secondLooks: 4,
  lastCall: true,
  gossipIntervalMs: 200,
  gossipHosts: 3,
  retransmitMult: 4,
  gossipToTheDeadMs: 30_000,
  updatesSizeMax: 16 << 10,
  exchangeIntervalMs: 30_000,
  reconnectIntervalMs: 30_000,
  joinRetryMs: 1000,
  joinRetryMaxMs: 30_000,
  answerIntervalMs: 1000,
  refuteIntervalMs: 200,
  announceIntervalMs: 1000,
  leaveTimeoutMs: 5000,
  forgetAfterMs: 24 * HOUR_MS,
  tombstoneMs: 7 * 24 * HOUR_MS,
  membersMax: 4096,
  tombstonesMax: 4096,
  relaysMax: 256,
  seedsMax: 64,
};

export const WAN: MembershipConfig = {
  ...LAN,
  probeIntervalMs: 5000,
  probeTimeoutMs: 3000,
  // What is left of the interval is shorter than the timeout, and there and back takes long.
  nackAfterMs: 1500,
  suspicionMult: 6,
  gossipIntervalMs: 500,
  gossipHosts: 4,
  gossipToTheDeadMs: 60_000,
  exchangeIntervalMs: 60_000,
  joinRetryMs: 3000,
  refuteIntervalMs: 500,
  announceIntervalMs: 5000,
  leaveTimeoutMs: 15_000,
};

/** Plain SWIM with the same timings, to see what Lifeguard is worth. */
export function withoutLifeguard(config: MembershipConfig): MembershipConfig {
  return { ...config, awarenessMax: 0, suspicionMaxMult: 1, buddy: false, secondLooks: 0, lastCall: false };
}

/** The relations between the options; our own mistake, so an assertion. */
export function checkConfig(config: MembershipConfig): void {
  for (const [name, value] of Object.entries(config)) {
    assert(
      typeof value === "boolean" || (Number.isFinite(value) && value >= 0),
      `${name} is not a number from 0`,
    );
  }
  assert(config.probeTimeoutMs < config.probeIntervalMs, "no time for indirect probes");
  assert(config.nackAfterMs < config.probeIntervalMs - config.probeTimeoutMs, "nacks come too late");
  assert(config.suspicionMult >= 1 && config.suspicionMaxMult >= 1, "suspicions end at once");
  assert(config.gossipIntervalMs > 0 && config.gossipHosts > 0, "nothing is gossiped");
  assert(config.membersMax > 0, "no room for members");
}
