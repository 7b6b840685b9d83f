/** Placements as the control API shows them. */

import type { Placement } from "../../protocol/placement.ts";
import type { DomainRow, DomainRowState, ReplicaSummary } from "../control/api.ts";
import type { HostMembership } from "../membership/host-membership.ts";
import type { Peers } from "../peers/peers.ts";
import type { DomainView } from "./host-placements.ts";

type Names = { self: string; hostName: string; peers: Pick<Peers, "nameOf"> };

/** What its host said last; of a host that is dead nobody knows. */
export function placedState(
  { membership }: { membership: Pick<HostMembership, "statusOf"> },
  { host, state }: Placement,
): DomainRowState {
  const status = membership.statusOf(host);
  if (status === "dead" || status === "left") return "unknown";
  switch (state) {
    case "stopped":
      return "shutoff";
    case "gone":
      return "unknown";
    default:
      return state;
  }
}

export function placedReplicas(names: Names, { replicas }: Placement): ReplicaSummary[] {
  return replicas.map(({ host, generation, atMs, dirtyBlocks }) => ({
    hostName: nameOf(names, host),
    generation,
    ageSeconds: Math.max(0, (Date.now() - atMs) / 1000),
    ...(dirtyBlocks === undefined ? {} : { dirtyBlocks }),
  }));
}

export function conflictOf(names: Names, { claim, others }: DomainView): Pick<DomainRow, "conflict"> {
  if (others.length === 0) return {};
  const conflict = [claim, ...others].map(({ host, generation }) => ({
    host,
    hostName: nameOf(names, host),
    generation,
  }));
  return { conflict };
}

function nameOf({ self, hostName, peers }: Names, host: string): string {
  return host === self ? hostName : peers.nameOf(host);
}
