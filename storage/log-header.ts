/**
 * The first sector of the durable logs of one vbd. All integers are little-endian.
 *
 *     0          8         12        16           24           32      36      40
 *    +----------+---------+---------+------------+------------+-------+-------+
 *    | magic    | version | crc32   | blockCount | generation | state | scale |
 *    +----------+---------+---------+------------+------------+-------+-------+
 *    | 1 + 63 octets boot id | 1 + 127 octets owner | zeroes up to 512
 *
 * The check sum is over the whole sector with itself as zero. A disk writes a sector wholly or not at all, so
 * a torn header is a foreign or damaged one.
 */

import { crc32 } from "node:zlib";
import { assert } from "../protocol/errors.ts";

export const LOG_HEADER_BYTES = 512;
export const LOG_VERSION = 1;

/** `making`: cut short while it was written. `failed`: a flush of it failed, so it may have lost something. */
const STATES = ["making", "open", "clean", "failed"] as const;

export type LogHeader = {
  /** Eight ASCII characters that name the kind of log. */
  magic: string;
  blockCount: number;
  generation: number;
  state: (typeof STATES)[number];
  /** Of the kind: blocks per region, or 0. */
  scale: number;
  /** The kernel's boot that the page cache belongs to. */
  bootId: string;
  /** What the log is about beyond the generation; may be empty. */
  owner: string;
};

const BOOT_ID_AT = 40;
const OWNER_AT = BOOT_ID_AT + 64;

export function encodeLogHeader(header: LogHeader): Uint8Array {
  const bytes = Buffer.alloc(LOG_HEADER_BYTES);
  assert(header.magic.length === 8);
  bytes.write(header.magic, 0, "latin1");
  bytes.writeUInt32LE(LOG_VERSION, 8);
  bytes.writeBigUInt64LE(BigInt(header.blockCount), 16);
  bytes.writeBigUInt64LE(BigInt(header.generation), 24);
  bytes.writeUInt32LE(STATES.indexOf(header.state), 32);
  bytes.writeUInt32LE(header.scale, 36);
  writeText(bytes, BOOT_ID_AT, header.bootId, 63);
  writeText(bytes, OWNER_AT, header.owner, 127);
  bytes.writeUInt32LE(crc32(bytes), 12);
  return bytes;
}

/** The header, or in words why these octets are none. */
export function decodeLogHeader(sector: Uint8Array, magic: string): LogHeader | string {
  const bytes = Buffer.from(sector);
  if (bytes.toString("latin1", 0, 8) !== magic) return "it is not such a log";
  const version = bytes.readUInt32LE(8);
  if (version !== LOG_VERSION) return `it has version ${version}, and this is version ${LOG_VERSION}`;
  const sum = bytes.readUInt32LE(12);
  bytes.writeUInt32LE(0, 12);
  if (crc32(bytes) !== sum) return "its header is damaged";
  const state = STATES[bytes.readUInt32LE(32)];
  if (state === undefined) return "its header is damaged";
  return {
    magic,
    blockCount: Number(bytes.readBigUInt64LE(16)),
    generation: Number(bytes.readBigUInt64LE(24)),
    state,
    scale: bytes.readUInt32LE(36),
    bootId: readText(bytes, BOOT_ID_AT),
    owner: readText(bytes, OWNER_AT),
  };
}

/** The first field that is not as expected, in words. */
export function headerMismatch(header: LogHeader, expected: Partial<LogHeader>): string | undefined {
  for (const field of ["blockCount", "generation", "scale", "owner"] as const) {
    const want = expected[field];
    if (want !== undefined && header[field] !== want) {
      return `its ${field} is ${JSON.stringify(header[field])} and not ${JSON.stringify(want)}`;
    }
  }
  return undefined;
}

function writeText(bytes: Buffer, at: number, text: string, lengthMax: number): void {
  const length = Buffer.byteLength(text);
  assert(length <= lengthMax, "a boot id or owner is too long for the header");
  bytes[at] = length;
  bytes.write(text, at + 1);
}

function readText(bytes: Buffer, at: number): string {
  return bytes.toString("utf8", at + 1, at + 1 + bytes[at]!);
}
