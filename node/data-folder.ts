/** The two files of a data folder that exist before the first start: what `init` writes and `up` reads. */

import { join } from "node:path";

export function configFile(dataDir: string): string {
  return join(dataDir, "config.json");
}

/** The host's Ed25519 key; see `identity.ts`. */
export function keyFile(dataDir: string): string {
  return join(dataDir, "host.key");
}
