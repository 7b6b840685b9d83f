/** The bodies of what a source sends, in the order of `messages.ts`. */

import { assert } from "../errors.ts";
import { type GenerationLogEntry, isGenerationLog } from "../generation-log.ts";
import {
  BLOCK_COUNT_MAX,
  BLOCKS_PER_MESSAGE_MAX,
  DIGESTS_PER_MESSAGE_MAX,
  MEMORY_CHUNK_SIZE_MAX,
  NAME_LENGTH_MAX,
  VBDS_MAX,
} from "../limits.ts";
import type { BlocksPurpose, DomainDescription, Rung, SourceMessage, VbdDescription } from "../messages.ts";
import { BLOCK_SIZE_BYTES, type BlockRun, byteRangeOf } from "../units.ts";
import { blocksOf, type FieldReader, type FieldWriter, haveSizes, type VbdShape } from "./fields.ts";
import type { MessageBodies } from "./message-body.ts";
import {
  digestCountOf,
  GENERATION,
  HASH_LEVEL,
  ID_LENGTH_MAX,
  readPerVbd,
  readVersion,
  writePerVbd,
} from "./shared-fields.ts";

/** Octets of the hypervisor adapter's own description of a domain. */
export const CONFIG_SIZE_MAX = 1 << 20;

/** Characters of an adapter's name. */
export const HYPERVISOR_LENGTH_MAX = 64;

/** Entries in a generation log: merging keeps one for each replica. */
export const LOG_ENTRIES_MAX = 1024;

/** Hosts that may keep a replica of a domain. */
export const REPLICAS_MAX = 1024;

const BLOCKS_PURPOSE = { precopy: 1, push: 2, pull: 3 } as const satisfies Record<BlocksPurpose, number>;

const RUNG = { bitmaps: 1, hashes: 2, allocated: 3, everything: 4 } as const satisfies Record<Rung, number>;

const BLOCKS_LIMITS = { runsMax: BLOCKS_PER_MESSAGE_MAX, blocksMax: BLOCKS_PER_MESSAGE_MAX };

export const SOURCE_BODIES: MessageBodies<SourceMessage> = {
  begin: {
    number: 0x0001,
    write({ version, migration, generation, domain, dataBytes }, to) {
      to.integer(version);
      to.name(migration, ID_LENGTH_MAX);
      to.integer(generation);
      writeDomain(domain, to);
      to.integer(dataBytes);
      return undefined;
    },
    read(from) {
      const version = readVersion(from);
      const migration = from.name("migration", ID_LENGTH_MAX);
      const generation = from.integer("generation", GENERATION);
      const domain = readDomain(from);
      return { type: "begin", version, migration, generation, domain, dataBytes: from.integer("dataBytes") };
    },
  },
  ladder: {
    number: 0x0002,
    write({ choices }, to) {
      writePerVbd(to, choices, ({ rung, reason }) => {
        to.member(rung, RUNG);
        to.text(reason);
      });
      return undefined;
    },
    read(from) {
      const choices = readPerVbd(from, "choices", () => {
        return { rung: from.member("rung", RUNG), reason: from.text("reason") };
      });
      return { type: "ladder", choices };
    },
  },
  "ask-hashes": {
    number: 0x0003,
    write({ vbd, level, start, count }, to) {
      to.integer(vbd);
      to.member(level, HASH_LEVEL);
      to.integer(start);
      to.integer(count);
      return undefined;
    },
    read(from) {
      const { index: vbd, shape } = from.vbd();
      const level = from.member("level", HASH_LEVEL);
      const start = from.integer("start");
      const count = from.integer("count", { min: 1, max: DIGESTS_PER_MESSAGE_MAX });
      if (start + count > digestCountOf(shape, level)) throw from.wrong("count", "beyond the end of the vbd");
      return { type: "ask-hashes", vbd, level, start, count };
    },
  },
  blocks: {
    number: 0x0004,
    write({ ticket, purpose, vbd, runs, zeroes, data }, to) {
      to.integer(ticket);
      to.member(purpose, BLOCKS_PURPOSE);
      to.integer(vbd);
      to.runs(runs, BLOCKS_LIMITS);
      to.runs(zeroes, BLOCKS_LIMITS);
      return data;
    },
    read: readBlocks,
  },
  "memory-begin": {
    number: 0x0005,
    write({ attempt }, to) {
      to.integer(attempt);
      return undefined;
    },
    read: (from) => ({ type: "memory-begin", attempt: from.integer("attempt") }),
  },
  "memory-open": {
    number: 0x0006,
    write({ migration, attempt, offset }, to) {
      to.name(migration, ID_LENGTH_MAX);
      to.integer(attempt);
      to.integer(offset);
      return undefined;
    },
    read(from) {
      const migration = from.name("migration", ID_LENGTH_MAX);
      return {
        type: "memory-open",
        migration,
        attempt: from.integer("attempt"),
        offset: from.integer("offset"),
      };
    },
  },
  memory: {
    number: 0x0007,
    write({ offset, data }, to) {
      assert(data.length <= MEMORY_CHUNK_SIZE_MAX, "a chunk of memory over its limit");
      to.integer(offset);
      return data;
    },
    read(from) {
      const offset = from.integer("offset");
      const data = from.rest("data", { min: 0, max: MEMORY_CHUNK_SIZE_MAX });
      if (!Number.isSafeInteger(offset + data.length)) throw from.wrong("offset", "beyond any stream");
      return { type: "memory", offset, data };
    },
  },
  log: {
    number: 0x0008,
    bitmapSets: 8,
    write({ entries, replicas }, to) {
      assert(entries.length <= LOG_ENTRIES_MAX && replicas.length <= REPLICAS_MAX, "a log over its limits");
      to.integer(entries.length);
      for (const { first, last, written } of entries) {
        to.integer(first);
        to.integer(last);
        to.bitmaps(written);
      }
      to.integer(replicas.length);
      for (const { host, generation } of replicas) {
        to.name(host, ID_LENGTH_MAX);
        to.integer(generation);
      }
      return undefined;
    },
    read: readLog,
  },
  prepare: {
    number: 0x0009,
    bitmapSets: 2,
    write({ attempt, written, missing }, to) {
      to.integer(attempt);
      to.bitmaps(written);
      to.bitmaps(missing);
      return undefined;
    },
    read(from) {
      const attempt = from.integer("attempt");
      const written = from.bitmaps("written");
      return { type: "prepare", attempt, written, missing: from.bitmaps("missing") };
    },
  },
  "memory-ended": {
    number: 0x000d,
    write({ attempt, memoryBytes }, to) {
      to.integer(attempt);
      to.integer(memoryBytes);
      return undefined;
    },
    read(from) {
      const attempt = from.integer("attempt");
      return { type: "memory-ended", attempt, memoryBytes: from.integer("memoryBytes") };
    },
  },
  handover: {
    number: 0x000a,
    write({ migration, generation }, to) {
      to.name(migration, ID_LENGTH_MAX);
      to.integer(generation);
      return undefined;
    },
    read(from) {
      const migration = from.name("migration", ID_LENGTH_MAX);
      return { type: "handover", migration, generation: from.integer("generation", GENERATION) };
    },
  },
  abort: {
    number: 0x000b,
    write({ migration, reason }, to) {
      to.name(migration, ID_LENGTH_MAX);
      to.text(reason);
      return undefined;
    },
    read(from) {
      const migration = from.name("migration", ID_LENGTH_MAX);
      return { type: "abort", migration, reason: from.text("reason") };
    },
  },
  finished: {
    number: 0x000c,
    write({ migration }, to) {
      to.name(migration, ID_LENGTH_MAX);
      return undefined;
    },
    read: (from) => ({ type: "finished", migration: from.name("migration", ID_LENGTH_MAX) }),
  },
};

function writeDomain(domain: DomainDescription, to: FieldWriter): void {
  assert(domain.vbds.length <= VBDS_MAX, "a domain with too many vbds");
  to.name(domain.id, ID_LENGTH_MAX);
  to.name(domain.name, NAME_LENGTH_MAX);
  to.name(domain.hypervisor, HYPERVISOR_LENGTH_MAX);
  to.integer(domain.memoryBytes);
  to.document(domain.config, CONFIG_SIZE_MAX);
  to.integer(domain.vbds.length);
  for (const { name, sizeBytes } of domain.vbds) {
    to.name(name, NAME_LENGTH_MAX);
    to.integer(sizeBytes);
  }
}

function readDomain(from: FieldReader): DomainDescription {
  const id = from.name("domain.id", ID_LENGTH_MAX);
  const name = from.name("domain.name", NAME_LENGTH_MAX);
  const hypervisor = from.name("domain.hypervisor", HYPERVISOR_LENGTH_MAX);
  const memoryBytes = from.integer("domain.memoryBytes");
  const config = from.document("domain.config", CONFIG_SIZE_MAX);
  const vbds: VbdDescription[] = [];
  for (let left = from.integer("domain.vbds", { min: 0, max: VBDS_MAX }); left > 0; left--) {
    const vbdName = from.name("domain.vbds.name", NAME_LENGTH_MAX);
    const sizeBytes = from.integer("domain.vbds.sizeBytes", {
      min: 0,
      max: BLOCK_COUNT_MAX * BLOCK_SIZE_BYTES,
    });
    if (vbds.some((vbd) => vbd.name === vbdName)) throw from.wrong("domain.vbds.name", "given twice");
    vbds.push({ name: vbdName, sizeBytes });
  }
  // Bitmaps of the session are as large as the first `begin` made them: another size now would be ours to trip over.
  const known = from.knownVbds;
  const sizesBytes = vbds.map(({ sizeBytes }) => sizeBytes);
  if (known !== undefined && !haveSizes(known, sizesBytes)) {
    throw from.wrong("domain.vbds", "not as in the first begin");
  }
  return { id, name, hypervisor, memoryBytes, config, vbds };
}

function readBlocks(from: FieldReader): Extract<SourceMessage, { type: "blocks" }> {
  const ticket = from.integer("ticket");
  const purpose = from.member("purpose", BLOCKS_PURPOSE);
  const { index: vbd, shape } = from.vbd();
  const runs = from.runs("runs", shape, BLOCKS_LIMITS);
  const zeroes = from.runs("zeroes", shape, BLOCKS_LIMITS);
  const blocks = blocksOf(runs) + blocksOf(zeroes);
  if (blocks === 0 || blocks > BLOCKS_PER_MESSAGE_MAX) throw from.wrong("runs", `${blocks} blocks`);
  if (overlap(runs, zeroes)) throw from.wrong("zeroes", "a block both with data and zero");
  const length = dataLengthOf(runs, shape);
  return {
    type: "blocks",
    ticket,
    purpose,
    vbd,
    runs,
    zeroes,
    data: from.rest("data", { min: length, max: length }),
  };
}

/** Both are in order and without overlaps of their own. */
function overlap(left: readonly BlockRun[], right: readonly BlockRun[]): boolean {
  const all = [...left, ...right].sort((a, b) => a.start - b.start);
  return all.some((run, index) => index > 0 && run.start < all[index - 1]!.start + all[index - 1]!.count);
}

function dataLengthOf(runs: readonly BlockRun[], { sizeBytes }: VbdShape): number {
  return runs.reduce((sum, run) => sum + byteRangeOf(run, sizeBytes).length, 0);
}

function readLog(from: FieldReader): Extract<SourceMessage, { type: "log" }> {
  const entries: GenerationLogEntry[] = [];
  for (let left = from.integer("entries", { min: 0, max: LOG_ENTRIES_MAX }); left > 0; left--) {
    const first = from.integer("entries.first", GENERATION);
    const last = from.integer("entries.last", GENERATION);
    entries.push({ first, last, written: from.bitmaps("entries.written") });
  }
  if (!isGenerationLog(entries)) throw from.wrong("entries", "generations that do not follow one another");
  const replicas: { host: string; generation: number }[] = [];
  for (let left = from.integer("replicas", { min: 0, max: REPLICAS_MAX }); left > 0; left--) {
    replicas.push({
      host: from.name("replicas.host", ID_LENGTH_MAX),
      generation: from.integer("replicas.generation", GENERATION),
    });
  }
  return { type: "log", entries, replicas };
}
