/** Where things lie in a host's data folder. */

import { mkdirSync, readFileSync } from "node:fs";
import { statfs } from "node:fs/promises";
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
  /** A folder per domain: its vbds' files and the records kept beside them. May be a file system of its own. */
  readonly vbds: string;
  /** The file that a new vbd gets, and the records kept beside it. */
  vbdFile(domain: string, vbd: string): string;
  dirtyLog(domain: string, vbd: string): string;
  presenceLog(domain: string, vbd: string): string;
};

export function hostPaths(dataDir: string): HostPaths {
  const vbds = join(dataDir, "vbds");
  return {
    dataDir,
    metadata: join(dataDir, "metadata"),
    nbdSocket: join(dataDir, "run", "nbd.sock"),
    runDir: join(dataDir, "run"),
    kernels: join(dataDir, "kernels"),
    hooks: join(dataDir, "hooks"),
    vbds,
    vbdFile: (domain, vbd) => join(vbds, domain, `${vbd}.raw`),
    dirtyLog: (domain, vbd) => join(vbds, domain, `${vbd}.written`),
    presenceLog: (domain, vbd) => join(vbds, domain, `${vbd}.missing`),
  };
}

export function makeDomainFolder(paths: HostPaths, domain: string): void {
  mkdirSync(join(paths.vbds, domain), { recursive: true, mode: 0o700 });
}

/** Room for vbds: of the file system that they are to lie on. */
export async function freeBytesOf({ vbds, dataDir }: HostPaths): Promise<number> {
  // The folder is made with the first domain.
  const { bavail, bsize } = await statfs(vbds).catch(() => statfs(dataDir));
  return bavail * bsize;
}

/** The kernel's current boot: what the page cache held survives the daemon, not the host. */
export function currentBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
