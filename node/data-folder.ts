/** The files of a data folder that exist before the first start: what `init` and `join` write and `up` reads. */

import { join } from "node:path";

export function configFile(dataDir: string): string {
  return join(dataDir, "config.json");
}

/** The host's Ed25519 key; see `identity.ts`. */
export function keyFile(dataDir: string): string {
  return join(dataDir, "host.key");
}

/** The cluster's members, secrets and open invitations; see `cluster/cluster-file.ts`. */
export function clusterFile(dataDir: string): string {
  return join(dataDir, "cluster.json");
}
