/**
 * `sojourn repair`: LevelDB's own repair of a damaged metadata folder, and what has to follow from it. What comes
 * back may be older than the truth: a domain that was handed over may look owned. So this host owns nothing any
 * more, frozen or running guests stay as they are, and each domain runs here again on its operator's word only
 * (`recover --adopt`), or never, when another host says that it has it.
 */

import { NOBODY } from "../../protocol/recovery.ts";
import { LevelMetadata } from "../../storage/metadata.ts";
import { repairMetadata } from "../../storage/metadata-repair.ts";
import type { DomainRecord } from "../../storage/records.ts";
import { keyFile } from "../data-folder.ts";
import { hostPaths } from "../domains/host-paths.ts";
import { NodeError, nodeErrorOf } from "../errors.ts";
import { loadIdentity } from "../identity.ts";

export type RepairReport = {
  /** The folder as it was before. */
  copy: string;
  /** Names of the domains that this host owned, as far as that could be read, and owns no more. */
  domains: readonly string[];
  /** Records that cannot be read; the others are well. */
  unreadable: readonly string[];
};

const REASON = "the journal was repaired, and may be older than the truth";

/** While no daemon runs. Throws HOST_KEY_…, DATA_FOLDER_…, USAGE for a folder that holds no host. */
export async function repairHost(dataDir: string): Promise<RepairReport> {
  const identity = await loadIdentity(keyFile(dataDir));
  if (identity === undefined)
    throw new NodeError("USAGE", { reason: `${dataDir} holds no host: it has no key` });
  const { metadata: folder } = hostPaths(dataDir);
  try {
    const { copy } = await repairMetadata(folder);
    const metadata = await LevelMetadata.open({ folder });
    try {
      const unreadable = (await metadata.verify()).map(({ key }) => key);
      const owned = (await metadata.domains.list()).filter(({ owner }) => owner === identity.hostId);
      for (const record of owned) await disown(metadata, record);
      return { copy, domains: owned.map(({ name }) => name), unreadable };
    } finally {
      await metadata.close();
    }
  } catch (error) {
    throw nodeErrorOf(error);
  }
}

/** Nobody's, under the next generation: what this host has is a replica of the one that it knew. */
async function disown(metadata: LevelMetadata, record: DomainRecord): Promise<void> {
  const { id, generation, guestGeneration = generation, owner: host } = record;
  const replica = {
    domain: id,
    host,
    generation,
    updatedAt: Date.now(),
    state: "whole",
    reason: REASON,
  } as const;
  await metadata.journal.commit({
    // A guest that lives on has its vbds' names from before.
    domain: { ...record, owner: NOBODY, generation: generation + 1, state: "away", guestGeneration },
    replicas: [replica],
  });
  for (const entry of await metadata.journal.list()) {
    // An attempt that the journal takes for undecided would let the domain run by itself.
    if (entry.domain === id && entry.role === "source") await metadata.journal.remove(entry.record.migration);
  }
}
