/**
 * The stream of `xl migrate`, read as it passes by: where it ends, and how far its first pass over memory is. xl says
 * neither by any other means, and everything that it does of its own accord happens after the end.
 *
 *   xl       magic of 32 octets, 4 × u32 (order, flags, flags, length), configuration in JSON
 *   libxl    "LibxlFmt", version, options; records of type and length, padded to 8; type 0 ends the stream
 *   libxc    inside libxl's record 1: two headers of 24 and 16 octets, records likewise; type 0 leads back to libxl's
 *
 * The figures of libxc are little-endian, the names and versions big-endian. Page data comes in records of up to
 * 1024 page numbers that rise within one pass: a lower one begins the next pass.
 */

import { badStream } from "../errors.ts";

export type StreamProgress = {
  /** 1 while memory is sent for the first time. 0 before. */
  pass: number;
  /** Behind the highest page of the pass. */
  nextPage: number;
};

const XL_MAGIC = "Xen saved domain, xl format\n \0 \r";
const XL_HEADER_BYTES = 48;
const LIBXL_MAGIC = "LibxlFmt";
const LIBXL_HEADER_BYTES = 16;
const LIBXC_HEADERS_BYTES = 40;
const LIBXC_MARKER = 0xffffffffffffffffn;
const RECORD_HEAD_BYTES = 8;
/** Of a page data record: count, reserved, and the first page's number. */
const PAGES_HEAD_BYTES = 16;
const RECORD = { libxl: { end: 0, libxc: 1 }, libxc: { end: 0, pageData: 1 } } as const;
/** xl writes a few KiB. */
const CONFIG_BYTES_MAX = 1 << 20;
/** libxc's own limit. */
const RECORD_BYTES_MAX = 128 << 20;
const PAGE_NUMBER_BITS = 52n;

type Expecting =
  | "xl-header"
  | "config"
  | "libxl-header"
  | "libxl-record"
  | "libxc-headers"
  | "libxc-record"
  | "pages";

export class XlStreamReader {
  readonly progress: StreamProgress = { pass: 0, nextPage: 0 };
  /** xl's configuration of the domain, once it has passed. */
  config: string | undefined;
  #expecting: Expecting = "xl-header";
  #wanted = XL_HEADER_BYTES;
  #collected: Buffer[] = [];
  #collectedBytes = 0;
  #toSkip = 0;
  #firstPage = -1;
  #pageRecordBytes = 0;
  #isWhole = false;

  /** The stream has ended in order. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  /** Throws HYPERVISOR_BAD_STREAM, after which the stream is lost. */
  push(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.#isWhole) throw badStream("it goes on after its end");
      if (this.#toSkip > 0) {
        const skipped = Math.min(this.#toSkip, bytes.length - at);
        this.#toSkip -= skipped;
        at += skipped;
        continue;
      }
      const part = bytes.subarray(at, at + this.#wanted - this.#collectedBytes);
      this.#collected.push(Buffer.from(part));
      this.#collectedBytes += part.length;
      at += part.length;
      if (this.#collectedBytes < this.#wanted) return;
      const whole = Buffer.concat(this.#collected);
      this.#collected = [];
      this.#collectedBytes = 0;
      this.#take(whole);
    }
  }

  #take(bytes: Buffer): void {
    switch (this.#expecting) {
      case "xl-header": {
        if (bytes.toString("latin1", 0, XL_MAGIC.length) !== XL_MAGIC) throw badStream("it is not one of xl");
        const length = bytes.readUInt32LE(44);
        if (length < 4 || length > CONFIG_BYTES_MAX) throw badStream(`a configuration of ${length} bytes`);
        this.#expect("config", length);
        return;
      }
      case "config":
        // A length of its own comes first.
        this.config = bytes.toString("utf8", 4, 4 + Math.min(bytes.readUInt32LE(0), bytes.length - 4));
        this.#expect("libxl-header", LIBXL_HEADER_BYTES);
        return;
      case "libxl-header":
        if (bytes.toString("latin1", 0, 8) !== LIBXL_MAGIC) throw badStream("libxl's header is not there");
        this.#expect("libxl-record", RECORD_HEAD_BYTES);
        return;
      case "libxl-record":
        this.#libxlRecord(bytes);
        return;
      case "libxc-headers":
        if (bytes.readBigUInt64LE(0) !== LIBXC_MARKER) throw badStream("libxc's header is not there");
        this.#expect("libxc-record", RECORD_HEAD_BYTES);
        return;
      case "libxc-record":
        this.#libxcRecord(bytes);
        return;
      case "pages":
        this.#pages(bytes);
        this.#toSkip = this.#pageRecordBytes - PAGES_HEAD_BYTES;
        this.#expect("libxc-record", RECORD_HEAD_BYTES);
        return;
    }
  }

  #libxlRecord(head: Buffer): void {
    const { type, length } = recordOf(head);
    if (type === RECORD.libxl.end) {
      this.#isWhole = true;
      return;
    }
    this.#toSkip = length;
    if (type === RECORD.libxl.libxc) {
      this.#expect("libxc-headers", LIBXC_HEADERS_BYTES);
      return;
    }
    this.#expect("libxl-record", RECORD_HEAD_BYTES);
  }

  #libxcRecord(head: Buffer): void {
    const { type, length } = recordOf(head);
    if (type === RECORD.libxc.end) {
      this.#expect("libxl-record", RECORD_HEAD_BYTES);
      return;
    }
    if (type === RECORD.libxc.pageData && length >= PAGES_HEAD_BYTES) {
      this.#pageRecordBytes = length;
      this.#expect("pages", PAGES_HEAD_BYTES);
      return;
    }
    this.#toSkip = length;
    this.#expect("libxc-record", RECORD_HEAD_BYTES);
  }

  #pages(head: Buffer): void {
    const first = Number(BigInt.asUintN(Number(PAGE_NUMBER_BITS), head.readBigUInt64LE(8)));
    if (first <= this.#firstPage || this.progress.pass === 0) this.progress.pass += 1;
    this.#firstPage = first;
    this.progress.nextPage = first + head.readUInt32LE(0);
  }

  #expect(what: Expecting, bytes: number): void {
    this.#expecting = what;
    this.#wanted = bytes;
  }
}

function recordOf(head: Buffer): { type: number; length: number } {
  const length = head.readUInt32LE(4);
  if (length > RECORD_BYTES_MAX) throw badStream(`a record of ${length} bytes`);
  return { type: head.readUInt32LE(0), length: Math.ceil(length / 8) * 8 };
}
