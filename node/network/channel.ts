/**
 * A `Channel` over a libp2p stream.
 *
 * Receiving: libp2p delivers on arrival, whoever reads. What arrives goes into a decoder; above the high
 * water mark the stream is paused, so the muxer grants no more window and the sender stops; below the low
 * one it is resumed. A pause never happens inside `resume()`: the muxer would undo it, keep granting and
 * reset the stream.
 *
 * The end: a cut connection closes a stream without an error, exactly like an orderly end. Only
 * `remoteCloseWrite` is the peer's word, so nothing else ends `frames()`.
 */

import type { Stream, StreamCloseEvent } from "@libp2p/interface";
import { assert } from "../../protocol/errors.ts";
import { FRAME_BODY_SIZE_MAX } from "../../protocol/limits.ts";
import { drained } from "./drained.ts";
import { NetworkError } from "./errors.ts";
import { encodeFrame, FRAME_HEADER_SIZE, FrameDecoder, sizeOf } from "./framing.ts";
import type { Channel, FrameSource, HostId } from "./network.ts";
import { Turns, untilAborted } from "./turns.ts";

/** A wire frame of the protocol: its body and room for its own header. */
export const FRAME_SIZE_MAX = FRAME_BODY_SIZE_MAX + 64;

export type StreamChannelOptions = {
  /** Largest frame of either direction, without the channel's own length field. */
  frameSizeMax?: number;
  /** Received bytes held for a slow reader before the sender is stopped. At least one whole frame. */
  receiveBufferSizeMax?: number;
};

export class StreamChannel implements Channel {
  readonly peer: HostId;
  readonly sink = (source: FrameSource): Promise<void> => this.#sendAll(source);

  readonly #stream: Stream;
  readonly #decoder = new FrameDecoder();
  readonly #frameSizeMax: number;
  readonly #highWaterMark: number;
  readonly #lowWaterMark: number;

  /** The peer said that it sends no more. Bytes it sent before may still wait in the stream. */
  #peerEnded = false;
  /** The peer ended, and every byte of it is in the decoder: what happens to the connection no longer matters. */
  #complete = false;
  #failure: Error | undefined;
  #resuming = false;
  #reading = false;
  #wake: (() => void) | undefined;

  readonly #sends = new Turns();
  #closing: Promise<void> | undefined;

  constructor({ stream, peer }: { stream: Stream; peer: HostId }, options: StreamChannelOptions = {}) {
    this.peer = peer;
    this.#stream = stream;
    this.#frameSizeMax = options.frameSizeMax ?? FRAME_SIZE_MAX;
    const frameWithHeader = this.#frameSizeMax + FRAME_HEADER_SIZE;
    this.#highWaterMark = options.receiveBufferSizeMax ?? Math.max(1 << 20, frameWithHeader);
    // Otherwise a paused stream could lack the rest of the very frame the reader waits for.
    assert(this.#highWaterMark >= frameWithHeader, "receiveBufferSizeMax must hold one whole frame");
    this.#lowWaterMark = this.#highWaterMark >> 1;

    // The peer may have ended before we were made; on an open stream nothing else closes its side.
    this.#peerEnded = stream.remoteWriteStatus === "closed" && stream.status === "open";
    this.#noteComplete();
    if (stream.status !== "open") this.#failure = this.#lost(`stream is ${stream.status}`);
    stream.addEventListener("message", (event) => this.#onMessage(event.data));
    stream.addEventListener("remoteCloseWrite", () => this.#onPeerEnded());
    stream.addEventListener("close", (event) => this.#onClose(event));
  }

  get protocol(): string {
    return this.#stream.protocol;
  }

  /** Resolves when a close that was asked for is done; undefined when none was. Never rejects. */
  get closing(): Promise<void> | undefined {
    return this.#closing?.catch(() => undefined);
  }

  send(frame: Uint8Array | readonly Uint8Array[], signal?: AbortSignal): Promise<void> {
    if (this.#closing !== undefined) return Promise.reject(this.#notWritable());
    const parts = frame instanceof Uint8Array ? [frame] : frame;
    return this.#sends.run(() => this.#write(parts, signal), signal);
  }

  async *frames(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    assert(!this.#reading, "a channel has one reader at a time");
    this.#reading = true;
    const onAbort = (): void => this.#wake?.();
    signal?.addEventListener("abort", onAbort);
    try {
      for (;;) {
        signal?.throwIfAborted();
        const frame = this.#nextFrame();
        if (frame !== undefined) {
          if (this.#decoder.sizeBytes <= this.#lowWaterMark) this.#resume();
          yield frame;
        } else if (this.#failure !== undefined) {
          throw this.#failure;
        } else if (this.#complete) {
          if (this.#decoder.sizeBytes > 0) throw this.#truncated();
          return;
        } else if (this.#stream.readStatus === "paused") {
          this.#resume();
        } else {
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
          this.#wake = undefined;
        }
      }
    } finally {
      this.#reading = false;
      signal?.removeEventListener("abort", onAbort);
    }
  }

  close(signal?: AbortSignal): Promise<void> {
    this.#closing ??= this.#sends.run(() => this.#end(signal));
    return untilAborted(this.#closing, signal);
  }

  abort(error: Error): void {
    this.#failure ??= error;
    this.#decoder.clear();
    this.#stream.abort(error);
    this.#wake?.();
  }

  async #sendAll(source: FrameSource): Promise<void> {
    try {
      for await (const frame of source) await this.send(frame);
      await this.close();
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }

  async #write(parts: readonly Uint8Array[], signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    const sizeBytes = sizeOf(parts);
    if (sizeBytes > this.#frameSizeMax) throw this.#tooLarge(sizeBytes);
    await this.#guarded(signal, async () => {
      // A send that was aborted while it waited has left its frame in the queue: never add to a full one.
      await drained(this.#stream, signal);
      this.#stream.send(encodeFrame(parts, sizeBytes));
      await drained(this.#stream, signal);
    });
  }

  async #end(signal: AbortSignal | undefined): Promise<void> {
    await this.#guarded(signal, async () => {
      await drained(this.#stream, signal);
      await this.#stream.close(signal === undefined ? {} : { signal });
    });
  }

  /** Runs something that needs our side open, and says in our own words why it could not. */
  async #guarded(signal: AbortSignal | undefined, work: () => Promise<void>): Promise<void> {
    if (this.#stream.writeStatus !== "writable") throw this.#notWritable();
    try {
      await work();
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw this.#failure ?? this.#lost("while sending", error);
    }
  }

  #nextFrame(): Uint8Array | undefined {
    const announced = this.#decoder.announcedSize();
    if (announced !== undefined && announced > this.#frameSizeMax) {
      const error = this.#tooLarge(announced);
      this.abort(error);
      throw error;
    }
    return this.#decoder.next();
  }

  #onMessage(data: Parameters<FrameDecoder["push"]>[0]): void {
    // After an abort late bytes are nobody's.
    if (this.#stream.status === "aborted") return;
    this.#decoder.push(data);
    if (!this.#resuming) this.#pauseIfFull();
    this.#noteComplete();
    this.#wake?.();
  }

  #onPeerEnded(): void {
    this.#peerEnded = true;
    this.#noteComplete();
    this.#wake?.();
  }

  #onClose(event: StreamCloseEvent): void {
    if (!this.#peerEnded || (event.error !== undefined && !this.#complete)) {
      this.#failure ??= this.#lost("the connection was cut or the peer gave up", event.error);
    }
    this.#wake?.();
  }

  /** Order is kept, so once the peer's end and an empty stream buffer meet, we hold all it sent. */
  #noteComplete(): void {
    if (this.#peerEnded && this.#stream.readBufferLength === 0) this.#complete = true;
  }

  #pauseIfFull(): void {
    if (this.#decoder.sizeBytes < this.#highWaterMark || this.#stream.readStatus !== "readable") return;
    this.#stream.pause();
  }

  #resume(): void {
    if (this.#stream.readStatus !== "paused") return;
    this.#resuming = true;
    try {
      this.#stream.resume();
    } catch {
      // It hands over what it held and then tells the peer to go on, which fails when there is no
      // connection any more. The bytes are here; the end is told by the close event.
    } finally {
      this.#resuming = false;
    }
    this.#pauseIfFull();
    this.#noteComplete();
  }

  #notWritable(): Error {
    if (this.#closing !== undefined && this.#failure === undefined) {
      return new NetworkError({ code: "NETWORK_CLOSED", peer: this.peer, what: "channel" });
    }
    return this.#failure ?? this.#lost(`stream is ${this.#stream.status}`);
  }

  #lost(reason: string, cause?: unknown): NetworkError {
    return new NetworkError(
      { code: "NETWORK_LOST", peer: this.peer, reason },
      cause === undefined ? undefined : { cause },
    );
  }

  #tooLarge(sizeBytes: number): NetworkError {
    const limitBytes = this.#frameSizeMax;
    return new NetworkError({ code: "NETWORK_FRAME_TOO_LARGE", peer: this.peer, sizeBytes, limitBytes });
  }

  #truncated(): NetworkError {
    const { sizeBytes } = this.#decoder;
    return new NetworkError({ code: "NETWORK_FRAME_TRUNCATED", peer: this.peer, sizeBytes });
  }
}
