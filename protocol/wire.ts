/**
 * Frames on the wire (PROTOCOL.md §2.3). A channel carries whole frames (`node/network/network.ts`), so none says
 * how long it is. All fixed fields are big-endian.
 *
 *    0       2       4               8 octets
 *   +-------+-------+---------------+
 *   | type  | flags | checksum      |
 *   +-------+-------+---------------+
 *   | body (0 to FRAME_BODY_SIZE_MAX octets) ...
 *
 *   type       which message, see the tables of `wire/`. A receiver refuses one that it does not know, unless
 *              OPTIONAL is set in it: then it skips the frame.
 *   flags      CONTINUED: the next frame goes on with this message. Such a frame is full, so that the number of
 *              frames is bounded with the size of the message. Frames of a message follow one another directly.
 *   checksum   CRC-32 of type, flags and body
 *
 * What decodes here is within the protocol's limits and about blocks that the domain has. Whether the moment is
 * right for it is the state machines' to say.
 */

import { assert, ProtocolError } from "./errors.ts";
import { FRAME_BODY_SIZE_MAX, MESSAGE_SIZE_MAX } from "./limits.ts";
import type { DestinationMessage, Message, SourceMessage } from "./messages.ts";
import { badField } from "./octets.ts";
import { blockCountOf } from "./units.ts";
import { DESTINATION_BODIES } from "./wire/destination-bodies.ts";
import { FieldReader, FieldWriter, haveSizes, type VbdShape } from "./wire/fields.ts";
import type { MessageBodies, MessageBody } from "./wire/message-body.ts";
import { SOURCE_BODIES } from "./wire/source-bodies.ts";

export const FRAME_HEADER_SIZE = 8;

/** Set in types that an older peer may safely skip. */
export const OPTIONAL = 0x8000;

export const CONTINUED = 0x0001;

/** As zlib's: `seed` is the checksum of what came before `bytes`, 0 at the start. */
export type Crc32 = (bytes: Uint8Array, seed: number) => number;

/** Parts to be sent one after the other. They share memory with the message that they were made of. */
export type Frame = readonly Uint8Array[];

export type Codec = {
  /** The frames of one message; another message goes only before the first or after the last of them. */
  encode(message: Message): readonly Frame[];
  /** For a channel on which the source of a migration sends. */
  decodeSource(): Decoder<SourceMessage>;
  /** For a channel on which the destination sends. */
  decodeDestination(): Decoder<DestinationMessage>;
};

export function createCodec({ crc32 }: { crc32: Crc32 }): Codec {
  return {
    encode: (message) => encodeMessage(message, crc32),
    decodeSource: () => new Decoder<SourceMessage>(SOURCE_BODIES, crc32),
    decodeDestination: () => new Decoder<DestinationMessage>(DESTINATION_BODIES, crc32),
  };
}

const BODIES: MessageBodies<Message> = { ...SOURCE_BODIES, ...DESTINATION_BODIES };

function encodeMessage<M extends Message>(message: M, crc32: Crc32): Frame[] {
  // The table has the body of each type under that type, which the compiler cannot see through a union.
  const body = BODIES[message.type] as unknown as MessageBody<M>;
  const writer = new FieldWriter();
  const data = body.write(message, writer);
  const fields = writer.finish();
  const bodies = split(data === undefined ? [fields] : [fields, data]);
  assert(bodies.length === 1 || body.bitmapSets !== undefined, `${message.type} is larger than a frame`);
  return bodies.map((parts, index) => {
    const flags = index < bodies.length - 1 ? CONTINUED : 0;
    return [encodeHeader({ type: body.number, flags, parts, crc32 }), ...parts];
  });
}

/** Cuts parts into bodies that fit a frame, without copying. There is at least one. */
function split(parts: readonly Uint8Array[]): Uint8Array[][] {
  const bodies: Uint8Array[][] = [[]];
  let room = FRAME_BODY_SIZE_MAX;
  for (const part of parts) {
    for (let offset = 0; offset < part.length; ) {
      if (room === 0) {
        bodies.push([]);
        room = FRAME_BODY_SIZE_MAX;
      }
      const piece = part.subarray(offset, offset + room);
      bodies.at(-1)!.push(piece);
      offset += piece.length;
      room -= piece.length;
    }
  }
  return bodies;
}

function encodeHeader({
  type,
  flags,
  parts,
  crc32,
}: {
  type: number;
  flags: number;
  parts: Frame;
  crc32: Crc32;
}) {
  const header = new Uint8Array(FRAME_HEADER_SIZE);
  const view = new DataView(header.buffer);
  view.setUint16(0, type);
  view.setUint16(2, flags);
  view.setUint32(4, checksumOf(header, parts, crc32));
  return header;
}

function checksumOf(header: Uint8Array, parts: Frame, crc32: Crc32): number {
  return parts.reduce((checksum, part) => crc32(part, checksum), crc32(header.subarray(0, 4), 0));
}

/**
 * One direction of one channel. After a ProtocolError the channel is of no more use: what came before the error was
 * decoded, what comes after it is not looked at.
 */
export class Decoder<M extends Message> {
  readonly #bodies: ReadonlyMap<number, readonly [type: string, MessageBody<M>]>;
  readonly #crc32: Crc32;
  #vbds: readonly VbdShape[] | undefined;
  /** Octets of one bitmap per vbd, in memory as on the wire. */
  #bitmapsSizeMax = 0;
  /** Bodies of the frames of a message that goes on. */
  #pieces: Uint8Array[] = [];
  #pieceType = 0;

  constructor(bodies: MessageBodies<M>, crc32: Crc32) {
    const entries = Object.entries<MessageBody<M>>(bodies);
    this.#bodies = new Map(entries.map(([type, body]) => [body.number, [type, body]]));
    this.#crc32 = crc32;
  }

  /**
   * Says what the domain's vbds are: once `begin` was accepted, or sent. Before that, a message about blocks is
   * refused; from then on, a `begin` with other sizes is.
   */
  setVbds(sizesBytes: readonly number[]): void {
    const known =
      this.#vbds ?? sizesBytes.map((sizeBytes) => ({ sizeBytes, blockCount: blockCountOf(sizeBytes) }));
    assert(haveSizes(known, sizesBytes), "the vbds of a session are fixed");
    this.#vbds = known;
    // A bit per block, and the tables of chunks.
    this.#bitmapsSizeMax = known.reduce(
      (sum, { blockCount }) => sum + Math.ceil(blockCount / 8 + blockCount / 1024) + 4096,
      0,
    );
  }

  /**
   * The message that ends with this frame; undefined when it goes on, or is one to skip. Octets of the message are
   * views of the frame. Throws ProtocolError.
   */
  decode(frame: Uint8Array): M | undefined {
    const { type, flags, body } = this.#open(frame);
    const known = this.#bodies.get(type);
    if (this.#pieces.length > 0 && type !== this.#pieceType) {
      throw badField("type", "another message before the end of the last one");
    }
    if (known === undefined) {
      if ((type & OPTIONAL) !== 0) return undefined;
      throw new ProtocolError({ code: "PROTOCOL_UNKNOWN_MESSAGE", type });
    }
    if ((flags & ~CONTINUED) !== 0) throw badField("flags", "unknown flags");
    const [name, codec] = known;
    const isWhole = (flags & CONTINUED) === 0;
    this.#limit(name, codec, { sizeBytes: body.length, isWhole });
    if (!isWhole) {
      this.#pieces.push(body);
      this.#pieceType = type;
      return undefined;
    }
    const whole = this.#pieces.length === 0 ? body : concatenated([...this.#pieces, body]);
    this.#pieces = [];
    const reader = new FieldReader(name, whole, { vbds: this.#vbds, bitmapBytesMax: this.#sizeMax(codec) });
    const message = codec.read(reader);
    reader.end();
    return message;
  }

  #open(frame: Uint8Array): { type: number; flags: number; body: Uint8Array } {
    if (frame.length < FRAME_HEADER_SIZE) {
      const neededBytes = FRAME_HEADER_SIZE;
      throw new ProtocolError({ code: "PROTOCOL_FRAME_TRUNCATED", sizeBytes: frame.length, neededBytes });
    }
    const limitBytes = FRAME_HEADER_SIZE + FRAME_BODY_SIZE_MAX;
    if (frame.length > limitBytes) throw tooLarge(frame.length, limitBytes);
    const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
    const [type, flags] = [view.getUint16(0), view.getUint16(2)];
    // Not `subarray`: whatever kind of array the transport uses, a message holds plain ones.
    const body = new Uint8Array(
      frame.buffer,
      frame.byteOffset + FRAME_HEADER_SIZE,
      frame.length - FRAME_HEADER_SIZE,
    );
    if (view.getUint32(4) !== checksumOf(frame, [body], this.#crc32)) {
      const message = this.#bodies.get(type)?.[0] ?? `type ${type}`;
      throw new ProtocolError({ code: "PROTOCOL_BAD_CHECKSUM", message });
    }
    return { type, flags, body };
  }

  /** A frame more must neither make the message too large nor be one that says nothing. */
  #limit(
    name: string,
    codec: MessageBody<M>,
    { sizeBytes, isWhole }: { sizeBytes: number; isWhole: boolean },
  ): void {
    if (!isWhole) {
      const maySplit = codec.bitmapSets !== undefined && this.#vbds !== undefined;
      if (!maySplit) throw badField("flags", `${name} continued`);
      if (sizeBytes !== FRAME_BODY_SIZE_MAX) throw badField("flags", "continued, but not full");
    }
    const totalBytes = this.#pieces.length * FRAME_BODY_SIZE_MAX + sizeBytes;
    const limitBytes = this.#sizeMax(codec);
    if (totalBytes > limitBytes) throw tooLarge(totalBytes, limitBytes);
  }

  /**
   * Octets of a message, and bytes that its bitmaps may take in memory. It grows with the vbds, because `prepare`
   * and `resumed` must be able to say anything of them.
   */
  #sizeMax({ bitmapSets = 0 }: MessageBody<M>): number {
    return MESSAGE_SIZE_MAX + bitmapSets * this.#bitmapsSizeMax;
  }
}

function concatenated(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    whole.set(piece, offset);
    offset += piece.length;
  }
  return whole;
}

function tooLarge(sizeBytes: number, limitBytes: number): ProtocolError {
  return new ProtocolError({ code: "PROTOCOL_FRAME_TOO_LARGE", sizeBytes, limitBytes });
}
