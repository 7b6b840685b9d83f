/**
 * Replies of a server, taken apart as they arrive. Data of a READ goes straight to where its caller wants it.
 *
 * A server can break every rule: a cookie that nobody waits for, data outside the request, a read that ends short, chunks
 * without end. Each throws `NBD_PROTOCOL`, and the connection is given up: nothing after it can be trusted.
 */
import {
  EXTENTS_MAX,
  NBD_CMD,
  NBD_ERRNO,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE_BYTES,
  STRING_SIZE_BYTES_MAX,
  STRUCTURED_REPLY_SIZE_BYTES,
} from "./constants.ts";
import { NbdError } from "./errors.ts";
import type { StatusExtent } from "./metadata-contexts.ts";

const TWO_POW_32 = 4294967296;
const ERROR_BIT = 1 << 15;
/** A chunk that is collected as a whole: extents of a context, or an error with its message. */
const COLLECTED_SIZE_BYTES_MAX = Math.max(8 * 64 * EXTENTS_MAX, STRING_SIZE_BYTES_MAX) + 64;

/** A request without its answer. */
export type PendingReply = {
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  /** Where the data of a READ goes. */
  readonly target: Buffer | undefined;
  receivedBytes: number;
  errno: number;
  readonly extents: Map<number, StatusExtent[]>;
};

export interface ReplySink<Pending extends PendingReply> {
  /** The request of this cookie, while it waits. */
  find(high: number, low: number): Pending | undefined;
  /** Its answer is complete. */
  answered(pending: Pending, high: number, low: number): void;
}

type Payload = {
  kind: "data" | "data-offset" | "collected";
  type: number;
  left: number;
  /** Where the next octet of data goes in the target. */
  at: number;
  done: boolean;
};

export class ReplyReader<Pending extends PendingReply> {
  readonly #sink: ReplySink<Pending>;
  readonly #structuredReplies: boolean;
  #collected: Buffer = Buffer.alloc(0);
  #high = 0;
  #low = 0;
  #pending: Pending | undefined;
  #payload: Payload | undefined;

  constructor(sink: ReplySink<Pending>, { structuredReplies }: { structuredReplies: boolean }) {
    this.#sink = sink;
    this.#structuredReplies = structuredReplies;
  }

  /** Throws `NbdError` for what no server may send. */
  received(bytes: Buffer): void {
    let rest = bytes;
    while (rest.length > 0) {
      const payload = this.#payload;
      if (payload?.kind === "data") rest = this.#takeData(payload, rest);
      else rest = this.#collect(rest, payload === undefined ? this.#headerWanted(rest) : payload.left);
    }
  }

  /** A structured reply's header is four octets longer; the first octet of the magic tells which it is. */
  #headerWanted(rest: Buffer): number {
    const first = this.#collected.length > 0 ? this.#collected[0] : rest[0];
    const isStructured = first === NBD_STRUCTURED_REPLY_MAGIC >>> 24;
    return isStructured ? STRUCTURED_REPLY_SIZE_BYTES : SIMPLE_REPLY_SIZE_BYTES;
  }

  #collect(rest: Buffer, wanted: number): Buffer {
    const taken = rest.subarray(0, wanted - this.#collected.length);
    const whole = this.#collected.length === 0 ? taken : Buffer.concat([this.#collected, taken]);
    if (whole.length < wanted) {
      // A copy: the chunk that it came in is large.
      this.#collected = Buffer.from(whole);
    } else {
      this.#collected = Buffer.alloc(0);
      if (this.#payload === undefined) this.#header(whole);
      else this.#collectedPayload(this.#payload, whole);
    }
    return rest.subarray(taken.length);
  }

  #header(header: Buffer): void {
    const magic = header.readUInt32BE(0);
    this.#high = header.readUInt32BE(8);
    this.#low = header.readUInt32BE(12);
    const pending = this.#sink.find(this.#high, this.#low);
    if (pending === undefined) throw protocolError("a reply that nobody waits for");
    this.#pending = pending;
    if (magic === NBD_STRUCTURED_REPLY_MAGIC && this.#structuredReplies) this.#chunkHeader(pending, header);
    else if (magic === NBD_SIMPLE_REPLY_MAGIC) this.#simpleReply(pending, header.readUInt32BE(4));
    else throw protocolError("bad magic of a reply");
  }

  #simpleReply(pending: Pending, errno: number): void {
    pending.errno = errno;
    if (pending.command === NBD_CMD.READ && errno === 0) {
      if (this.#structuredReplies) throw protocolError("a simple reply to a read");
      this.#payload = { kind: "data", type: 0, left: pending.length, at: 0, done: true };
      return;
    }
    this.#finish();
  }

  #chunkHeader(pending: Pending, header: Buffer): void {
    const done = (header.readUInt16BE(4) & NBD_REPLY_FLAG_DONE) !== 0;
    const type = header.readUInt16BE(6);
    const left = header.readUInt32BE(16);
    if (type === NBD_REPLY_TYPE.NONE) {
      if (left !== 0 || !done) throw protocolError("a chunk of nothing that is not the last");
      this.#finish();
      return;
    }
    if (type === NBD_REPLY_TYPE.OFFSET_DATA) {
      if (pending.target === undefined || left <= 8) throw protocolError("data that was not asked for");
      this.#payload = { kind: "data-offset", type, left: 8, at: left - 8, done };
      return;
    }
    if (left === 0 || left > COLLECTED_SIZE_BYTES_MAX) throw protocolError("a chunk of a bad length");
    this.#payload = { kind: "collected", type, left, at: 0, done };
  }

  #collectedPayload(payload: Payload, bytes: Buffer): void {
    const pending = this.#pending!;
    const { type, done } = payload;
    this.#payload = undefined;
    if (payload.kind === "data-offset") {
      const at = this.#positionOf(pending, bytes, payload.at);
      this.#payload = { kind: "data", type, left: payload.at, at, done };
      return;
    }
    if ((type & ERROR_BIT) !== 0) {
      if (bytes.length < 6) throw protocolError("an error without its number");
      pending.errno = bytes.readUInt32BE(0) || NBD_ERRNO.EIO;
    } else if (type === NBD_REPLY_TYPE.OFFSET_HOLE && pending.target !== undefined && bytes.length === 12) {
      const length = bytes.readUInt32BE(8);
      const at = this.#positionOf(pending, bytes, length);
      pending.target.fill(0, at, at + length);
      pending.receivedBytes += length;
    } else if (type === NBD_REPLY_TYPE.BLOCK_STATUS && pending.command === NBD_CMD.BLOCK_STATUS) {
      blockStatus(pending, bytes);
    } else {
      throw protocolError("a chunk of a type that was not asked for");
    }
    if (done) this.#finish();
  }

  #positionOf(pending: Pending, bytes: Buffer, length: number): number {
    const at = bytes.readUInt32BE(0) * TWO_POW_32 + bytes.readUInt32BE(4) - pending.offset;
    if (at < 0 || length === 0 || at + length > pending.length)
      throw protocolError("data outside of the request");
    if (pending.receivedBytes + length > pending.length) throw protocolError("more data than was asked for");
    return at;
  }

  #takeData(payload: Payload, rest: Buffer): Buffer {
    const pending = this.#pending!;
    const taken = Math.min(payload.left, rest.length);
    rest.copy(pending.target!, payload.at, 0, taken);
    payload.at += taken;
    payload.left -= taken;
    pending.receivedBytes += taken;
    if (payload.left === 0) {
      this.#payload = undefined;
      if (payload.done) this.#finish();
    }
    return rest.subarray(taken);
  }

  #finish(): void {
    const pending = this.#pending!;
    this.#pending = undefined;
    this.#payload = undefined;
    if (pending.command === NBD_CMD.READ && pending.errno === 0 && pending.receivedBytes !== pending.length) {
      throw protocolError("a read that ended short");
    }
    this.#sink.answered(pending, this.#high, this.#low);
  }
}

function blockStatus(pending: PendingReply, bytes: Buffer): void {
  if (bytes.length < 12 || (bytes.length - 4) % 8 !== 0)
    throw protocolError("a block status of a bad length");
  const id = bytes.readUInt32BE(0);
  if (pending.extents.has(id)) throw protocolError("a context that is answered twice");
  const extents: StatusExtent[] = [];
  for (let at = 4; at < bytes.length; at += 8) {
    const length = bytes.readUInt32BE(at);
    if (length === 0) throw protocolError("an extent of no length");
    extents.push({ length, flags: bytes.readUInt32BE(at + 4) });
  }
  pending.extents.set(id, extents);
}

function protocolError(reason: string): NbdError {
  return new NbdError({ code: "NBD_PROTOCOL", reason });
}
