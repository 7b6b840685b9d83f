/** What this host's journal and hypervisor say about a domain: one end of what `recover` decides on. */

import { existsSync } from "node:fs";
import type { GuestState, Testimony } from "../../protocol/recovery.ts";
import { blockCountOf } from "../../protocol/units.ts";
import { FdByteFile } from "../../storage/byte-file.ts";
import type { JournalEntry } from "../../storage/journal-records.ts";
import type { Metadata } from "../../storage/metadata.ts";
import { PresenceLog } from "../../storage/presence-log.ts";
import type { HostDomains } from "../domains/host-domains.ts";
import type { HostPaths } from "../domains/host-paths.ts";

export type TestimonyParts = { self: string; metadata: Metadata; domains: HostDomains; paths: HostPaths };

type DestinationEntry = Extract<JournalEntry, { role: "destination" }>["record"];
type Incoming = Exclude<DestinationEntry, { phase: "aborted" }>;

export async function testimonyOf(parts: TestimonyParts, id: string): Promise<Testimony> {
  const { self, metadata, domains, paths } = parts;
  const record = await metadata.domains.get(id);
  const entries = (await metadata.journal.list()).filter(({ domain }) => domain === id);
  let outgoing: Testimony["outgoing"];
  let incoming: Incoming | undefined;
  for (const { role, record: entry } of entries) {
    if (role === "source") {
      const { migration, destination: peer, generation, phase } = entry;
      // An attempt that was given up may be older than the one that matters.
      if (outgoing === undefined || generation >= outgoing.generation) {
        outgoing = { migration, peer, generation, phase };
      }
    } else if (entry.phase !== "aborted" && entry.phase !== "synchronised") {
      incoming = entry;
    }
  }
  const hypervisor = record?.hypervisor ?? incoming?.domain.hypervisor;
  const replica = await metadata.replicas.get(id, self);
  const isWhole = replica?.state === "whole" && replica.generation > 0;
  const files = record === undefined || !isWhole ? [] : await domains.vbdsOf(record).catch(() => []);
  return {
    host: self,
    claim: record === undefined ? undefined : { owner: record.owner, generation: record.generation },
    guest:
      hypervisor === undefined ? "none" : guestOf((await domains.hypervisor(hypervisor).status(id)).state),
    isStopped: record?.state === "stopped",
    outgoing,
    incoming: incoming === undefined ? undefined : await incomingOf(incoming, { domains, paths }),
    replica:
      files.length > 0 && files.every(({ path }) => existsSync(path)) ? replica!.generation : undefined,
  };
}

function guestOf(state: string): GuestState {
  return state === "running" || state === "suspended" || state === "incoming" ? state : "none";
}

async function incomingOf(
  { migration, source: peer, generation, phase, domain }: Incoming,
  { domains, paths }: { domains: HostDomains; paths: HostPaths },
): Promise<NonNullable<Testimony["incoming"]>> {
  let missingBlocks: number | undefined = domains
    .attachment(domain.id)
    ?.missing()
    .reduce((sum, { population }) => sum + population, 0);
  if (missingBlocks === undefined && (phase === "prepared" || phase === "owner")) {
    try {
      missingBlocks = 0;
      for (const { name, sizeBytes } of domain.vbds) {
        const log = await PresenceLog.open(FdByteFile.open(paths.presenceLog(domain.id, name)), {
          generation: generation + 1,
          migration,
          bootId: domains.bootId,
          blockCount: blockCountOf(sizeBytes),
        });
        missingBlocks += log.missing.population;
        await log.close();
      }
    } catch {
      // Nobody can tell: that is what the answer says then.
      missingBlocks = undefined;
    }
  }
  return { migration, peer, generation, phase, missingBlocks };
}
