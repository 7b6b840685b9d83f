/** The generation log between its stored form (bytes, which cross processes) and its own. */

import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { GenerationLog, type GenerationLogEntry } from "../../protocol/generation-log.ts";
import { blockCountOf, type Generation } from "../../protocol/units.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { DomainRecord, StoredLogEntry } from "../../storage/records.ts";

/** The closed generations before the record's; empty when nothing needs them. */
export async function readGenerationLog(
  metadata: Metadata,
  { id, vbds, generation }: Pick<DomainRecord, "id" | "vbds" | "generation">,
): Promise<GenerationLog> {
  const blockCounts = vbds.map(({ sizeBytes }) => blockCountOf(sizeBytes));
  const stored = await metadata.generations.readLog(id);
  const entries = stored
    .filter(({ last }) => last < generation)
    .map(({ first, last, written }): GenerationLogEntry => {
      return {
        first,
        last,
        written: written.map((bytes, vbd) => BlockBitmap.decode(bytes, blockCounts[vbd]!)),
      };
    });
  return GenerationLog.of(blockCounts, entries, generation - 1);
}

export function storedEntries(entries: readonly GenerationLogEntry[]): StoredLogEntry[] {
  return entries.map(({ first, last, written }) => {
    return { first, last, written: written.map((bitmap) => bitmap.encode()) };
  });
}

/** `log` with `generation` closed, and only what one of `replicas` still tells apart. */
export function closeGeneration(
  log: GenerationLog,
  {
    generation,
    written,
    replicas,
  }: { generation: Generation; written: readonly BlockBitmap[]; replicas: readonly Generation[] },
): GenerationLog {
  return log.append({ first: generation, last: generation, written }).merge(replicas);
}
