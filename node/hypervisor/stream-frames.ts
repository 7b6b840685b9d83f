/**
 * The memory stream of a `qemu` or `xen` domain: the hypervisor's own, in frames that say what that cannot.
 *
 *    0      1               5 octet
 *   +------+---------------+
 *   | type | length        |  bytes of its stream follow, big-endian length
 *   +------+---------------+
 *
 *   data   so many octets of the hypervisor's stream
 *   whole  that stream has ended in order: the state is whole
 *   again  it cannot go on with a stream that it has ended or given up, so it begins with another one: what came
 *          so far is to be forgotten
 */

import { badStream } from "./errors.ts";

export const FRAME_TYPE = { data: 1, whole: 2, again: 3 } as const;

const HEAD_BYTES = 5;
export const FRAME_BYTES_MAX = 16 << 20;

export type StreamPart = { type: "data"; data: Uint8Array } | { type: "whole" | "again" };

export function frameHead(type: keyof typeof FRAME_TYPE, length = 0): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt8(FRAME_TYPE[type], 0);
  head.writeUInt32BE(length, 1);
  return head;
}

/** Head and data in one piece: each piece is a message of its own on the way, and a head alone costs as much as data. */
export function dataFrame(data: Uint8Array): Buffer {
  return Buffer.concat([frameHead("data", data.length), data]);
}

/** Keeps no more than a frame's head: data is passed on as it comes. */
export class FrameReader {
  readonly #head = Buffer.alloc(HEAD_BYTES);
  #headBytes = 0;
  #dataBytes = 0;

  /** Throws HYPERVISOR_BAD_STREAM; then the stream is lost. */
  *push(bytes: Uint8Array): Generator<StreamPart> {
    let at = 0;
    while (at < bytes.length) {
      if (this.#dataBytes > 0) {
        const data = bytes.subarray(at, at + this.#dataBytes);
        at += data.length;
        this.#dataBytes -= data.length;
        yield { type: "data", data };
        continue;
      }
      const part = bytes.subarray(at, at + HEAD_BYTES - this.#headBytes);
      this.#head.set(part, this.#headBytes);
      this.#headBytes += part.length;
      at += part.length;
      if (this.#headBytes < HEAD_BYTES) return;
      this.#headBytes = 0;
      const type = this.#head.readUInt8(0);
      const length = this.#head.readUInt32BE(1);
      if (type === FRAME_TYPE.data && length <= FRAME_BYTES_MAX) this.#dataBytes = length;
      else if (type === FRAME_TYPE.whole && length === 0) yield { type: "whole" };
      else if (type === FRAME_TYPE.again && length === 0) yield { type: "again" };
      else {
        throw badStream(`a frame of type ${type} with ${length} bytes`);
      }
    }
  }
}
