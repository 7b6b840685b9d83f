/** The control API's methods that are about the cluster itself. */

import type { ApiHandlers } from "../control/api.ts";
import { NodeError } from "../errors.ts";
import type { Peers } from "../peers/peers.ts";
import type { HostCluster } from "./host-cluster.ts";

/** An hour is enough to walk to the other machine, and a lost token is soon nobody's. */
const EXPIRES_MS = 60 * 60_000;
/** A day: a host that was off overnight still gets in, and learns the new secret. */
const OVERLAP_MS = 24 * 60 * 60_000;

type Parts = { cluster: HostCluster; peers: Peers; self: string; hostName: string };

type Methods = "invite" | "join" | "revoke" | "rotate-secret";

export function clusterHandlers({ cluster, peers, self, hostName }: Parts): Pick<ApiHandlers, Methods> {
  const id = (): string => {
    const known = cluster.cluster.id;
    if (known === undefined) throw new NodeError("CLUSTER_NONE", {});
    return known;
  };
  return {
    invite: async ({ expiresMs = EXPIRES_MS, uses = 1 }) => {
      const { token, expiresAtMs } = await cluster.invite({ expiresMs, uses });
      return { token, cluster: id(), host: self, expiresAt: new Date(expiresAtMs).toISOString(), uses };
    },
    join: async ({ token }) => {
      await cluster.join(token);
      return { cluster: id(), host: self, hostName, members: cluster.cluster.members().length };
    },
    revoke: async ({ host: query, reason = "no reason given", withAdmitted = false }) => {
      if (query === self || query === hostName) {
        throw new NodeError("USAGE", { reason: "a host does not revoke itself: run this on another member" });
      }
      id();
      const { host } = peers.find(query);
      const name = cluster.cluster.members().find((member) => member.host === host)?.name ?? host;
      await cluster.cluster.revoke(host, { reason, withAdmitted });
      return { host, hostName: name, members: cluster.cluster.members().length };
    },
    "rotate-secret": async ({ overlapMs = OVERLAP_MS }) => {
      const { epoch, othersEndAtMs } = await cluster.cluster.rotateSecret(overlapMs);
      return { epoch, othersEndAt: new Date(othersEndAtMs).toISOString() };
    },
  };
}
