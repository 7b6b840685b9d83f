/** A domain becomes this host's by `recover`: durable first, then it runs. */

import { rm } from "node:fs/promises";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { Testimony } from "../../protocol/recovery.ts";
import { blockCountOf } from "../../protocol/units.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { CustodyRecord, DomainRecord, HistoryRecord, StoredLogEntry } from "../../storage/records.ts";
import type { Clock } from "../clock.ts";
import type { HostDomains } from "../domains/host-domains.ts";
import type { HostPaths } from "../domains/host-paths.ts";
import { closeGeneration, readGenerationLog, storedEntries } from "../domains/stored-log.ts";
import type { HostSigner } from "../host-signer.ts";
import { certify } from "./certificates.ts";

export type OwnershipParts = {
  self: string;
  metadata: Metadata;
  domains: HostDomains;
  paths: HostPaths;
  clock: Clock;
  sign: HostSigner;
};

export type Ownership = {
  mine: Testimony;
  /**
   * Of the generations between the last that was closed here and the new one. `unwritten`: nobody ran them.
   * `unknown`: somebody may have, so no older copy is compared by bitmaps any more.
   */
  log: "unwritten" | "unknown";
  journalRemoved: string | undefined;
  history: HistoryRecord;
};

/** The caller holds the domain's lock, and nobody works on it. */
export async function own(
  parts: OwnershipParts,
  record: DomainRecord,
  { mine, log, journalRemoved, history }: Ownership,
): Promise<void> {
  const { self, metadata, domains, paths, clock } = parts;
  const { id, generation } = record;
  await domains.close(id);
  const { guestGeneration: known, ...rest } = record;
  const isFrozen = mine.guest === "suspended";
  // It was given its vbds' names under the generation in which it was started, or was to start.
  const promised = mine.incoming === undefined ? generation : mine.incoming.generation + 1;
  const names = mine.claim?.owner === self ? mine.claim.generation : (mine.outgoing?.generation ?? promised);
  const next: DomainRecord = isFrozen ? { ...rest, guestGeneration: known ?? names } : rest;
  await domains.startGeneration(next, await domains.vbdsOf(next));
  const entries = log === "unknown" ? [] : await unwritten(parts, next);
  const reason = "the domain runs on it";
  await metadata.journal.commit({
    ...(journalRemoved === undefined ? {} : { journalRemoved }),
    domain: next,
    replicas: [
      { domain: id, host: self, generation: 0, updatedAt: clock.wallMs(), state: "unknown", reason },
    ],
    log: { domain: id, entries },
    history,
    custody: [await certificateOf(parts, next, { history, log })],
  });
  for (const { name } of next.vbds) await rm(paths.presenceLog(id, name), { force: true });
  await domains.open(next);
  const hypervisor = domains.hypervisor(next.hypervisor);
  if (isFrozen) return hypervisor.resume(id);
  await hypervisor.destroy(id);
  await hypervisor.start(domains.spec(next, await domains.vbdsOf(next)));
}

/** Of the generation that begins: signed by its new owner, who alone can say how it came to it. */
async function certificateOf(
  { metadata, self, sign }: OwnershipParts,
  { id, generation }: DomainRecord,
  { history, log }: Pick<Ownership, "history" | "log">,
): Promise<CustodyRecord> {
  const before = (await metadata.custody.list(id)).at(-1);
  const kind = log === "unwritten" ? "taken back" : "adopted";
  const facts = { kind, domain: id, generation, from: history.from, to: self } as const;
  const word = kind === "adopted" ? history.figures : "";
  return certify(
    { ...facts, timeMs: Math.round(history.endedAt), word, before, written: undefined },
    { self, sign },
  );
}

/** The log up to the new generation, where nobody wrote in the ones between. */
async function unwritten(
  { metadata, self }: OwnershipParts,
  record: DomainRecord,
): Promise<StoredLogEntry[]> {
  const { id, generation } = record;
  const stored = await metadata.generations.readLog(id);
  const latest = stored.at(-1)?.last;
  if (latest === undefined || latest >= generation) return [];
  let log = await readGenerationLog(metadata, { ...record, generation: latest + 1 });
  const written = record.vbds.map(({ sizeBytes }) => new BlockBitmap(blockCountOf(sizeBytes)));
  const replicas = (await metadata.replicas.list(id))
    .filter((replica) => replica.host !== self && replica.generation > 0)
    .map((replica) => replica.generation);
  for (let closed = latest + 1; closed < generation; closed++) {
    log = closeGeneration(log, { generation: closed, written, replicas });
  }
  return storedEntries(log.entries);
}
