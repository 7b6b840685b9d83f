/**
 * Reading and writing octets: big-endian fixed fields, and varints (LEB128: seven bits per octet, lowest
 * first, bit 7 set in all but the last; the shortest form is the only one allowed).
 *
 * The reader trusts nothing: whatever is wrong with the octets is a `ProtocolError` that names the field.
 */

import { assert, ProtocolError } from "./errors.ts";

export function badField(field: string, reason: string): ProtocolError {
  return new ProtocolError({ code: "PROTOCOL_BAD_FIELD", field, reason });
}

export class OctetWriter {
  #bytes: Uint8Array;
  #size = 0;

  constructor(capacity = 64) {
    this.#bytes = new Uint8Array(capacity);
  }

  get size(): number {
    return this.#size;
  }

  u8(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#size++] = value;
  }

  varint(value: number): void {
    assert(Number.isSafeInteger(value) && value >= 0, "a varint is a safe integer from 0");
    this.#reserve(8);
    if (value < 0x80) {
      this.#bytes[this.#size++] = value;
      return;
    }
    // Shifts work on 32 bits only, so the high part is divided down first.
    while (value >= 0x8000_0000) {
      this.#bytes[this.#size++] = (value % 128) | 0x80;
      value = Math.floor(value / 128);
    }
    while (value >= 0x80) {
      this.#bytes[this.#size++] = (value & 0x7f) | 0x80;
      value >>>= 7;
    }
    this.#bytes[this.#size++] = value;
  }

  octets(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#size);
    this.#size += bytes.length;
  }

  /** The next `length` octets, all zero, for the caller to fill before the next call. */
  space(length: number): Uint8Array {
    this.#reserve(length);
    this.#size += length;
    return this.#bytes.subarray(this.#size - length, this.#size);
  }

  /** What was written. A view: the writer is not used afterwards. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#size);
  }

  #reserve(length: number): void {
    const needed = this.#size + length;
    if (needed <= this.#bytes.length) return;
    const bytes = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    bytes.set(this.#bytes.subarray(0, this.#size));
    this.#bytes = bytes;
  }
}

export class OctetReader {
  readonly #bytes: Uint8Array;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  u8(): number {
    this.#need(1);
    return this.#bytes[this.#offset++]!;
  }

  /** A varint of at most `max`, which is a safe integer. */
  varint(field: string, max: number): number {
    let value = 0;
    let scale = 1;
    for (;;) {
      const octet = this.u8();
      value += (octet & 0x7f) * scale;
      if (value > max) throw badField(field, `over ${max}`);
      if ((octet & 0x80) === 0) {
        if (octet === 0 && scale > 1) throw badField(field, "varint longer than needed");
        return value;
      }
      scale *= 128;
      if (scale > Number.MAX_SAFE_INTEGER) throw badField(field, "varint longer than any integer");
    }
  }

  /** A view of the next `length` octets. */
  octets(length: number): Uint8Array {
    this.#need(length);
    this.#offset += length;
    return this.#bytes.subarray(this.#offset - length, this.#offset);
  }

  /** Everything must have been read. */
  end(field: string): void {
    if (this.remaining > 0) throw badField(field, `${this.remaining} octets too many`);
  }

  #need(length: number): void {
    if (length <= this.remaining) return;
    throw new ProtocolError({
      code: "PROTOCOL_FRAME_TRUNCATED",
      sizeBytes: this.#bytes.length,
      neededBytes: this.#offset + length,
    });
  }
}
