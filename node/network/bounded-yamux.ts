/**
 * yamux, with a limit it lacks: it gathers a data frame whole before it looks whether the window allows it,
 * so a peer that announces 4 GiB makes us hold 4 GiB. Here such a header ends the connection.
 *
 * And with a thrift it lacks: it answers every data frame with a window update, however little of the window was used,
 * so that half of what hosts at rest send each other would be that.
 */

import type { MessageStream, StreamMuxer, StreamMuxerFactory } from "@libp2p/interface";
import { type YamuxMuxerInit, yamux } from "@libp2p/yamux";
import type { Uint8ArrayList } from "uint8arraylist";
import { assert } from "../../protocol/errors.ts";

const HEADER_SIZE = 12;
const TYPE_DATA = 0;

export function boundedYamux(init: YamuxMuxerInit, frameSizeMax: number) {
  return (): StreamMuxerFactory => {
    const factory = yamux(init)() as StreamMuxerFactory;
    const createStreamMuxer = factory.createStreamMuxer.bind(factory);
    factory.createStreamMuxer = (connection: MessageStream) => {
      const lengths = new FrameLengths();
      // Before the muxer's own listener, so that an oversized frame is never begun.
      connection.addEventListener("message", ({ data }) => {
        if (lengths.longestIn(data) <= frameSizeMax) return;
        connection.abort(new Error(`a yamux frame above ${frameSizeMax} bytes`));
      });
      return thrifty(createStreamMuxer(connection));
    };
    return factory;
  };
}

/** `@libp2p/yamux` 8, beyond its interface. */
type YamuxInside = { _newStream?(...args: readonly unknown[]): StreamInside };
type StreamInside = {
  state: number;
  recvWindow: number;
  recvWindowCapacity: number;
  sendWindowUpdate(): void;
};
const ESTABLISHED = 3;

/** Tells the peer of a larger window once half of it is used: the peer never waits for the other half. */
function thrifty(muxer: StreamMuxer): StreamMuxer {
  const inside = muxer as unknown as YamuxInside;
  const newStream = inside._newStream?.bind(muxer);
  assert(newStream !== undefined, "yamux makes its streams otherwise than it did");
  inside._newStream = (...args) => {
    const stream = newStream(...args);
    const sendWindowUpdate = stream.sendWindowUpdate.bind(stream);
    stream.sendWindowUpdate = () => {
      // Before that the update carries the flags that establish the stream.
      if (stream.state === ESTABLISHED && stream.recvWindowCapacity > stream.recvWindow / 2) return;
      sendWindowUpdate();
    };
    return stream;
  };
  return muxer;
}

/** Follows the frames of one direction by their headers alone. */
class FrameLengths {
  readonly #header = new Uint8Array(HEADER_SIZE);
  readonly #view = new DataView(this.#header.buffer);
  #headerSize = 0;
  #bodyLeft = 0;

  /** The longest body announced in `data`. */
  longestIn(data: Uint8Array | Uint8ArrayList): number {
    let longest = 0;
    for (const bytes of data instanceof Uint8Array ? [data] : data) {
      for (let offset = 0; offset < bytes.byteLength; ) {
        if (this.#bodyLeft > 0) {
          const skipped = Math.min(this.#bodyLeft, bytes.byteLength - offset);
          this.#bodyLeft -= skipped;
          offset += skipped;
          continue;
        }
        this.#header[this.#headerSize++] = bytes[offset++]!;
        if (this.#headerSize < HEADER_SIZE) continue;
        this.#headerSize = 0;
        // In a frame without a body the same field is a window or an id.
        this.#bodyLeft = this.#header[1] === TYPE_DATA ? this.#view.getUint32(8) : 0;
        longest = Math.max(longest, this.#bodyLeft);
      }
    }
    return longest;
  }
}
