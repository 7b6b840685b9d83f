/** The cluster of a data folder whose daemon does not run: what `init` and `join` do to it. */

import { systemClock } from "../clock.ts";
import { clusterFile } from "../data-folder.ts";
import { NodeError } from "../errors.ts";
import type { Identity } from "../identity.ts";
import { listenMultiaddr, parseListen } from "../listen.ts";
import { NO_LOG } from "../log.ts";
import { Cluster, type Described } from "./cluster.ts";
import { requestMembership } from "./join.ts";
import { reachable } from "./reachable.ts";
import { parseToken } from "./token.ts";

type Listening = { listen: string; announce?: readonly string[] };
export type LocalHost = {
  dataDir: string;
  identity: Identity;
  name: string;
  control: Listening;
  data: Listening;
};

export type LocalCluster = { cluster: string; members: number };

/** Makes a cluster of this host alone, unless it has one. Throws CLUSTER_FILE_EXPOSED, CLUSTER_FILE_CORRUPT. */
export async function createLocalCluster(host: LocalHost): Promise<LocalCluster> {
  const cluster = await load(host);
  await cluster.create(describe(host));
  return summary(cluster);
}

/** Throws TOKEN_INVALID. */
export function readToken(text: string): void {
  parseToken(text);
}

/** Throws TOKEN_INVALID, CLUSTER_ALREADY, JOIN_REFUSED, PEER_UNREACHABLE, and as above. */
export async function joinLocally(host: LocalHost, text: string): Promise<LocalCluster> {
  const token = parseToken(text);
  const cluster = await load(host);
  if (token.inviter === cluster.self) {
    throw new NodeError("USAGE", { reason: "this host made that token itself" });
  }
  cluster.refuseJoining(token.cluster);
  const { identity } = host;
  const membership = await requestMembership(token, { identity, log: NO_LOG, described: describe(host) });
  await cluster.adopt(membership, token);
  return summary(cluster);
}

function load({ dataDir, identity }: LocalHost): Promise<Cluster> {
  return Cluster.load({ file: clusterFile(dataDir), identity, clock: systemClock, log: NO_LOG });
}

/** Only what is known before the daemon listens; it tells the rest itself. */
function describe({ name, control, data }: LocalHost): Described {
  return { name, addresses: { control: reachable(addressOf(control)), data: reachable(addressOf(data)) } };
}

function addressOf({ listen, announce }: Listening): readonly string[] {
  if (announce !== undefined) return announce;
  const { host, port } = parseListen(listen) ?? { host: "::", port: 0 };
  return port === 0 || host === "0.0.0.0" || host === "::" ? [] : [listenMultiaddr(listen)];
}

function summary(cluster: Cluster): LocalCluster {
  return { cluster: cluster.id!, members: cluster.members().length };
}
