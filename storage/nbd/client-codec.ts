/**
 * The client's half of the octets: options and requests out. The server is as hostile as any peer: whoever reads its
 * answers checks every length.
 */
import { NBD_IHAVEOPT, NBD_REQUEST_MAGIC, REQUEST_SIZE_BYTES } from "./constants.ts";

const TWO_POW_32 = 4294967296;

export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(16 + data.length);
  bytes.writeBigUInt64BE(NBD_IHAVEOPT, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  data.copy(bytes, 16);
  return bytes;
}

/** Data of GO: the name, and no wishes: what we need is sent unasked. */
export function encodeGo(name: string): Buffer {
  return Buffer.concat([encodeString(name), Buffer.alloc(2)]);
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function encodeMetaContexts(name: string, queries: readonly string[]): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(queries.length);
  return Buffer.concat([encodeString(name), count, ...queries.map(encodeString)]);
}

export type RequestHeader = {
  command: number;
  flags: number;
  cookie: number;
  offset: number;
  length: number;
};

export function encodeRequest({ command, flags, cookie, offset, length }: RequestHeader): Buffer {
  const bytes = Buffer.allocUnsafe(REQUEST_SIZE_BYTES);
  bytes.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(command, 6);
  bytes.writeUInt32BE(0, 8);
  bytes.writeUInt32BE(cookie, 12);
  bytes.writeUInt32BE(Math.floor(offset / TWO_POW_32), 16);
  bytes.writeUInt32BE(offset % TWO_POW_32, 20);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}
