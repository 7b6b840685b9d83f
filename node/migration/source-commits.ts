/** What a record of the source's machine changes in this host's metadata, in one durable batch. */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { SourceContext, SourceRecord } from "../../protocol/source.ts";
import type { Commit } from "../../storage/migration-journal.ts";
import type { DomainRecord } from "../../storage/records.ts";
import { closeGeneration, storedEntries } from "../domains/stored-log.ts";

export type SourceFacts = {
  self: string;
  nowMs: number;
  domain: DomainRecord;
  context: SourceContext;
  /** What the generation that ends here wrote, once the vbds are fenced. */
  written: readonly BlockBitmap[] | undefined;
};

export function sourceCommit(record: SourceRecord, facts: SourceFacts): Commit {
  const { domain, context } = facts;
  const journal = { role: "source", domain: domain.id, record } as const;
  if (record.phase !== "handed-over") return { journal };
  // Ownership, the replica's label and the journal change together: no crash may separate them.
  return { journal, ...handedOver(record, facts, context) };
}

function handedOver(
  { destination, generation }: Extract<SourceRecord, { phase: "handed-over" }>,
  { self, nowMs, domain, written }: SourceFacts,
  { log, replicas }: SourceContext,
): Commit {
  const generations = [...replicas.map((note) => note.generation), generation];
  return {
    domain: { ...domain, owner: destination, generation: generation + 1, state: "away" },
    replicas: [
      // Whole, but its files are still open: they get their identity when post-copy is over.
      { domain: domain.id, host: self, generation, updatedAt: nowMs, state: "whole" },
    ],
    ...(written === undefined
      ? {}
      : {
          log: {
            domain: domain.id,
            entries: storedEntries(
              closeGeneration(log, { generation, written, replicas: generations }).entries,
            ),
          },
        }),
  };
}
