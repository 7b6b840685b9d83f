/** Streams of `xl migrate` as xl writes them, small: the same records, made up pages. */

const PAGE_BYTES = 4096;

export function xlStream({
  passes,
  config = '{"c_info":{}}',
}: {
  /** Per pass over memory, the page numbers of its records. */
  passes: readonly (readonly (readonly number[])[])[];
  config?: string;
}): Buffer {
  return Buffer.concat([
    xlHeader(config),
    Buffer.from("LibxlFmt"),
    Buffer.from([0, 0, 0, 2, 0, 0, 0, 0]),
    record(1, Buffer.alloc(0)),
    libxcHeaders(),
    record(16, Buffer.alloc(0)),
    record(17, Buffer.alloc(72)),
    ...passes.flat().map(pageData),
    record(9, Buffer.alloc(1093)),
    record(0, Buffer.alloc(0)),
    record(2, Buffer.alloc(13)),
    record(0, Buffer.alloc(0)),
  ]);
}

function xlHeader(config: string): Buffer {
  const json = Buffer.from(`${config}\0`);
  const head = Buffer.alloc(48);
  head.write("Xen saved domain, xl format\n \0 \r", "latin1");
  head.writeUInt32LE(0x01020304, 32);
  head.writeUInt32LE(4 + json.length, 44);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  return Buffer.concat([head, length, json]);
}

function libxcHeaders(): Buffer {
  const headers = Buffer.alloc(40);
  headers.fill(0xff, 0, 8);
  headers.write("XENF", 8);
  headers.writeUInt32BE(3, 12);
  headers.writeUInt32LE(2, 24);
  headers.writeUInt16LE(12, 28);
  return headers;
}

/** Every second page is one that only has a number, as a hole of memory has. */
function pageData(pages: readonly number[]): Buffer {
  const numbers = Buffer.alloc(8 + 8 * pages.length);
  numbers.writeUInt32LE(pages.length, 0);
  for (const [at, page] of pages.entries()) {
    const type = at % 2 === 0 ? 0n : 0xfn << 60n;
    numbers.writeBigUInt64LE(BigInt(page) | type, 8 + 8 * at);
  }
  return record(1, Buffer.concat([numbers, Buffer.alloc(Math.ceil(pages.length / 2) * PAGE_BYTES, 0x5a)]));
}

function record(type: number, body: Buffer): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(type, 0);
  head.writeUInt32LE(body.length, 4);
  return Buffer.concat([head, body, Buffer.alloc((8 - (body.length % 8)) % 8)]);
}
