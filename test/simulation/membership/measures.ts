/** What the scenarios measure: samples, and what of the beliefs about hosts is false. */

import type { SimulatedCluster, SimulatedHost } from "./cluster.ts";

export type Spread = { readonly p50: number; readonly p99: number; readonly max: number };

export function spreadOf(samples: readonly number[]): Spread {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99), max: at(1) };
}

export type Traffic = { readonly messagesPerHostSecond: number; readonly bytesPerHostSecond: number };

/** Messages and octets of the protocol, before encryption and transport, from now on. */
export function meter(cluster: SimulatedCluster): () => Traffic {
  const { messages, bytes, nowMs } = cluster;
  return () => {
    const hostSeconds = (cluster.hosts.length * (cluster.nowMs - nowMs)) / 1000;
    return {
      messagesPerHostSecond: (cluster.messages - messages) / hostSeconds,
      bytesPerHostSecond: (cluster.bytes - bytes) / hostSeconds,
    };
  };
}

export type FalsePositives = {
  /** Hosts that were alive and were declared dead by somebody's own timer. */
  declarations: number;
  /** The same, of hosts that were not slow themselves. */
  declarationsOfHealthy: number;
  /** Times that any host came to believe it, by itself or by gossip. */
  views: number;
  /** Views that healthy hosts had of healthy hosts. */
  viewsOfHealthyByHealthy: number;
  suspicions: number;
};

/** Counts what is wrongly believed of hosts that are up. */
export function watchForFalsePositives(
  cluster: SimulatedCluster,
  isSlow: (host: SimulatedHost) => boolean = () => false,
): FalsePositives {
  const counts = {
    declarations: 0,
    declarationsOfHealthy: 0,
    views: 0,
    viewsOfHealthyByHealthy: 0,
    suspicions: 0,
  };
  cluster.observe = (host, effect) => {
    if (effect.type !== "changed" || !cluster.isUp(effect.host)) return;
    const isOwn = effect.by.includes(host.id);
    if (effect.to === "suspect" && effect.from === "alive" && isOwn) counts.suspicions += 1;
    if (effect.to !== "dead" || effect.from === "dead") return;
    const subjectIsSlow = isSlow(cluster.byId(effect.host));
    counts.views += 1;
    if (!subjectIsSlow && !isSlow(host)) counts.viewsOfHealthyByHealthy += 1;
    if (!isOwn) return;
    counts.declarations += 1;
    if (!subjectIsSlow) counts.declarationsOfHealthy += 1;
  };
  return counts;
}
