/** Stub: the class is being written. */
import type { BlockIndex, BlockRun } from "./units.ts";

export declare class BlockBitmap {
  readonly blockCount: number;
  constructor(blockCount: number);
  static full(blockCount: number): BlockBitmap;
  static of(blockCount: number, blocks: Iterable<BlockIndex>): BlockBitmap;
  get population(): number;
  has(block: BlockIndex): boolean;
  add(block: BlockIndex): void;
  delete(block: BlockIndex): boolean;
  addRange(start: BlockIndex, count: number): void;
  deleteRange(start: BlockIndex, count: number): void;
  /** The lowest block of the set at or after `from`. Does not wrap. */
  next(from?: BlockIndex): BlockIndex | undefined;
  /** The first run at or after `from`, cut to `countMax` blocks. */
  nextRun(from: BlockIndex, countMax: number): BlockRun | undefined;
  runs(): Iterable<BlockRun>;
  [Symbol.iterator](): Iterator<BlockIndex>;
  /** In place: this set and `other`'s. */
  union(other: BlockBitmap): void;
  subtract(other: BlockBitmap): void;
  intersect(other: BlockBitmap): void;
  clone(): BlockBitmap;
  clear(): void;
  equals(other: BlockBitmap): boolean;
  /** Run-length wire form. */
  encode(): Uint8Array;
  static decode(bytes: Uint8Array, blockCount: number): BlockBitmap;
}
