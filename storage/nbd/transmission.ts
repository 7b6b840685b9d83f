/**
 * Requests and replies of the transmission phase, octet by octet, and the one place that says no to a request.
 *
 *    0       4       6       8               16              24      28
 *   +-------+-------+-------+---------------+---------------+-------+
 *   | magic | flags | type  | cookie        | offset        | length| data of a WRITE ...
 *   +-------+-------+-------+---------------+---------------+-------+
 *   | magic | error | cookie        |                                 simple reply, data of a READ ...
 *   +-------+-------+-------+-------+-------+-------+
 *   | magic | flags | type  | cookie        | length|                 chunk of a structured reply, payload ...
 *   +-------+-------+-------+---------------+-------+
 *
 * Nothing here allocates for a read or a write: a request is decoded into an object that is reused, a 64-bit number is two
 * halves or a double (an offset above 2^53 loses bits, and is refused as beyond the end all the same).
 */
import {
  NBD_CMD,
  NBD_CMD_FLAG,
  NBD_ERRNO,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  PAYLOAD_SIZE_BYTES_MAX,
  STRUCTURED_REPLY_SIZE_BYTES,
} from "./constants.ts";
import type { StatusExtent } from "./metadata-contexts.ts";

const TWO_POW_32 = 4294967296;

/** The client's name for a request, in two halves, for it is only ever given back. */
export type Cookie = { readonly high: number; readonly low: number };

export class Request {
  flags = 0;
  command = 0;
  high = 0;
  low = 0;
  offset = 0;
  length = 0;

  /** Whether 28 octets at `at` are a request. */
  decode(bytes: Buffer, at: number): boolean {
    if (bytes.readUInt32BE(at) !== NBD_REQUEST_MAGIC) return false;
    this.flags = bytes.readUInt16BE(at + 4);
    this.command = bytes.readUInt16BE(at + 6);
    this.high = bytes.readUInt32BE(at + 8);
    this.low = bytes.readUInt32BE(at + 12);
    this.offset = bytes.readUInt32BE(at + 16) * TWO_POW_32 + bytes.readUInt32BE(at + 20);
    this.length = bytes.readUInt32BE(at + 24);
    return true;
  }
}

export type RequestLimits = {
  sizeBytes: number;
  readOnly: boolean;
  structuredReplies: boolean;
  hasContexts: boolean;
  canFastZero: boolean;
};

/** The error number that a request deserves before anything is done, or 0. In this order: rights, form, range. */
export function refusal(request: Request, limits: RequestLimits): number {
  const { command, flags, offset, length } = request;
  if (limits.readOnly && isWriting(command)) return NBD_ERRNO.EPERM;
  if ((flags & ~flagsAllowed(command, limits)) !== 0) return NBD_ERRNO.EINVAL;
  switch (command) {
    case NBD_CMD.FLUSH:
      return offset === 0 && length === 0 ? 0 : NBD_ERRNO.EINVAL;
    case NBD_CMD.READ:
    case NBD_CMD.WRITE:
      if (length > PAYLOAD_SIZE_BYTES_MAX) return NBD_ERRNO.EINVAL;
      break;
    case NBD_CMD.BLOCK_STATUS:
      if (!limits.hasContexts) return NBD_ERRNO.EINVAL;
      break;
    case NBD_CMD.TRIM:
    case NBD_CMD.CACHE:
    case NBD_CMD.WRITE_ZEROES:
      break;
    default:
      return NBD_ERRNO.EINVAL;
  }
  // The specification leaves a length of zero open; a client that sends it has miscounted.
  if (length === 0) return NBD_ERRNO.EINVAL;
  if (offset + length > limits.sizeBytes) {
    return command === NBD_CMD.WRITE || command === NBD_CMD.WRITE_ZEROES
      ? NBD_ERRNO.ENOSPC
      : NBD_ERRNO.EINVAL;
  }
  // A client asks so to learn whether zeroing beats writing; the honest answer costs nothing.
  if ((flags & NBD_CMD_FLAG.FAST_ZERO) !== 0 && !limits.canFastZero) return NBD_ERRNO.ENOTSUP;
  return 0;
}

function isWriting(command: number): boolean {
  return command === NBD_CMD.WRITE || command === NBD_CMD.TRIM || command === NBD_CMD.WRITE_ZEROES;
}

function flagsAllowed(command: number, { structuredReplies }: RequestLimits): number {
  switch (command) {
    case NBD_CMD.READ:
      return structuredReplies ? NBD_CMD_FLAG.FUA | NBD_CMD_FLAG.DF : NBD_CMD_FLAG.FUA;
    case NBD_CMD.WRITE_ZEROES:
      return NBD_CMD_FLAG.FUA | NBD_CMD_FLAG.NO_HOLE | NBD_CMD_FLAG.FAST_ZERO;
    case NBD_CMD.BLOCK_STATUS:
      return NBD_CMD_FLAG.FUA | NBD_CMD_FLAG.REQ_ONE;
    default:
      // FUA is allowed on every command once it was announced, and means nothing on most.
      return NBD_CMD_FLAG.FUA;
  }
}

/** The error number for a failure of the store. Matched by code, so that a store of any folder can be served. */
export function errnoOfFailure(error: unknown): number {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  switch (code) {
    case "STORAGE_FULL":
    case "ENOSPC":
    case "EDQUOT":
      return NBD_ERRNO.ENOSPC;
    case "STORAGE_READ_ONLY":
    case "EROFS":
      return NBD_ERRNO.EPERM;
    case "STORAGE_OUT_OF_RANGE":
      return NBD_ERRNO.EINVAL;
    case "STORAGE_FENCED":
    case "STORAGE_CLOSED":
    // Also closed, while the request waited for the other host: asking again may succeed, an I/O error would not.
    case "STORAGE_PULL_FAILED":
      return NBD_ERRNO.ESHUTDOWN;
    default:
      return NBD_ERRNO.EIO;
  }
}

export function writeSimpleReply(bytes: Buffer, at: number, errno: number, { high, low }: Cookie): void {
  bytes.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  bytes.writeUInt32BE(errno, at + 4);
  bytes.writeUInt32BE(high, at + 8);
  bytes.writeUInt32BE(low, at + 12);
}

export type ChunkHeader = { flags: number; type: number; length: number };

function writeChunkHeader(bytes: Buffer, at: number, { high, low }: Cookie, chunk: ChunkHeader): void {
  bytes.writeUInt32BE(NBD_STRUCTURED_REPLY_MAGIC, at);
  bytes.writeUInt16BE(chunk.flags, at + 4);
  bytes.writeUInt16BE(chunk.type, at + 6);
  bytes.writeUInt32BE(high, at + 8);
  bytes.writeUInt32BE(low, at + 12);
  bytes.writeUInt32BE(chunk.length, at + 16);
}

/** The 28 octets before the data of a READ. Positional and flat: this runs once per request. */
export function writeDataChunkHeader(
  bytes: Buffer,
  at: number,
  { high, low }: Cookie,
  offset: number,
  length: number,
  done: boolean,
): void {
  bytes.writeUInt32BE(NBD_STRUCTURED_REPLY_MAGIC, at);
  bytes.writeUInt16BE(done ? NBD_REPLY_FLAG_DONE : 0, at + 4);
  bytes.writeUInt16BE(NBD_REPLY_TYPE.OFFSET_DATA, at + 6);
  bytes.writeUInt32BE(high, at + 8);
  bytes.writeUInt32BE(low, at + 12);
  bytes.writeUInt32BE(length + 8, at + 16);
  bytes.writeUInt32BE(Math.floor(offset / TWO_POW_32), at + 20);
  bytes.writeUInt32BE(offset % TWO_POW_32, at + 24);
}

/** A failed READ or BLOCK_STATUS of a client with structured replies; no message, the number says it. */
export function errorChunk(errno: number, cookie: Cookie): Buffer {
  const bytes = Buffer.alloc(STRUCTURED_REPLY_SIZE_BYTES + 6);
  writeChunkHeader(bytes, 0, cookie, { flags: NBD_REPLY_FLAG_DONE, type: NBD_REPLY_TYPE.ERROR, length: 6 });
  bytes.writeUInt32BE(errno, 20);
  return bytes;
}

/** One context's answer to a BLOCK_STATUS. */
export function blockStatusChunk(
  cookie: Cookie,
  { id, extents, done }: { id: number; extents: readonly StatusExtent[]; done: boolean },
): Buffer {
  const length = 4 + 8 * extents.length;
  const bytes = Buffer.alloc(STRUCTURED_REPLY_SIZE_BYTES + length);
  const flags = done ? NBD_REPLY_FLAG_DONE : 0;
  writeChunkHeader(bytes, 0, cookie, { flags, type: NBD_REPLY_TYPE.BLOCK_STATUS, length });
  bytes.writeUInt32BE(id, 20);
  let at = 24;
  for (const extent of extents) {
    bytes.writeUInt32BE(extent.length, at);
    bytes.writeUInt32BE(extent.flags, at + 4);
    at += 8;
  }
  return bytes;
}
