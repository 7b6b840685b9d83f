/**
 * The transmission phase of one connection: octets in, operations on the store, replies out.
 *
 *   open ──DISC, end of input, export gone──▶ ending ──nothing in flight──▶ closed
 *     └────────nonsense, socket lost─────────────────────────────────────────▶ closed
 *
 * Everything that completes at once is answered in the turn that received it. The loop stops, and reading with it, while
 * the export is suspended, while the client does not take its replies, and while too much is held or in flight; octets
 * that are received and not looked at stay where they are, in the receive buffer.
 */
import type { Socket } from "node:net";
import type { BufferLease } from "./buffer-pool.ts";
import { NBD_CMD, NBD_CMD_FLAG, NBD_ERRNO, PAYLOAD_SIZE_BYTES_MAX, REQUEST_SIZE_BYTES } from "./constants.ts";
import type { ExportEntry, ExportUser } from "./export-registry.ts";
import type { SelectedContext } from "./handshake.ts";
import { BASE_ALLOCATION } from "./metadata-contexts.ts";
import { Operations } from "./operations.ts";
import { ReadPath } from "./read-path.ts";
import { ReplyWriter } from "./reply-writer.ts";
import { statusReply } from "./status-reply.ts";
import { errnoOfFailure, Request, type RequestLimits, refusal } from "./transmission.ts";
import { WritePath } from "./write-path.ts";

/** Operations of one connection that the store has not completed: bounds what costs memory but no buffer. */
const OPERATIONS_MAX = 1024;
/** Replies that the client has not taken. The kernel's socket buffer is behind that. */
const UNSENT_BYTES_MAX = 1 << 20;
/** What a connection may hold although the server as a whole holds too much: nobody is starved by others. */
const FAIR_SHARE_BYTES = 2 << 20;
/** How long a client may take to fetch the last replies of an export that is gone. */
const FAREWELL_MS = 1000;

export type TransmissionSession = {
  entry: ExportEntry;
  structuredReplies: boolean;
  contexts: readonly SelectedContext[];
};

export class RequestLoop implements ExportUser {
  readonly #socket: Socket;
  readonly #lease: BufferLease;
  readonly #entry: ExportEntry;
  readonly #contexts: readonly SelectedContext[];
  readonly #heldBytesMax: number;
  readonly #limits: RequestLimits;
  readonly #replies: ReplyWriter;
  readonly #operations: Operations;
  readonly #reads: ReadPath;
  readonly #writes: WritePath;
  readonly #request = new Request();
  /** A request whose octets came in two receptions. */
  readonly #header = Buffer.allocUnsafeSlow(REQUEST_SIZE_BYTES);
  #headerLength = 0;
  #chunk: Buffer = this.#header;
  #at = 0;
  #end = 0;
  #phase: "open" | "ending" | "closed" = "open";
  #pumping = false;
  /** Something is left to do that could not be done yet; the socket is not read. */
  #waiting = false;
  #turnScheduled = false;
  #onQuiet: (() => void) | undefined;
  readonly #wake = (): void => this.#scheduleTurn();
  readonly #turn = (): void => this.#takeTurn();

  constructor(
    { socket, session, lease }: { socket: Socket; session: TransmissionSession; lease: BufferLease },
    { heldBytesMax }: { heldBytesMax: number },
  ) {
    const { entry, structuredReplies, contexts } = session;
    this.#socket = socket;
    this.#lease = lease;
    this.#entry = entry;
    this.#contexts = contexts;
    this.#heldBytesMax = heldBytesMax;
    const { readOnly, canFastZero = false } = entry.export;
    const { sizeBytes } = entry;
    this.#limits = { sizeBytes, readOnly, structuredReplies, hasContexts: contexts.length > 0, canFastZero };
    this.#replies = new ReplyWriter(socket, { lease, onDrained: () => this.#drained() });
    const parts = { entry, replies: this.#replies, onSettled: this.#wake };
    this.#operations = new Operations(parts, { structuredReplies });
    this.#reads = new ReadPath({ operations: this.#operations, lease });
    this.#writes = new WritePath({ operations: this.#operations, lease });
    entry.users.add(this);
  }

  get inFlight(): number {
    return this.#operations.inFlight;
  }

  /** Calls once, when the store has completed everything. */
  whenQuiet(quiet: () => void): void {
    this.#onQuiet = quiet;
  }

  received(bytes: Buffer, length: number): void {
    if (this.#phase !== "open") return;
    this.#chunk = bytes;
    this.#at = 0;
    this.#end = length;
    this.#pump();
  }

  /** The client sends no more; what it sent is answered. */
  inputEnded(): void {
    this.#beginEnd();
  }

  socketClosed(): void {
    this.#phase = "closed";
    this.#abandon();
    this.#entry.users.delete(this);
  }

  exportChanged(): void {
    if (this.#entry.phase === "removed") {
      this.#writes.refuseRest(NBD_ERRNO.ESHUTDOWN);
      this.#reads.refuseRest(NBD_ERRNO.ESHUTDOWN);
    }
    if (this.#waiting) this.#pump();
  }

  exportGone(): void {
    // Requests that waited behind one in flight are told why they are not served.
    this.#pump();
    this.#beginEnd();
    if (!this.#socket.destroyed) setTimeout(() => this.#socket.destroy(), FAREWELL_MS).unref();
  }

  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.#mayProceed()) {
      if (this.#reads.isSplit) this.#reads.continue();
      else if (this.#at >= this.#end) break;
      else if (this.#writes.isIncoming) this.#at += this.#writes.receive(this.#chunk, this.#at, this.#end);
      else this.#takeRequest();
    }
    this.#pumping = false;
    this.#replies.flush();
    if (this.#phase !== "open") this.#maybeEnd();
    else this.#setWaiting(this.#at < this.#end || this.#reads.isSplit || this.#writes.isPinned);
  }

  #setWaiting(waiting: boolean): void {
    if (waiting === this.#waiting) return;
    this.#waiting = waiting;
    if (waiting) this.#socket.pause();
    else this.#socket.resume();
  }

  #mayProceed(): boolean {
    if (this.#phase !== "open" || this.#writes.isPinned) return false;
    if (this.#entry.phase === "suspended") return false;
    if (this.#operations.inFlight >= OPERATIONS_MAX) return false;
    if (this.#replies.unsentBytes >= UNSENT_BYTES_MAX) return false;
    const { heldBytes, pool } = this.#lease;
    if (heldBytes >= this.#heldBytesMax) return false;
    if (pool.isFull && heldBytes > FAIR_SHARE_BYTES) {
      pool.whenRoom(this.#wake);
      return false;
    }
    return true;
  }

  #takeRequest(): void {
    const available = this.#end - this.#at;
    let bytes = this.#chunk;
    let from = this.#at;
    if (this.#headerLength > 0 || available < REQUEST_SIZE_BYTES) {
      const taken = Math.min(available, REQUEST_SIZE_BYTES - this.#headerLength);
      this.#chunk.copy(this.#header, this.#headerLength, this.#at, this.#at + taken);
      this.#headerLength += taken;
      this.#at += taken;
      if (this.#headerLength < REQUEST_SIZE_BYTES) return;
      this.#headerLength = 0;
      bytes = this.#header;
      from = 0;
    } else {
      this.#at += REQUEST_SIZE_BYTES;
    }
    if (this.#request.decode(bytes, from)) this.#begin(this.#request);
    // Where the next request begins cannot be known any more.
    else this.#abort();
  }

  #begin(request: Request): void {
    const { command } = request;
    if (command === NBD_CMD.DISC) {
      this.#beginEnd();
      return;
    }
    const errno = this.#entry.phase === "removed" ? NBD_ERRNO.ESHUTDOWN : refusal(request, this.#limits);
    if (command === NBD_CMD.WRITE) {
      this.#at += this.#writes.begin(request, errno, this.#chunk, this.#at, this.#end);
    } else if (errno !== 0) {
      if (command === NBD_CMD.READ || command === NBD_CMD.BLOCK_STATUS)
        this.#operations.refuseChunked(request, errno);
      else this.#operations.simple(request, errno);
    } else {
      this.#perform(request);
    }
  }

  #perform(request: Request): void {
    const { command, flags, offset, length } = request;
    switch (command) {
      case NBD_CMD.READ:
        this.#reads.begin(request, offset, length, (flags & NBD_CMD_FLAG.DF) !== 0);
        return;
      case NBD_CMD.FLUSH:
        this.#operations.flush(request);
        return;
      case NBD_CMD.TRIM:
      case NBD_CMD.WRITE_ZEROES:
        this.#clear(request);
        return;
      case NBD_CMD.BLOCK_STATUS:
        this.#status(request);
        return;
      default:
        // CACHE: the page cache is where reads go anyway.
        this.#operations.simple(request, 0);
    }
  }

  #clear(request: Request): void {
    const { command, flags, offset, length } = request;
    const { store } = this.#entry.export;
    const mayUnmap = (flags & NBD_CMD_FLAG.NO_HOLE) === 0;
    const clear = (from: number, count: number) =>
      command === NBD_CMD.TRIM ? store.trim(from, count) : store.writeZeroes(from, count, { mayUnmap });
    try {
      const completion =
        length <= PAYLOAD_SIZE_BYTES_MAX ? clear(offset, length) : inPieces(clear, offset, length);
      this.#operations.conclude(request, flags, completion);
    } catch (error) {
      this.#operations.simple(request, errnoOfFailure(error));
    }
  }

  #status(request: Request): void {
    const { high, low, flags, offset, length } = request;
    const requestOne = (flags & NBD_CMD_FLAG.REQ_ONE) !== 0;
    const about = { cookie: { high, low }, offset, length, requestOne, contexts: this.#contexts };
    const wantsAllocation = this.#contexts.some(({ context }) => context.name === BASE_ALLOCATION);
    try {
      const extents = wantsAllocation ? this.#entry.export.store.extents(offset, length) : undefined;
      if (!(extents instanceof Promise)) {
        this.#replies.sendCopy(statusReply(about, extents));
        return;
      }
      const reply = extents.then((found) => this.#replies.sendCopy(statusReply(about, found)));
      this.#operations.track(reply, (errno) => {
        if (errno !== 0) this.#operations.refuseChunked(about.cookie, errno);
      });
    } catch (error) {
      this.#operations.refuseChunked(request, errnoOfFailure(error));
    }
  }

  #drained(): void {
    if (this.#waiting) this.#pump();
  }

  /** Completions of one turn of the event loop share a write, like requests of one reception. */
  #scheduleTurn(): void {
    if (this.#turnScheduled) return;
    this.#turnScheduled = true;
    setImmediate(this.#turn);
  }

  #takeTurn(): void {
    this.#turnScheduled = false;
    if (this.#waiting) this.#pump();
    else this.#replies.flush();
    if (this.#phase === "ending") this.#maybeEnd();
    if (this.#onQuiet === undefined || this.#operations.inFlight > 0) return;
    this.#onQuiet();
    this.#onQuiet = undefined;
  }

  #beginEnd(): void {
    if (this.#phase !== "open") return;
    this.#phase = "ending";
    this.#abandon();
    this.#maybeEnd();
  }

  #maybeEnd(): void {
    if (this.#phase !== "ending" || this.#operations.inFlight > 0 || this.#pumping) return;
    this.#phase = "closed";
    this.#replies.flush();
    this.#socket.destroySoon();
  }

  #abort(): void {
    this.#phase = "closed";
    this.#abandon();
    this.#socket.destroy();
  }

  #abandon(): void {
    this.#at = this.#end;
    this.#reads.abandon();
    this.#writes.abandon();
    this.#replies.trim();
  }
}

/** A range of gigabytes, zeroed by a store that completes at once, must not stop everybody else for seconds. */
async function inPieces(
  clear: (offset: number, length: number) => void | Promise<void>,
  offset: number,
  length: number,
): Promise<void> {
  const end = offset + length;
  while (offset < end) {
    const count = Math.min(PAYLOAD_SIZE_BYTES_MAX, end - offset);
    const completion = clear(offset, count);
    if (completion !== undefined) await completion;
    else await new Promise(setImmediate);
    offset += count;
  }
}
