/**
 * One connection's worth of a migration: the main channel with its codec and outbox. A session ends once,
 * with `onLost`; the next one is another object, so nothing of an old link can speak for a new one.
 */

import { crc32 } from "node:zlib";
import { ProtocolError } from "../../protocol/errors.ts";
import type { Message } from "../../protocol/messages.ts";
import { createCodec, type Decoder } from "../../protocol/wire.ts";
import type { Channel } from "../network/network.ts";
import { crashIfOurs } from "./machine-driver.ts";
import { Outbox } from "./outbox.ts";
import type { RateLimiter } from "./rate-limiter.ts";

export const codec = createCodec({ crc32: (bytes, seed) => crc32(bytes, seed) });

export type SessionListener<M extends Message> = {
  /** Awaited before the next message is read: a peer that sends more than we take is not read further. */
  received(message: M): void | Promise<void>;
  lost(error: Error): void;
  /** What arrived is of a version that we do not speak: the answer to it, if any, before the session ends. */
  misfit?(error: ProtocolError): Message;
};

/** `M`: what the peer may send. */
export class Session<M extends Message> {
  readonly channel: Channel;
  readonly #decoder: Decoder<M>;
  readonly #outbox: Outbox;
  readonly #listener: SessionListener<M>;
  #ended = false;

  constructor(
    channel: Channel,
    listener: SessionListener<M>,
    {
      decoder,
      vbdSizesBytes,
      limiter,
    }: { decoder: Decoder<M>; vbdSizesBytes?: readonly number[]; limiter?: RateLimiter },
  ) {
    this.channel = channel;
    this.#listener = listener;
    this.#decoder = decoder;
    if (vbdSizesBytes !== undefined) this.#decoder.setVbds(vbdSizesBytes);
    this.#outbox = new Outbox(channel, {
      limiter,
      onError: (error) => {
        crashIfOurs(error);
        this.end(toError(error));
      },
    });
  }

  /** Reads until the channel ends. Errors of the peer end the session and reach `lost`. */
  async read(frames: AsyncIterable<Uint8Array> = this.channel.frames()): Promise<void> {
    try {
      for await (const frame of frames) {
        const message = this.#decoder.decode(frame);
        if (message !== undefined) await this.#listener.received(message);
        if (this.#ended) return;
      }
      this.end(new Error("the peer ended the session"));
    } catch (error) {
      crashIfOurs(error);
      if (!this.#ended) await this.#answerMisfit(error);
      this.end(toError(error));
    }
  }

  /** A peer of another version is told so by name: a link that only breaks would be dialled for ever. */
  async #answerMisfit(error: unknown): Promise<void> {
    if (!(error instanceof ProtocolError) || error.code !== "PROTOCOL_VERSION_MISMATCH") return;
    const answer = this.#listener.misfit?.(error);
    if (answer === undefined) return;
    this.send(answer);
    await this.finish();
  }

  setVbds(sizesBytes: readonly number[]): void {
    this.#decoder.setVbds(sizesBytes);
  }

  /** Encoded at once: what it refers to may change before its turn comes. */
  send(message: Message): void {
    const frames = codec.encode(message);
    this.#outbox.push(() => frames);
  }

  /** `make` is called when its turn has come; nothing is sent when it has nothing to say. */
  sendLater(make: () => Promise<Message | undefined>, options: { urgent: boolean }): void {
    this.#outbox.push(async () => {
      const message = await make();
      return message === undefined ? [] : codec.encode(message);
    }, options);
  }

  /** Lets what is queued leave, then ends our side of the channel. */
  async finish(): Promise<void> {
    await this.#outbox.drained();
    await this.channel.close().catch(() => undefined);
  }

  /** Ends the session at once; `lost` is called the first time. */
  end(error: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#outbox.close();
    this.channel.abort(error);
    this.#listener.lost(error);
  }
}

export function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
