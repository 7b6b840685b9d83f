/** What dom0 of a Xen host gets: the units, the block script that xl runs, and the folders that go with them. */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { blockScriptEntry, DEVICES_FOLDER } from "../hypervisor/xen/block-script.ts";
import { MARK } from "../marked-file.ts";
import type { HostEntry } from "./host-entries.ts";
import { type UnitOptions, unitEntries } from "./systemd.ts";

/** Where domains' configurations lie that Sojourn brings: beside xl's own, and never among those of /etc/xen/auto. */
export const CONFIG_FOLDER = "/etc/xen/sojourn";

export function xenEntries(options: UnitOptions): HostEntry[] {
  return [
    { kind: "file", ...blockScriptEntry(), what: "what gives Xen the vbds of a domain that is here" },
    { kind: "folder", path: CONFIG_FOLDER, mode: 0o755, what: "the configurations of domains that are here" },
    {
      kind: "file",
      path: "/etc/modules-load.d/sojourn.conf",
      text: `# ${MARK}\nnbd\n`,
      mode: 0o644,
      what: "the kernel's NBD client, loaded at boot",
    },
    ...unitEntries(options),
  ];
}

/** Ids of domains whose vbds are attached on this host now. */
export function attachedDomains(root: string): string[] {
  try {
    return readdirSync(join(root, DEVICES_FOLDER));
  } catch {
    return [];
  }
}
