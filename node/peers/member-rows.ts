/** What `members` adds to who is alive: quarrels over domains, and who was shut out. */

import type { HostCluster } from "../cluster/host-cluster.ts";
import type { MemberRow, WatchEvent } from "../control/api.ts";
import type { HostMembership } from "../membership/host-membership.ts";
import type { HostPlacements } from "../placement/host-placements.ts";
import { placedState } from "../placement/rows.ts";
import type { Peers } from "./peers.ts";

type Parts = {
  self: string;
  hostName: string;
  peers: Pick<Peers, "nameOf">;
  placements: Pick<HostPlacements, "views">;
  cluster: { cluster: Pick<HostCluster["cluster"], "list"> };
};

/** Each host with the domains that it and another one claim. */
export function withConflicts({ placements }: Parts, rows: readonly MemberRow[]): MemberRow[] {
  const quarrels = placements.views().filter(({ others }) => others.length > 0);
  return rows.map((row) => {
    const conflicts = quarrels
      .filter(({ claim, others }) => [claim, ...others].some(({ host }) => host === row.host))
      .map(({ claim }) => claim.name);
    return conflicts.length === 0 ? row : { ...row, conflicts };
  });
}

/** For who begins to watch while there is a quarrel: it does not change any more, and must be heard of. */
export function quarrelEvents({
  placements,
  membership,
}: Pick<Parts, "placements"> & { membership: Pick<HostMembership, "statusOf"> }): WatchEvent[] {
  const quarrels = placements.views().filter(({ others }) => others.length > 0);
  return quarrels.map(({ claim, others }) => {
    const { domain, name, host, hostName, generation } = claim;
    return {
      ...{ kind: "domain", at: new Date().toISOString(), domain, name, host, hostName, generation },
      state: placedState({ membership }, claim),
      conflict: others.map((other) => other.hostName),
    };
  });
}

/** Those whom a member revoked: listed, so that nobody takes their absence for a failure. */
export function revokedRows({ self, hostName, peers, cluster }: Parts): MemberRow[] {
  const revoked = cluster.cluster.list()?.revoked().values() ?? [];
  return [...revoked].map(({ host, name, by, reason }) => ({
    host,
    hostName: name,
    self: false,
    state: "revoked",
    addresses: [],
    seenBy: hostName,
    ageSeconds: 0,
    revoked: { byName: by === self ? hostName : peers.nameOf(by), reason },
  }));
}
