/**
 * What one connection has given to the store and not got back, and how its completion becomes a reply.
 *
 * The count belongs to the export too, and outlives the connection: a write in flight can land after its client is gone.
 */
import type { Completion } from "../block-store.ts";
import { NBD_CMD_FLAG, SIMPLE_REPLY_SIZE_BYTES } from "./constants.ts";
import type { ExportEntry } from "./export-registry.ts";
import type { ReplyWriter } from "./reply-writer.ts";
import { type Cookie, errnoOfFailure, errorChunk, writeSimpleReply } from "./transmission.ts";

export class Operations {
  readonly entry: ExportEntry;
  readonly replies: ReplyWriter;
  readonly structuredReplies: boolean;
  readonly #onSettled: () => void;
  #inFlight = 0;

  constructor(
    { entry, replies, onSettled }: { entry: ExportEntry; replies: ReplyWriter; onSettled: () => void },
    { structuredReplies }: { structuredReplies: boolean },
  ) {
    this.entry = entry;
    this.replies = replies;
    this.structuredReplies = structuredReplies;
    this.#onSettled = onSettled;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Counts a completion that is still to come; `settled` gets its error number or 0, and may track the next. */
  track(completion: Promise<unknown>, settled: (errno: number) => void): void {
    this.#inFlight++;
    this.entry.begin();
    completion.then(
      () => this.#settle(settled, 0),
      (error: unknown) => this.#settle(settled, errnoOfFailure(error)),
    );
  }

  /** Answers a request that has no data in its reply; with FUA after a flush. */
  conclude(cookie: Cookie, flags: number, completion: Completion): void {
    if (completion === undefined) this.answer(cookie, flags, 0);
    else {
      const { high, low } = cookie;
      this.track(completion, (errno) => this.answer({ high, low }, flags, errno));
    }
  }

  answer(cookie: Cookie, flags: number, errno: number): void {
    if (errno === 0 && (flags & NBD_CMD_FLAG.FUA) !== 0) this.flush(cookie);
    else this.simple(cookie, errno);
  }

  flush(cookie: Cookie): void {
    let completion: Completion;
    try {
      completion = this.entry.export.store.flush();
    } catch (error) {
      this.simple(cookie, errnoOfFailure(error));
      return;
    }
    this.conclude(cookie, 0, completion);
  }

  simple(cookie: Cookie, errno: number): void {
    const at = this.replies.reserve(SIMPLE_REPLY_SIZE_BYTES);
    writeSimpleReply(this.replies.bytes, at, errno, cookie);
    this.replies.commit(SIMPLE_REPLY_SIZE_BYTES);
  }

  /** Refuses a READ or BLOCK_STATUS: clients with structured replies accept no simple one for these. */
  refuseChunked(cookie: Cookie, errno: number): void {
    if (this.structuredReplies) this.replies.sendCopy(errorChunk(errno, cookie));
    else this.simple(cookie, errno);
  }

  #settle(settled: (errno: number) => void, errno: number): void {
    try {
      settled(errno);
    } finally {
      // After `settled`: a write's flush must be counted before the write no longer is.
      this.#inFlight--;
      this.entry.end();
      this.#onSettled();
    }
  }
}
