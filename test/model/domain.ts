/** The one domain of the model, and the contexts that its machines get. */

import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { GenerationLog } from "../../protocol/generation-log.ts";
import type { ReplicaNote } from "../../protocol/messages.ts";
import type { SourceContext } from "../../protocol/source.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../protocol/units.ts";
import type { DomainRecord, StoredLogEntry } from "../../storage/records.ts";

export const DOMAIN_ID = "d";

export function domainRecord({ owner, blockCount }: { owner: string; blockCount: number }): DomainRecord {
  return {
    id: DOMAIN_ID,
    name: "domain",
    hypervisor: "model",
    memoryBytes: 0,
    config: "{}",
    vbds: [{ name: "v", sizeBytes: blockCount * BLOCK_SIZE_BYTES }],
    generation: 1,
    owner,
    state: "running",
    createdAt: 0,
  };
}

export function contextOf(
  domain: DomainRecord,
  rest: {
    migration: string;
    destination: string;
    log: readonly StoredLogEntry[];
    replicas: readonly ReplicaNote[];
  },
): SourceContext {
  const { id, name, hypervisor, memoryBytes, config, vbds, generation } = domain;
  const { log, ...others } = rest;
  return {
    ...others,
    generation,
    domain: { id, name, hypervisor, memoryBytes, config, vbds },
    log: logOf(domain, log),
    dataBytes: 0,
    inFlightBlocksMax: 2,
    iterationsMax: 2,
    totalSentFactorMax: 8,
    // What is written during the only round goes in post-copy.
    remainingBlocksToFreeze: 8,
    hotSendsMax: 2,
  };
}

function logOf({ vbds, generation }: DomainRecord, stored: readonly StoredLogEntry[]): GenerationLog {
  const blockCounts = vbds.map(({ sizeBytes }) => blockCountOf(sizeBytes));
  const entries = stored
    .filter(({ last }) => last < generation)
    .map(({ first, last, written }) => {
      return {
        first,
        last,
        written: written.map((bytes, vbd) => BlockBitmap.decode(bytes, blockCounts[vbd]!)),
      };
    });
  return GenerationLog.of(blockCounts, entries, generation - 1);
}
