/** Keeps what a fenced host wrote: its vbds get other names, and nothing of ours writes to them again. */

import { existsSync, statSync } from "node:fs";
import { rename } from "node:fs/promises";
import type { Metadata } from "../../storage/metadata.ts";
import type { DomainRecord, HistoryRecord } from "../../storage/records.ts";
import type { Clock } from "../clock.ts";
import type { HostDomains } from "../domains/host-domains.ts";
import type { HostPaths } from "../domains/host-paths.ts";

export type AsideParts = {
  self: string;
  metadata: Metadata;
  domains: HostDomains;
  paths: HostPaths;
  clock: Clock;
};

/**
 * The files first, then the records: cut short in between, this host still calls the domain its own, finds no
 * files to export, and is fenced again. Returns where everything is.
 */
export async function setAside(
  { self, metadata, domains, paths, clock }: AsideParts,
  known: DomainRecord,
  { domain, history }: { domain: DomainRecord; history: (files: readonly string[]) => HistoryRecord },
): Promise<string[]> {
  const now = clock.wallMs();
  const files: string[] = [];
  const vbds = [];
  for (const { identity: _identity, ...vbd } of await domains.vbdsOf(known)) {
    const isFile = existsSync(vbd.path) && statSync(vbd.path).isFile();
    const aside = isFile ? `${vbd.path}.aside-${known.generation}-${now}` : vbd.path;
    if (isFile) await rename(vbd.path, aside);
    files.push(aside);
    // A device cannot be renamed. It is kept by not being used any more: another copy gets a file of its own.
    const ownFile = paths.vbdFile(known.id, vbd.name);
    vbds.push({ ...vbd, path: existsSync(ownFile) ? `${ownFile}.${now}` : ownFile });
  }
  const reason = `this host was fenced; what it had is kept as ${files.join(", ")}`;
  await metadata.journal.commit({
    domain,
    vbds,
    replicas: [{ domain: known.id, host: self, generation: 0, updatedAt: now, state: "unknown", reason }],
    log: { domain: known.id, entries: [] },
    history: history(files),
  });
  for (const entry of await metadata.journal.list()) {
    if (entry.domain === known.id) await metadata.journal.remove(entry.record.migration);
  }
  return files;
}
