/**
 * The memory stream: a guest's RAM as it changes, until an end mark says that all of it is there.
 *
 *    0        4         8                16 octet         0      1      2       4        8       12
 *   +--------+---------+----------------+               +------+------+-------+--------+--------+-----------
 *   | SJWM   | version | memory bytes   |   then records | type | mask | count | page   | length | body ...
 *   +--------+---------+----------------+               +------+------+-------+--------+--------+-----------
 *
 *   data   `count` pages from `page` on, whole             zero   `count` pages from `page` on are zero
 *   delta  the 512-byte sectors of one page named in `mask`  round  a pass ended; `page` is its number
 *   end    body: SHA-256 over the hashes of all pages (PageDigest), and the stream's length up to here
 *
 * Integers are big-endian. The receiver's memory is zero at the begin, so pages never sent are zero. After an
 * end mark more may follow (the guest was thawed), up to a further end mark. The dirty log does not travel.
 */

import { badStream } from "../errors.ts";
import { DIRTY_LOG, PAGE_BYTES, SECTOR_BYTES, SECTORS_PER_BLOCK } from "./layout.ts";
import { DIGEST_BYTES, PageDigest } from "./page-digest.ts";

export const STREAM_MAGIC = 0x534a574d;
export const STREAM_VERSION = 1;
export const STREAM_HEADER_BYTES = 16;
export const RECORD_HEADER_BYTES = 12;
export const RECORD_TYPE = { data: 1, zero: 2, delta: 3, round: 4, end: 5 } as const;
/** The most pages of one `data` record; a `zero` record holds as many as its field can say. */
export const DATA_PAGES_MAX = 16;
const ZERO_PAGES_MAX = 0xffff;
const END_BODY_BYTES = DIGEST_BYTES + 8;
const WHOLE_PAGE_MASK = 0xff;
/** Room that `isFull` leaves for a round mark and an end mark. */
const MARKS_BYTES = 128;
/** More than a socket's chunk holds, so that hashing keeps up. */
const SETTLE_PAGES_PER_PUSH = 64;

const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

/** How many pages the dirty log takes; they are the host's and never sent. */
export function isLogPage(page: number, pages: number): boolean {
  const first = DIRTY_LOG / PAGE_BYTES;
  return page >= first && page < first + Math.ceil(pages / PAGE_BYTES);
}

/** The sender's half: keeps a copy of what the receiver has, and appends records for what differs from it. */
export class MemoryEncoder {
  readonly #memory: Buffer;
  readonly #shadow: Buffer;
  readonly #digest: PageDigest;
  #chunk: Buffer;
  #used = 0;
  #sentBytes = 0;
  /** The last record of this chunk, while further pages may still join it. */
  #open: { type: number; at: number; nextPage: number; count: number } | undefined;
  readonly #chunkBytes: number;

  constructor(memory: Buffer, { chunkBytes }: { chunkBytes: number }) {
    this.#memory = memory;
    this.#shadow = Buffer.alloc(memory.length);
    this.#digest = new PageDigest(this.#shadow);
    this.#chunkBytes = chunkBytes;
    this.#chunk = Buffer.allocUnsafe(chunkBytes + MARKS_BYTES);
    this.#chunk.writeUInt32BE(STREAM_MAGIC, 0);
    this.#chunk.writeUInt32BE(STREAM_VERSION, 4);
    this.#chunk.writeBigUInt64BE(BigInt(memory.length), 8);
    this.#used = STREAM_HEADER_BYTES;
  }

  /** Everything appended since the begin. */
  get totalBytes(): number {
    return this.#sentBytes + this.#used;
  }

  /** Whether the next page may not fit: `take` first. */
  get isFull(): boolean {
    return this.#used + RECORD_HEADER_BYTES + PAGE_BYTES > this.#chunkBytes;
  }

  /** The bytes appended since the last `take`. */
  take(): Buffer {
    const taken = this.#chunk.subarray(0, this.#used);
    this.#sentBytes += this.#used;
    this.#chunk = Buffer.allocUnsafe(this.#chunkBytes + MARKS_BYTES);
    this.#used = 0;
    this.#open = undefined;
    return taken;
  }

  /** Appends what the receiver lacks of this page. False: nothing. */
  page(page: number): boolean {
    const start = page * PAGE_BYTES;
    const end = start + PAGE_BYTES;
    if (this.#memory.compare(this.#shadow, start, end, start, end) === 0) return false;
    if (this.#memory.compare(ZERO_PAGE, 0, PAGE_BYTES, start, end) === 0) this.#zeroPage(page);
    else {
      const mask = this.#changedSectors(start);
      if (mask === WHOLE_PAGE_MASK) this.#dataPage(page);
      else this.#deltaPage(page, mask);
    }
    this.#memory.copy(this.#shadow, start, start, end);
    this.#digest.touch(page);
    return true;
  }

  round(round: number): void {
    this.#record(RECORD_TYPE.round, { mask: 0, count: 0, page: round, length: 0 });
    this.#open = undefined;
  }

  /** Hashes ahead of the end mark. False: call again. */
  settle(pagesMax: number): boolean {
    return this.#digest.settle(pagesMax);
  }

  end(): void {
    this.#record(RECORD_TYPE.end, { mask: 0, count: 0, page: 0, length: END_BODY_BYTES });
    this.#open = undefined;
    this.#used += this.#digest.digest().copy(this.#chunk, this.#used);
    this.#used = this.#chunk.writeBigUInt64BE(BigInt(this.totalBytes + 8), this.#used);
  }

  #changedSectors(start: number): number {
    let mask = 0;
    for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
      const at = start + sector * SECTOR_BYTES;
      const differs = this.#memory.compare(this.#shadow, at, at + SECTOR_BYTES, at, at + SECTOR_BYTES) !== 0;
      if (differs) mask |= 1 << sector;
    }
    return mask;
  }

  #zeroPage(page: number): void {
    if (this.#joins(RECORD_TYPE.zero, page, ZERO_PAGES_MAX)) return;
    this.#open = { type: RECORD_TYPE.zero, at: this.#used, nextPage: page + 1, count: 1 };
    this.#record(RECORD_TYPE.zero, { mask: 0, count: 1, page, length: 0 });
  }

  #dataPage(page: number): void {
    if (this.#joins(RECORD_TYPE.data, page, DATA_PAGES_MAX)) {
      const open = this.#open!;
      this.#chunk.writeUInt32BE(open.count * PAGE_BYTES, open.at + 8);
    } else {
      this.#open = { type: RECORD_TYPE.data, at: this.#used, nextPage: page + 1, count: 1 };
      this.#record(RECORD_TYPE.data, { mask: 0, count: 1, page, length: PAGE_BYTES });
    }
    this.#used += this.#memory.copy(this.#chunk, this.#used, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
  }

  #deltaPage(page: number, mask: number): void {
    const at = this.#used;
    this.#record(RECORD_TYPE.delta, { mask, count: 1, page, length: 0 });
    this.#open = undefined;
    for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
      if ((mask & (1 << sector)) === 0) continue;
      const start = page * PAGE_BYTES + sector * SECTOR_BYTES;
      this.#used += this.#memory.copy(this.#chunk, this.#used, start, start + SECTOR_BYTES);
    }
    this.#chunk.writeUInt32BE(this.#used - at - RECORD_HEADER_BYTES, at + 8);
  }

  #joins(type: number, page: number, countMax: number): boolean {
    const open = this.#open;
    if (!open || open.type !== type || open.nextPage !== page || open.count >= countMax) return false;
    open.nextPage++;
    open.count++;
    this.#chunk.writeUInt16BE(open.count, open.at + 2);
    return true;
  }

  #record(type: number, fields: { mask: number; count: number; page: number; length: number }): void {
    const at = this.#used;
    this.#chunk[at] = type;
    this.#chunk[at + 1] = fields.mask;
    this.#chunk.writeUInt16BE(fields.count, at + 2);
    this.#chunk.writeUInt32BE(fields.page, at + 4);
    this.#chunk.writeUInt32BE(fields.length, at + 8);
    this.#used = at + RECORD_HEADER_BYTES;
  }
}

/** The receiver's half: applies records to a zeroed memory as they come. Any error is `HYPERVISOR_BAD_STREAM`. */
export class MemoryDecoder {
  readonly #memory: Buffer;
  readonly #digest: PageDigest;
  readonly #pages: number;
  #rest: Buffer = Buffer.alloc(0);
  #takenBytes = 0;
  #headerSeen = false;
  #endedAtBytes: number | undefined;

  constructor(memory: Buffer) {
    this.#memory = memory;
    this.#pages = memory.length / PAGE_BYTES;
    this.#digest = new PageDigest(memory);
  }

  /** Everything pushed so far. */
  get totalBytes(): number {
    return this.#takenBytes + this.#rest.length;
  }

  /** Whether the last thing that came is an end mark whose digest is that of the memory. */
  get isWhole(): boolean {
    return this.#endedAtBytes === this.totalBytes;
  }

  push(data: Buffer): void {
    let bytes = this.#rest.length > 0 ? Buffer.concat([this.#rest, data]) : data;
    for (;;) {
      const length = this.#headerSeen ? this.#recordBytes(bytes) : STREAM_HEADER_BYTES;
      if (length === undefined || bytes.length < length) break;
      // Counted before it is applied: an end mark states the length with itself included.
      this.#takenBytes += length;
      if (this.#headerSeen) this.#apply(bytes);
      else this.#header(bytes);
      bytes = bytes.subarray(length);
    }
    // Copied, because a socket may use its buffer again.
    this.#rest = Buffer.from(bytes);
    // As it comes, so that little is left to hash at the end mark, while the domain is frozen.
    this.#digest.settle(SETTLE_PAGES_PER_PUSH);
  }

  #header(bytes: Buffer): void {
    if (bytes.readUInt32BE(0) !== STREAM_MAGIC) reject("not a memory stream");
    if (bytes.readUInt32BE(4) !== STREAM_VERSION) reject("a stream of another version");
    if (bytes.readBigUInt64BE(8) !== BigInt(this.#memory.length)) reject("a memory of another size");
    this.#headerSeen = true;
  }

  /** The length of the record at the begin of `bytes`, checked before anyone waits or allocates for it. */
  #recordBytes(bytes: Buffer): number | undefined {
    if (bytes.length < RECORD_HEADER_BYTES) return undefined;
    const mask = bytes[1]!;
    const count = bytes.readUInt16BE(2);
    const length = bytes.readUInt32BE(8);
    if (length !== expectedBodyBytes(bytes[0]!, { mask, count })) reject("a record of a wrong length");
    return RECORD_HEADER_BYTES + length;
  }

  #apply(bytes: Buffer): void {
    const type = bytes[0]!;
    const count = bytes.readUInt16BE(2);
    const page = bytes.readUInt32BE(4);
    if (type === RECORD_TYPE.round) return;
    if (type === RECORD_TYPE.end) {
      this.#end(bytes.subarray(RECORD_HEADER_BYTES));
      return;
    }
    if (page + count > this.#pages) reject("a page outside of memory");
    for (let index = page; index < page + count; index++) {
      if (isLogPage(index, this.#pages)) reject("a page of the dirty log");
      this.#digest.touch(index);
    }
    const start = page * PAGE_BYTES;
    if (type === RECORD_TYPE.zero) this.#memory.fill(0, start, start + count * PAGE_BYTES);
    else if (type === RECORD_TYPE.delta) this.#delta(start, bytes);
    else bytes.copy(this.#memory, start, RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + count * PAGE_BYTES);
  }

  #delta(start: number, bytes: Buffer): void {
    let from = RECORD_HEADER_BYTES;
    for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
      if ((bytes[1]! & (1 << sector)) === 0) continue;
      bytes.copy(this.#memory, start + sector * SECTOR_BYTES, from, from + SECTOR_BYTES);
      from += SECTOR_BYTES;
    }
  }

  #end(body: Buffer): void {
    if (body.readBigUInt64BE(DIGEST_BYTES) !== BigInt(this.#takenBytes)) reject("bytes of it are missing");
    if (this.#digest.digest().compare(body, 0, DIGEST_BYTES) !== 0)
      reject("its digest is not that of the memory");
    this.#endedAtBytes = this.#takenBytes;
  }
}

function expectedBodyBytes(type: number, { mask, count }: { mask: number; count: number }): number {
  switch (type) {
    case RECORD_TYPE.data:
      if (count < 1 || count > DATA_PAGES_MAX) reject("a run of too many pages");
      return count * PAGE_BYTES;
    case RECORD_TYPE.zero:
      if (count < 1) reject("an empty run");
      return 0;
    case RECORD_TYPE.delta:
      if (count !== 1) reject("a delta of several pages");
      return bitsOf(mask) * SECTOR_BYTES;
    case RECORD_TYPE.round:
      return 0;
    case RECORD_TYPE.end:
      return END_BODY_BYTES;
    default:
      return reject("an unknown record");
  }
}

function bitsOf(mask: number): number {
  let bits = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) bits++;
  return bits;
}

function reject(reason: string): never {
  throw badStream(reason);
}
