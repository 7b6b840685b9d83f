/**
 * The kinds of field that message bodies are made of, each written and read in one place.
 *
 *   integer   varint
 *   name      varint length, UTF-8. Not empty, no control characters: an id, a name, a code
 *   text      varint length, UTF-8. For people; too long ones are cut by the sender
 *   runs      varint count; per run two varints, the blocks skipped since the last run and its length less one
 *   bitmaps   per vbd of the domain: varint length, then the form of `block-bitmap-wire.ts`
 *   rest      octets to the end of the message, which are not copied
 */

import { BlockBitmap } from "../block-bitmap.ts";
import { assert, ProtocolError } from "../errors.ts";
import { BLOCK_COUNT_MAX } from "../limits.ts";
import type { VbdIndex } from "../messages.ts";
import { badField, OctetReader, OctetWriter } from "../octets.ts";
import type { BlockRun } from "../units.ts";

/** Octets of a text for people. */
export const TEXT_SIZE_MAX = 4096;

export type VbdShape = { readonly sizeBytes: number; readonly blockCount: number };

export type Range = { readonly min: number; readonly max: number };

export type RunLimits = { readonly runsMax: number; readonly blocksMax: number };

const CODE_UNIT_OCTETS_MAX = 3;

const UTF8_ENCODER = new TextEncoder();

/** A leading U+FEFF is part of the string, whatever it was meant for. */
const UTF8_DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROL_CHARACTERS = /[\u0000-\u001f\u007f-\u009f]/;

export class FieldWriter {
  readonly #octets = new OctetWriter();

  integer(value: number): void {
    this.#octets.varint(value);
  }

  name(value: string, lengthMax: number): void {
    assert(value.length <= lengthMax && isName(value), `not a name: ${JSON.stringify(value.slice(0, 64))}`);
    this.#string(UTF8_ENCODER.encode(value));
  }

  text(value: string): void {
    const target = new Uint8Array(TEXT_SIZE_MAX);
    this.#string(target.subarray(0, UTF8_ENCODER.encodeInto(value, target).written));
  }

  /** Like a name in that it arrives as it is or not at all, and like a text in what it may hold. */
  document(value: string, sizeMax: number): void {
    const octets = UTF8_ENCODER.encode(value);
    assert(octets.length <= sizeMax && value.isWellFormed(), "a document over its limit");
    this.#string(octets);
  }

  member<Name extends string>(value: Name, numbers: Readonly<Record<Name, number>>): void {
    this.#octets.u8(numbers[value]);
  }

  runs(runs: readonly BlockRun[], { runsMax, blocksMax }: RunLimits): void {
    assert(runs.length <= runsMax && blocksOf(runs) <= blocksMax, "runs over their limits");
    this.#octets.varint(runs.length);
    let end = 0;
    for (const { start, count } of runs) {
      this.#octets.varint(start - end);
      this.#octets.varint(count - 1);
      end = start + count;
    }
  }

  bitmaps(bitmaps: readonly BlockBitmap[]): void {
    for (const bitmap of bitmaps) this.#string(bitmap.encode());
  }

  finish(): Uint8Array {
    return this.#octets.finish();
  }

  #string(octets: Uint8Array): void {
    this.#octets.varint(octets.length);
    this.#octets.octets(octets);
  }
}

export type ReaderContext = {
  /** The domain's vbds; undefined while no `begin` was accepted. */
  readonly vbds: readonly VbdShape[] | undefined;
  /** What all bitmaps of the message may take in memory. */
  readonly bitmapBytesMax: number;
};

/** Reads one body. Every method throws ProtocolError for what the protocol does not allow. */
export class FieldReader {
  readonly #message: string;
  readonly #octets: OctetReader;
  readonly #vbds: readonly VbdShape[] | undefined;
  #bitmapBytesLeft: number;

  constructor(message: string, body: Uint8Array, { vbds, bitmapBytesMax }: ReaderContext) {
    this.#message = message;
    this.#octets = new OctetReader(body);
    this.#vbds = vbds;
    this.#bitmapBytesLeft = bitmapBytesMax;
  }

  /** The domain's vbds; only messages that come after `begin` ask for them. */
  get vbds(): readonly VbdShape[] {
    if (this.#vbds !== undefined) return this.#vbds;
    throw new ProtocolError({
      code: "PROTOCOL_UNEXPECTED_MESSAGE",
      phase: "before the vbds are known",
      message: this.#message,
    });
  }

  /** The shapes as far as they are known: a repeated message must agree with them. */
  get knownVbds(): readonly VbdShape[] | undefined {
    return this.#vbds;
  }

  wrong(field: string, reason: string): ProtocolError {
    return badField(`${this.#message}.${field}`, reason);
  }

  integer(field: string, { min, max }: Range = { min: 0, max: Number.MAX_SAFE_INTEGER }): number {
    const value = this.#octets.varint(`${this.#message}.${field}`, max);
    if (value < min) throw this.wrong(field, `under ${min}`);
    return value;
  }

  name(field: string, lengthMax: number): string {
    const value = this.#string(field, lengthMax * CODE_UNIT_OCTETS_MAX);
    if (value.length > lengthMax) throw this.wrong(field, `over ${lengthMax} characters`);
    if (!isName(value)) throw this.wrong(field, "empty, or with control characters");
    return value;
  }

  text(field: string): string {
    return this.#string(field, TEXT_SIZE_MAX);
  }

  document(field: string, sizeMax: number): string {
    return this.#string(field, sizeMax);
  }

  member<Name extends string>(field: string, numbers: Readonly<Record<Name, number>>): Name {
    const number = this.#octets.u8();
    for (const name in numbers) {
      if (numbers[name] === number) return name;
    }
    throw this.wrong(field, `unknown value ${number}`);
  }

  vbd(): { index: VbdIndex; shape: VbdShape } {
    const index = this.integer("vbd");
    const shape = this.vbds[index];
    if (shape === undefined) throw this.wrong("vbd", `vbd ${index} of ${this.vbds.length}`);
    return { index, shape };
  }

  runs(field: string, { blockCount }: VbdShape, { runsMax, blocksMax }: RunLimits): BlockRun[] {
    const runs: BlockRun[] = [];
    let end = 0;
    let blocks = 0;
    for (let left = this.integer(field, { min: 0, max: runsMax }); left > 0; left--) {
      const start = end + this.integer(field, { min: 0, max: BLOCK_COUNT_MAX });
      const count = this.integer(field, { min: 0, max: BLOCK_COUNT_MAX }) + 1;
      end = start + count;
      blocks += count;
      if (end > blockCount) throw this.wrong(field, "beyond the last block");
      if (blocks > blocksMax) throw this.wrong(field, `over ${blocksMax} blocks`);
      runs.push({ start, count });
    }
    return runs;
  }

  bitmaps(field: string): BlockBitmap[] {
    return this.vbds.map(({ blockCount }) => {
      const length = this.integer(field, { min: 0, max: this.#octets.remaining });
      const bitmap = BlockBitmap.decode(this.#octets.octets(length), blockCount, this.#bitmapBytesLeft);
      this.#bitmapBytesLeft -= bitmap.allocatedBytes;
      return bitmap;
    });
  }

  rest(field: string, { min, max }: Range): Uint8Array {
    const length = this.#octets.remaining;
    if (length < min || length > max) throw this.wrong(field, `${length} octets, not ${min} to ${max}`);
    return this.#octets.octets(length);
  }

  end(): void {
    this.#octets.end(this.#message);
  }

  #string(field: string, sizeMax: number): string {
    const octets = this.#octets.octets(this.integer(field, { min: 0, max: sizeMax }));
    try {
      return UTF8_DECODER.decode(octets);
    } catch (cause) {
      const detail = {
        code: "PROTOCOL_BAD_FIELD",
        field: `${this.#message}.${field}`,
        reason: "not UTF-8",
      } as const;
      throw new ProtocolError(detail, { cause });
    }
  }
}

/** Whether the vbds are of these sizes, in this order. */
export function haveSizes(vbds: readonly VbdShape[], sizesBytes: readonly number[]): boolean {
  return (
    vbds.length === sizesBytes.length && vbds.every(({ sizeBytes }, index) => sizeBytes === sizesBytes[index])
  );
}

/** How many blocks the runs have. */
export function blocksOf(runs: readonly BlockRun[]): number {
  return runs.reduce((sum, { count }) => sum + count, 0);
}

function isName(value: string): boolean {
  return value.length > 0 && value.isWellFormed() && !CONTROL_CHARACTERS.test(value);
}
