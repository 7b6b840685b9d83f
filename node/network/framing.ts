/**
 * Frames on a byte stream:
 *
 *   ┌──────────────────────┬───────────────┐
 *   │ length: u32, network │ length bytes  │
 *   └──────────────────────┴───────────────┘
 *
 * The length is compared with the limit before a byte of the body is waited for, so that what a peer can
 * make us hold is one frame and not what it claims.
 */

import { Uint8ArrayList } from "uint8arraylist";

export const FRAME_HEADER_SIZE = 4;

/** The frame as one list of buffers: nothing is copied. */
export function encodeFrame(parts: readonly Uint8Array[], sizeBytes: number): Uint8ArrayList {
  const header = new Uint8Array(FRAME_HEADER_SIZE);
  new DataView(header.buffer).setUint32(0, sizeBytes);
  return new Uint8ArrayList(header, ...parts);
}

export function sizeOf(parts: readonly Uint8Array[]): number {
  let sizeBytes = 0;
  for (const part of parts) sizeBytes += part.byteLength;
  return sizeBytes;
}

/** Cuts what arrives into frames. */
export class FrameDecoder {
  readonly #pending = new Uint8ArrayList();

  /** Bytes that arrived and have not left as a frame. */
  get sizeBytes(): number {
    return this.#pending.byteLength;
  }

  push(bytes: Uint8Array | Uint8ArrayList): void {
    this.#pending.append(bytes);
  }

  /** The body size that the next frame announces; undefined until its header is here. */
  announcedSize(): number | undefined {
    return this.#pending.byteLength < FRAME_HEADER_SIZE ? undefined : this.#pending.getUint32(0);
  }

  /** The next whole frame, undefined until all of it is here. */
  next(): Uint8Array | undefined {
    const sizeBytes = this.announcedSize();
    if (sizeBytes === undefined || this.#pending.byteLength < FRAME_HEADER_SIZE + sizeBytes) return undefined;
    const body = this.#pending.subarray(FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + sizeBytes);
    this.#pending.consume(FRAME_HEADER_SIZE + sizeBytes);
    // Often a Buffer, whose `slice` shares memory where a Uint8Array's copies: hand out the plain type.
    return new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
  }

  clear(): void {
    this.#pending.consume(this.#pending.byteLength);
  }
}
