/**
 * Options of the negotiation and their replies, octet by octet. Decoders answer undefined for data that is not exactly
 * what its lengths say: the peer may be hostile.
 *
 *    0               8       12      16              20
 *   +---------------+-------+-------+                         option:  IHAVEOPT, number, length of the data
 *   | IHAVEOPT      | option| length| data ...
 *   +---------------+-------+-------+-------+
 *   | reply magic   | option| reply | length| data ...        reply to an option
 *   +---------------+-------+-------+-------+
 */

import {
  BLOCK_SIZE_BYTES_MIN,
  BLOCK_SIZE_BYTES_PREFERRED,
  META_QUERIES_MAX,
  NBD_INFO,
  NBD_OPT_REPLY_MAGIC,
  NBD_REP,
  PAYLOAD_SIZE_BYTES_MAX,
  STRING_SIZE_BYTES_MAX,
} from "./constants.ts";
import type { ExportEntry } from "./export-registry.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function optionReply(option: number, reply: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(20 + data.length);
  bytes.writeBigUInt64BE(NBD_OPT_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(reply, 12);
  bytes.writeUInt32BE(data.length, 16);
  data.copy(bytes, 20);
  return bytes;
}

/** A name as a client sends it, or undefined when it is too long or not UTF-8. */
export function decodeName(bytes: Buffer): string | undefined {
  if (bytes.length > STRING_SIZE_BYTES_MAX) return undefined;
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

export type GoRequest = { name: string; wanted: readonly number[] };

/** Data of INFO and GO: the name, and the kinds of information the client would like. */
export function decodeGo(data: Buffer): GoRequest | undefined {
  if (data.length < 6) return undefined;
  const nameLength = data.readUInt32BE(0);
  if (nameLength > data.length - 6) return undefined;
  const name = decodeName(data.subarray(4, 4 + nameLength));
  const count = data.readUInt16BE(4 + nameLength);
  if (name === undefined || data.length !== 6 + nameLength + 2 * count) return undefined;
  const wanted: number[] = [];
  for (let i = 0; i < count; i++) wanted.push(data.readUInt16BE(6 + nameLength + 2 * i));
  return { name, wanted };
}

export type MetaContextRequest = { name: string; queries: readonly string[] };

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function decodeMetaContexts(data: Buffer): MetaContextRequest | undefined {
  let at = 0;
  const takeNumber = (): number | undefined => {
    if (data.length - at < 4) return undefined;
    at += 4;
    return data.readUInt32BE(at - 4);
  };
  const takeString = (): string | undefined => {
    const length = takeNumber();
    if (length === undefined || length > data.length - at) return undefined;
    at += length;
    return decodeName(data.subarray(at - length, at));
  };
  const name = takeString();
  const count = takeNumber();
  if (name === undefined || count === undefined || count > META_QUERIES_MAX) return undefined;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    const query = takeString();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return at === data.length ? { name, queries } : undefined;
}

/** The replies of INFO and GO before their ACK. The name is the one that was asked for: no other is told. */
export function infoReplies(
  option: number,
  { name, wanted }: GoRequest,
  entry: ExportEntry,
  transmissionFlags: number,
): Buffer[] {
  const about = Buffer.alloc(12);
  about.writeUInt16BE(NBD_INFO.EXPORT, 0);
  about.writeBigUInt64BE(BigInt(entry.sizeBytes), 2);
  about.writeUInt16BE(transmissionFlags, 10);
  const blockSizes = Buffer.alloc(14);
  blockSizes.writeUInt16BE(NBD_INFO.BLOCK_SIZE, 0);
  blockSizes.writeUInt32BE(BLOCK_SIZE_BYTES_MIN, 2);
  blockSizes.writeUInt32BE(BLOCK_SIZE_BYTES_PREFERRED, 6);
  blockSizes.writeUInt32BE(PAYLOAD_SIZE_BYTES_MAX, 10);
  const data: Buffer[] = [about, blockSizes];
  if (wanted.includes(NBD_INFO.NAME)) data.push(infoText(NBD_INFO.NAME, name));
  if (wanted.includes(NBD_INFO.DESCRIPTION) && entry.export.description !== "") {
    data.push(infoText(NBD_INFO.DESCRIPTION, entry.export.description));
  }
  return data.map((each) => optionReply(option, NBD_REP.INFO, each));
}

export function serverReply(option: number, name: string, description: string): Buffer {
  const nameBytes = Buffer.from(name);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(nameBytes.length);
  return optionReply(option, NBD_REP.SERVER, Buffer.concat([length, nameBytes, Buffer.from(description)]));
}

export function metaContextReply(option: number, id: number, name: string): Buffer {
  const idBytes = Buffer.alloc(4);
  idBytes.writeUInt32BE(id);
  return optionReply(option, NBD_REP.META_CONTEXT, Buffer.concat([idBytes, Buffer.from(name)]));
}

/** What answers EXPORT_NAME: no reply header, for it is older than those. */
export function exportNameReply(sizeBytes: number, transmissionFlags: number, noZeroes: boolean): Buffer {
  const bytes = Buffer.alloc(noZeroes ? 10 : 134);
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 0);
  bytes.writeUInt16BE(transmissionFlags, 8);
  return bytes;
}

function infoText(kind: number, text: string): Buffer {
  const kindBytes = Buffer.alloc(2);
  kindBytes.writeUInt16BE(kind);
  return Buffer.concat([kindBytes, Buffer.from(text)]);
}
