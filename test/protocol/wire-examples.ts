/** Messages of every type, for a domain with two vbds; the last block of the second is short. */

import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { CHUNK_BLOCKS } from "../../protocol/block-bitmap-wire.ts";
import { DIGEST_SIZE_BYTES } from "../../protocol/limits.ts";
import type { Message } from "../../protocol/messages.ts";
import { blockCountOf } from "../../protocol/units.ts";

export const SIZES_BYTES = [3 * CHUNK_BLOCKS * 4096, 5 * 4096 + 100] as const;

const [FIRST, SECOND] = [blockCountOf(SIZES_BYTES[0]), blockCountOf(SIZES_BYTES[1])];

const scattered = new BlockBitmap(FIRST);
for (let block = CHUNK_BLOCKS + 5; block < 2 * CHUNK_BLOCKS; block += 2) scattered.add(block);
scattered.addRange(2 * CHUNK_BLOCKS, CHUNK_BLOCKS);

const written = [BlockBitmap.of(FIRST, [0, 1, 2, 4096, FIRST - 1]), new BlockBitmap(SECOND)];
const missing = [scattered, BlockBitmap.full(SECOND)];

function octets(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7) & 255);
}

const begin = {
  type: "begin",
  version: 1,
  migration: "5a1c6e3e-1",
  generation: 4,
  domain: {
    id: "9f7b1d5c-0a3e-4d55-8a6c-7f10c2f0a001",
    name: "grün-web",
    hypervisor: "qemu",
    memoryBytes: 2 ** 40,
    config: '{\n"machine":"q35"}',
    vbds: [
      { name: "root", sizeBytes: SIZES_BYTES[0] },
      { name: "data", sizeBytes: SIZES_BYTES[1] },
    ],
  },
  dataBytes: 2 ** 33,
} as const;

/** One or more messages for each type: a new message cannot be forgotten. */
export const EXAMPLES = {
  begin: [begin, { ...begin, domain: { ...begin.domain, config: "" } }],
  ladder: [
    {
      type: "ladder",
      choices: [
        { rung: "bitmaps", reason: "replica of generation 3, blocks written in generation 4" },
        { rung: "everything", reason: "" },
      ],
    },
  ],
  "ask-hashes": [
    { type: "ask-hashes", vbd: 0, level: "region", start: 95, count: 1 },
    { type: "ask-hashes", vbd: 1, level: "block", start: 0, count: SECOND },
  ],
  blocks: [
    {
      type: "blocks",
      ticket: 2 ** 40,
      purpose: "push",
      vbd: 1,
      runs: [
        { start: 1, count: 1 },
        { start: 5, count: 1 },
      ],
      zeroes: [{ start: 2, count: 2 }],
      data: octets(4096 + 100),
    },
    {
      type: "blocks",
      ticket: 0,
      purpose: "precopy",
      vbd: 0,
      runs: [],
      zeroes: [{ start: 0, count: 256 }],
      data: octets(0),
    },
    {
      type: "blocks",
      ticket: 1,
      purpose: "pull",
      vbd: 0,
      runs: [
        { start: FIRST - 200, count: 100 },
        { start: FIRST - 100, count: 100 },
      ],
      zeroes: [],
      data: octets(200 * 4096),
    },
  ],
  "memory-begin": [{ type: "memory-begin", attempt: 1 }],
  "memory-open": [{ type: "memory-open", migration: "m", attempt: 2, offset: 2 ** 33 }],
  memory: [
    { type: "memory", offset: 0, data: octets(1000) },
    { type: "memory", offset: Number.MAX_SAFE_INTEGER, data: octets(0) },
  ],
  log: [
    { type: "log", entries: [], replicas: [] },
    {
      type: "log",
      entries: [
        { first: 1, last: 2, written },
        { first: 3, last: 3, written: missing },
      ],
      replicas: [
        { host: "12D3KooWA", generation: 2 },
        { host: "12D3KooWB", generation: 3 },
      ],
    },
  ],
  prepare: [{ type: "prepare", attempt: 3, written, missing }],
  "memory-ended": [{ type: "memory-ended", attempt: 3, memoryBytes: 4_294_967_296 }],
  handover: [{ type: "handover", migration: "m", generation: 5 }],
  abort: [{ type: "abort", migration: "m", reason: "cancelled:\n\u{1f6d1} by the operator" }],
  finished: [{ type: "finished", migration: "\ufeffm" }],
  accept: [
    {
      type: "accept",
      version: 1,
      session: "s-1",
      copies: [{ kind: "replica", generation: 3 }, { kind: "none" }],
      memoryTaken: 77,
    },
    {
      type: "accept",
      version: 1,
      session: "s-2",
      copies: [
        { kind: "unknown", reason: "written by someone else" },
        { kind: "unknown", reason: "" },
      ],
      memoryTaken: 0,
    },
  ],
  refuse: [{ type: "refuse", code: "DISK_FULL", reason: "20 GiB needed" }],
  hashes: [
    { type: "hashes", vbd: 0, level: "region", start: 90, digests: octets(6 * DIGEST_SIZE_BYTES) },
    { type: "hashes", vbd: 1, level: "block", start: 0, digests: octets(SECOND * DIGEST_SIZE_BYTES) },
  ],
  stored: [{ type: "stored", ticket: 127 }],
  "memory-ready": [{ type: "memory-ready", attempt: 1 }],
  "memory-taken": [{ type: "memory-taken", offset: 2 ** 35 + 1 }],
  prepared: [{ type: "prepared" }],
  resumed: [{ type: "resumed", missing }],
  pull: [{ type: "pull", vbd: 0, runs: [{ start: 7, count: 32_768 }] }],
  synchronised: [{ type: "synchronised", counts: { pushed: 1, pulled: 2, superseded: 3, late: 2 ** 32 } }],
  failed: [{ type: "failed", code: "MEMORY_REFUSED", reason: "x" }],
  aborted: [{ type: "aborted", migration: "m" }],
} as const satisfies { [Type in Message["type"]]: readonly Extract<Message, { type: Type }>[] };
