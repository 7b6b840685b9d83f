/** Where things lie in a host's data folder. */

import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export type HostPaths = {
  readonly dataDir: string;
  readonly metadata: string;
  readonly nbdSocket: string;
  /** A folder per domain: what its hypervisor process needs. */
  readonly runDir: string;
  /** What domains boot from that bring no boot loader. */
  readonly kernels: string;
  /** An operator's programs: see `node/hooks/`. */
  readonly hooks: string;
  /** The file that a new vbd gets, and the records kept beside it. */
  vbdFile(domain: string, vbd: string): string;
  dirtyLog(domain: string, vbd: string): string;
  presenceLog(domain: string, vbd: string): string;
};

export function hostPaths(dataDir: string): HostPaths {
  return {
    dataDir,
    metadata: join(dataDir, "metadata"),
    nbdSocket: join(dataDir, "run", "nbd.sock"),
    runDir: join(dataDir, "run"),
    kernels: join(dataDir, "kernels"),
    hooks: join(dataDir, "hooks"),
    vbdFile: (domain, vbd) => join(dataDir, "vbds", domain, `${vbd}.raw`),
    dirtyLog: (domain, vbd) => join(dataDir, "vbds", domain, `${vbd}.written`),
    presenceLog: (domain, vbd) => join(dataDir, "vbds", domain, `${vbd}.missing`),
  };
}

export function makeDomainFolder(paths: HostPaths, domain: string): void {
  mkdirSync(join(paths.dataDir, "vbds", domain), { recursive: true, mode: 0o700 });
}

/** The kernel's current boot: what the page cache held survives the daemon, not the host. */
export function currentBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
