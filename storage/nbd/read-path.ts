/**
 * READ requests. A store that completes at once reads straight into the batch of replies; one that takes its time gets a
 * buffer of its own per request. Which kind a store is shows with every answer, and the next request guesses the same.
 *
 * A long read of a client with structured replies is answered in pieces: they stay in the processor's cache, and no
 * client makes us hold 32 MiB because it reads its replies slowly.
 */
import type { Completion } from "../block-store.ts";
import type { BufferLease, PooledBuffer } from "./buffer-pool.ts";
import { DATA_CHUNK_HEADER_SIZE_BYTES, SIMPLE_REPLY_SIZE_BYTES } from "./constants.ts";
import type { Operations } from "./operations.ts";
import { type Cookie, errnoOfFailure, writeDataChunkHeader, writeSimpleReply } from "./transmission.ts";

/** One batch of replies. */
const PIECE_SIZE_BYTES = 256 << 10;

/** A read that is answered in pieces, and how far it is. */
type SplitRead = { cookie: Cookie; next: number; readonly end: number; pending: number; errno: number };
type Piece = { cookie: Cookie; offset: number; length: number; split: SplitRead | undefined };

export class ReadPath {
  readonly #operations: Operations;
  readonly #lease: BufferLease;
  readonly #headerSizeBytes: number;
  #split: SplitRead | undefined;
  /** The last read did not complete at once. */
  #late = false;

  constructor({ operations, lease }: { operations: Operations; lease: BufferLease }) {
    this.#operations = operations;
    this.#lease = lease;
    this.#headerSizeBytes = operations.structuredReplies
      ? DATA_CHUNK_HEADER_SIZE_BYTES
      : SIMPLE_REPLY_SIZE_BYTES;
  }

  /** A long read has pieces left to begin: call `continue` before the next request. */
  get isSplit(): boolean {
    return this.#split !== undefined;
  }

  begin(cookie: Cookie, offset: number, length: number, whole: boolean): void {
    if (whole || length <= PIECE_SIZE_BYTES || !this.#operations.structuredReplies) {
      this.#read(cookie, offset, length, undefined);
      return;
    }
    const { high, low } = cookie;
    this.#split = { cookie: { high, low }, next: offset, end: offset + length, pending: 0, errno: 0 };
  }

  continue(): void {
    const split = this.#split!;
    const offset = split.next;
    const length = Math.min(PIECE_SIZE_BYTES, split.end - offset);
    split.next += length;
    if (split.next === split.end) this.#split = undefined;
    this.#read(split.cookie, offset, length, split);
    // What failed is not read on; the pieces in flight will say so.
    if (split.errno !== 0) this.#split = undefined;
  }

  /** What has not begun of a long read never will; it is answered with this error. */
  refuseRest(errno: number): void {
    const split = this.#split;
    if (split !== undefined) this.#fail(split.cookie, split, errno);
  }

  /** The connection ends: what has not begun never will. */
  abandon(): void {
    this.#split = undefined;
  }

  #read(cookie: Cookie, offset: number, length: number, split: SplitRead | undefined): void {
    if (this.#late) {
      this.#readApart({ cookie: { high: cookie.high, low: cookie.low }, offset, length, split });
      return;
    }
    const { replies, entry } = this.#operations;
    const sizeBytes = this.#headerSizeBytes + length;
    const at = replies.reserve(sizeBytes);
    const dataAt = at + this.#headerSizeBytes;
    let completion: Completion;
    try {
      completion = entry.export.store.read(offset, replies.bytes.subarray(dataAt, dataAt + length));
    } catch (error) {
      this.#fail(cookie, split, errnoOfFailure(error));
      return;
    }
    if (completion === undefined) {
      const done = split === undefined || (split.next === split.end && split.pending === 0);
      this.#writeHeader(replies.bytes, at, cookie, offset, length, done);
      replies.commit(sizeBytes);
      return;
    }
    this.#late = true;
    const piece = { cookie: { high: cookie.high, low: cookie.low }, offset, length, split };
    this.#await(completion, piece, replies.detach(), at);
  }

  #readApart(piece: Piece): void {
    const buffer = this.#lease.take(this.#headerSizeBytes + piece.length);
    const data = buffer.bytes.subarray(this.#headerSizeBytes, this.#headerSizeBytes + piece.length);
    let completion: Completion;
    try {
      completion = this.#operations.entry.export.store.read(piece.offset, data);
    } catch (error) {
      buffer.release();
      this.#fail(piece.cookie, piece.split, errnoOfFailure(error));
      return;
    }
    if (completion !== undefined) {
      this.#await(completion, piece, buffer, 0);
      return;
    }
    this.#late = false;
    this.#send(piece, buffer, 0);
  }

  #await(completion: Promise<void>, piece: Piece, buffer: PooledBuffer, at: number): void {
    const { cookie, split } = piece;
    if (split !== undefined) split.pending++;
    this.#operations.track(completion, (errno) => {
      if (split !== undefined) split.pending--;
      if (errno === 0 && (split === undefined || split.errno === 0)) {
        this.#send(piece, buffer, at);
        return;
      }
      buffer.release();
      this.#fail(cookie, split, errno);
    });
  }

  #send({ cookie, offset, length, split }: Piece, buffer: PooledBuffer, at: number): void {
    const done = split === undefined || (split.next === split.end && split.pending === 0);
    this.#writeHeader(buffer.bytes, at, cookie, offset, length, done);
    this.#operations.replies.sendOwn(buffer, at, this.#headerSizeBytes + length);
  }

  /** The error is the last chunk of a split read: the pieces that were on their way come first. */
  #fail(cookie: Cookie, split: SplitRead | undefined, errno: number): void {
    if (split === undefined) {
      this.#operations.refuseChunked(cookie, errno);
      return;
    }
    if (split.errno === 0) split.errno = errno;
    if (this.#split === split) this.#split = undefined;
    if (split.pending === 0) this.#operations.refuseChunked(cookie, split.errno);
  }

  #writeHeader(
    bytes: Buffer,
    at: number,
    cookie: Cookie,
    offset: number,
    length: number,
    done: boolean,
  ): void {
    if (this.#operations.structuredReplies) writeDataChunkHeader(bytes, at, cookie, offset, length, done);
    else writeSimpleReply(bytes, at, 0, cookie);
  }
}
