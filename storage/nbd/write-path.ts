/**
 * WRITE requests, whose payload follows them on the wire.
 *
 * A store that completes at once is given the receive buffer itself, piece by piece as the octets come: nothing is
 * assembled or copied. A piece ends at a block's end, for half a block costs a store that misses its other half a
 * pull; the rest of the block is carried over to the next octets.
 * A store that takes its time gets a copy, and reading goes on. When a store given the receive buffer turns out to take
 * its time, the connection is pinned: nothing is received until the store is done with the buffer.
 */
import type { Completion } from "../block-store.ts";
import type { BufferLease, PooledBuffer } from "./buffer-pool.ts";
import { BLOCK_SIZE_BYTES_PREFERRED } from "./constants.ts";
import type { Operations } from "./operations.ts";
import { errnoOfFailure, type Request } from "./transmission.ts";

/** What a store that takes its time gets at once. */
const COPIED_PIECE_SIZE_BYTES = 1 << 20;

/** A write whose payload is still being received, or whose pieces are still in flight. */
type IncomingWrite = {
  readonly high: number;
  readonly low: number;
  readonly flags: number;
  /** Where in the export the next octet belongs. */
  next: number;
  readonly end: number;
  /** The first error. The rest of the payload is received and dropped. */
  errno: number;
  pending: number;
  /** Octets copied and not given to the store yet. */
  piece: { buffer: PooledBuffer; offset: number; length: number; lengthMax: number } | undefined;
};

export class WritePath {
  readonly #operations: Operations;
  readonly #lease: BufferLease;
  #incoming: IncomingWrite | undefined;
  /** The last write did not complete at once. */
  #late = false;
  #pinned = false;

  constructor({ operations, lease }: { operations: Operations; lease: BufferLease }) {
    this.#operations = operations;
    this.#lease = lease;
  }

  /** The octets that come next are payload: call `receive`. */
  get isIncoming(): boolean {
    return this.#incoming !== undefined;
  }

  /** The store uses the receive buffer. */
  get isPinned(): boolean {
    return this.#pinned;
  }

  /** Begins a write whose payload starts at `at`; an `errno` refuses it. Returns how many octets it took. */
  begin(request: Request, errno: number, bytes: Buffer, at: number, end: number): number {
    const { high, low, flags, offset, length } = request;
    if (errno === 0 && !this.#late && end - at >= length) {
      this.#writeWhole(request, bytes.subarray(at, at + length));
      return length;
    }
    this.#incoming = {
      high,
      low,
      flags,
      next: offset,
      end: offset + length,
      errno,
      pending: 0,
      piece: undefined,
    };
    if (errno === 0 && length > 0) return 0;
    // An offset beyond 2^53 would lose count of a refused payload.
    this.#incoming.next = 0;
    (this.#incoming as { end: number }).end = length;
    return this.receive(bytes, at, end);
  }

  /** Takes payload from `at`, and returns how many octets. */
  receive(bytes: Buffer, at: number, end: number): number {
    const write = this.#incoming!;
    const taken = this.#take(write, bytes, at, Math.min(end - at, write.end - write.next));
    if (write.next === write.end) {
      this.#incoming = undefined;
      if (write.pending === 0) this.#operations.answer(write, write.flags, write.errno);
    }
    return taken;
  }

  /** From now on the payload is dropped, and the answer is this error. */
  refuseRest(errno: number): void {
    const write = this.#incoming;
    if (write !== undefined && write.errno === 0) this.#failed(write, errno);
  }

  /** The connection ends in the middle of a payload. */
  abandon(): void {
    this.#incoming?.piece?.buffer.release();
    this.#incoming = undefined;
  }

  #writeWhole(request: Request, data: Buffer): void {
    let completion: Completion;
    try {
      completion = this.#operations.entry.export.store.write(request.offset, data);
    } catch (error) {
      this.#operations.simple(request, errnoOfFailure(error));
      return;
    }
    if (completion === undefined) {
      this.#operations.answer(request, request.flags, 0);
      return;
    }
    const { high, low, flags } = request;
    this.#late = true;
    this.#pinned = true;
    this.#operations.track(completion, (errno) => {
      this.#pinned = false;
      this.#operations.answer({ high, low }, flags, errno);
    });
  }

  #take(write: IncomingWrite, bytes: Buffer, at: number, available: number): number {
    if (write.errno !== 0) {
      write.next += available;
      return available;
    }
    if (write.piece === undefined && !this.#late) {
      const length = wholeBlocks(write, available);
      if (length > 0) {
        this.#writeDirect(write, bytes.subarray(at, at + length));
        return length;
      }
    }
    const piece = (write.piece ??= this.#newPiece(write));
    const length = Math.min(available, piece.lengthMax - piece.length);
    bytes.copy(piece.buffer.bytes, piece.length, at, at + length);
    piece.length += length;
    write.next += length;
    if (piece.length === piece.lengthMax) this.#writePiece(write);
    return length;
  }

  #newPiece({ next, end }: IncomingWrite): NonNullable<IncomingWrite["piece"]> {
    const sizeMax = this.#late ? COPIED_PIECE_SIZE_BYTES : BLOCK_SIZE_BYTES_PREFERRED;
    const stop = next + sizeMax;
    const lengthMax = Math.min(end, stop - (stop % BLOCK_SIZE_BYTES_PREFERRED)) - next;
    return { buffer: this.#lease.take(lengthMax), offset: next, length: 0, lengthMax };
  }

  #writeDirect(write: IncomingWrite, data: Buffer): void {
    const offset = write.next;
    write.next += data.length;
    let completion: Completion;
    try {
      completion = this.#operations.entry.export.store.write(offset, data);
    } catch (error) {
      this.#failed(write, errnoOfFailure(error));
      return;
    }
    if (completion === undefined) return;
    this.#late = true;
    this.#pinned = true;
    write.pending++;
    this.#operations.track(completion, (errno) => {
      this.#pinned = false;
      this.#settled(write, errno);
    });
  }

  #writePiece(write: IncomingWrite): void {
    const { buffer, offset, length } = write.piece!;
    write.piece = undefined;
    let completion: Completion;
    try {
      completion = this.#operations.entry.export.store.write(offset, buffer.bytes.subarray(0, length));
    } catch (error) {
      buffer.release();
      this.#failed(write, errnoOfFailure(error));
      return;
    }
    if (completion === undefined) {
      this.#late = false;
      buffer.release();
      return;
    }
    this.#late = true;
    write.pending++;
    this.#operations.track(completion, (errno) => {
      buffer.release();
      this.#settled(write, errno);
    });
  }

  #settled(write: IncomingWrite, errno: number): void {
    write.pending--;
    if (errno !== 0) this.#failed(write, errno);
    if (write.pending > 0 || write.next < write.end) return;
    // `receive` answers a write that completes while it is still the incoming one.
    if (write !== this.#incoming) this.#operations.answer(write, write.flags, write.errno);
  }

  #failed(write: IncomingWrite, errno: number): void {
    if (write.errno === 0) write.errno = errno;
    write.piece?.buffer.release();
    write.piece = undefined;
  }
}

/** How much of what is there ends at the end of a block, or of the write. */
function wholeBlocks({ next, end }: IncomingWrite, available: number): number {
  const stop = next + available;
  if (stop === end) return available;
  return Math.max(0, stop - (stop % BLOCK_SIZE_BYTES_PREFERRED) - next);
}
