/**
 * `x-sojourn:generation/N` of an export: what was written since the end of generation N, for every N that the
 * log still tells apart. Backup tools read with it what changed since they were last here.
 */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { GenerationLog } from "../../protocol/generation-log.ts";
import { BLOCK_SIZE_BYTES, type Generation } from "../../protocol/units.ts";
import type { Metadata } from "../../storage/metadata.ts";
import {
  generationContextName,
  type MetadataContext,
  type StatusExtent,
} from "../../storage/nbd/metadata-contexts.ts";
import type { DomainRecord } from "../../storage/records.ts";
import { readGenerationLog } from "./stored-log.ts";

const FLAG_WRITTEN = 1;

export async function generationContexts(
  metadata: Metadata,
  record: DomainRecord,
): Promise<(vbd: number, written: () => BlockBitmap) => readonly MetadataContext[]> {
  const log = await readGenerationLog(metadata, record);
  const bases = [...new Set([...log.entries.map(({ first }) => first - 1), record.generation - 1])];
  return (vbd, written) => bases.map((base) => contextOf({ log, base, vbd, written }));
}

function contextOf({
  log,
  base,
  vbd,
  written,
}: {
  log: GenerationLog;
  base: Generation;
  vbd: number;
  written: () => BlockBitmap;
}): MetadataContext {
  return {
    name: generationContextName(base),
    *extentsOf(offset, length) {
      const changed = log.since(base)?.[vbd]?.clone() ?? written().clone();
      changed.union(written());
      yield* writtenExtents(changed, { offset, length });
    },
  };
}

function* writtenExtents(
  changed: BlockBitmap,
  { offset, length }: { offset: number; length: number },
): Generator<StatusExtent> {
  const end = offset + length;
  let at = offset;
  while (at < end) {
    const run = changed.nextRun(Math.floor(at / BLOCK_SIZE_BYTES), changed.blockCount);
    const start = run === undefined ? end : Math.min(end, run.start * BLOCK_SIZE_BYTES);
    if (start > at) yield { length: start - at, flags: 0 };
    if (run === undefined || start >= end) return;
    const stop = Math.min(end, (run.start + run.count) * BLOCK_SIZE_BYTES);
    yield { length: stop - Math.max(at, start), flags: FLAG_WRITTEN };
    at = stop;
  }
}
