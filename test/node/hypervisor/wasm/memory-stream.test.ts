import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { HypervisorError } from "../../../../node/hypervisor/errors.ts";
import { DIRTY_LOG, PAGE_BYTES } from "../../../../node/hypervisor/wasm/layout.ts";
import {
  isLogPage,
  MemoryDecoder,
  MemoryEncoder,
  RECORD_TYPE,
  STREAM_HEADER_BYTES,
} from "../../../../node/hypervisor/wasm/memory-stream.ts";

const PAGES = 1024;
const MEMORY_BYTES = PAGES * PAGE_BYTES;
const CHUNK_BYTES = 64 * 1024;

/** One pass over all pages, then an end mark. */
function passOf(memory: Buffer, encoder: MemoryEncoder): Buffer {
  const parts: Buffer[] = [];
  for (let page = 0; page < PAGES; page++) {
    if (isLogPage(page, PAGES)) continue;
    if (encoder.isFull) parts.push(encoder.take());
    encoder.page(page);
  }
  encoder.round(1);
  encoder.end();
  parts.push(encoder.take());
  expect(memory.length).toBe(MEMORY_BYTES);
  return Buffer.concat(parts);
}

function filled(): Buffer {
  const memory = Buffer.alloc(MEMORY_BYTES);
  for (const page of [0, 1, 2, 3, 40, 41, 700, PAGES - 1])
    memory.fill(page + 1, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
  return memory;
}

describe("the memory stream", () => {
  it("carries a memory whatever it holds, in pieces of any size, over several passes", () => {
    const change = fc.record({
      page: fc.integer({ min: 0, max: PAGES - 1 }).filter((page) => !isLogPage(page, PAGES)),
      offset: fc.integer({ min: 0, max: PAGE_BYTES - 1 }),
      length: fc.integer({ min: 1, max: 3 * PAGE_BYTES }),
      value: fc.constantFrom(0, 1, 0xff),
    });
    const passes = fc.array(fc.array(change, { maxLength: 30 }), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(passes, fc.integer({ min: 1, max: 70_000 }), (changesOfPasses, pieceBytes) => {
        const memory = Buffer.alloc(MEMORY_BYTES);
        const received = Buffer.alloc(MEMORY_BYTES);
        const encoder = new MemoryEncoder(memory, { chunkBytes: CHUNK_BYTES });
        const decoder = new MemoryDecoder(received);
        for (const changes of changesOfPasses) {
          for (const { page, offset, length, value } of changes) {
            const start = page * PAGE_BYTES + offset;
            memory.fill(value, start, Math.min(start + length, MEMORY_BYTES));
          }
          // The log does not travel.
          memory.fill(0, DIRTY_LOG, DIRTY_LOG + PAGE_BYTES);
          const bytes = passOf(memory, encoder);
          for (let at = 0; at < bytes.length; at += pieceBytes)
            decoder.push(bytes.subarray(at, at + pieceBytes));
          expect(decoder.isWhole).toBe(true);
          expect(decoder.totalBytes).toBe(encoder.totalBytes);
          expect(received.equals(memory)).toBe(true);
        }
      }),
      { numRuns: 30 },
    );
  });

  it("sends only the changed sectors of a page, and nothing for a memory that did not change", () => {
    const memory = filled();
    const encoder = new MemoryEncoder(memory, { chunkBytes: CHUNK_BYTES });
    passOf(memory, encoder);
    const unchanged = passOf(memory, encoder).length;
    memory[40 * PAGE_BYTES + 600]! ^= 1;
    const changed = passOf(memory, encoder).length;
    expect(unchanged).toBeLessThan(100);
    expect(changed - unchanged).toBe(12 + 512);
  });

  it("sends pages that became zero as one run", () => {
    const memory = Buffer.alloc(MEMORY_BYTES, 7);
    memory.fill(0, DIRTY_LOG, DIRTY_LOG + PAGE_BYTES);
    const encoder = new MemoryEncoder(memory, { chunkBytes: CHUNK_BYTES });
    passOf(memory, encoder);
    memory.fill(0);
    expect(passOf(memory, encoder).length).toBeLessThan(200);
  });

  it("is whole at its end mark only", () => {
    const memory = filled();
    const bytes = passOf(memory, new MemoryEncoder(memory, { chunkBytes: CHUNK_BYTES }));
    for (let length = 0; length <= bytes.length; length += 509) {
      const decoder = new MemoryDecoder(Buffer.alloc(MEMORY_BYTES));
      decoder.push(bytes.subarray(0, Math.min(length, bytes.length - 1)));
      expect(decoder.isWhole).toBe(false);
    }
  });

  it("refuses a byte that changed on its way, wherever it is", () => {
    const memory = filled();
    const bytes = passOf(memory, new MemoryEncoder(memory, { chunkBytes: CHUNK_BYTES }));
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: bytes.length - 1 }),
        fc.integer({ min: 1, max: 255 }),
        (at, flip) => {
          const damaged = Buffer.from(bytes);
          damaged[at]! ^= flip;
          const received = Buffer.alloc(MEMORY_BYTES);
          const decoder = new MemoryDecoder(received);
          try {
            decoder.push(damaged);
          } catch (error) {
            expect(error).toBeInstanceOf(HypervisorError);
            return;
          }
          // Fields that nothing depends on (a round's number) may differ; the memory may not.
          if (decoder.isWhole) expect(received.equals(memory)).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("refuses any other bytes, and never with anything but its own error", () => {
    const header = passOf(filled(), new MemoryEncoder(filled(), { chunkBytes: CHUNK_BYTES }));
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 4096 }), fc.boolean(), (noise, withHeader) => {
        const decoder = new MemoryDecoder(Buffer.alloc(MEMORY_BYTES));
        try {
          if (withHeader) decoder.push(header.subarray(0, STREAM_HEADER_BYTES));
          decoder.push(Buffer.from(noise));
        } catch (error) {
          expect(error).toMatchObject({ code: "HYPERVISOR_BAD_STREAM" });
          return;
        }
        expect(decoder.isWhole).toBe(false);
      }),
    );
  });

  it.each([
    ["a page outside of memory", { type: RECORD_TYPE.zero, count: 2, page: PAGES - 1, length: 0 }],
    [
      "a page of the dirty log",
      { type: RECORD_TYPE.zero, count: 1, page: DIRTY_LOG / PAGE_BYTES, length: 0 },
    ],
    ["a run of too many pages", { type: RECORD_TYPE.data, count: 17, page: 0, length: 17 * PAGE_BYTES }],
    ["a record of a wrong length", { type: RECORD_TYPE.data, count: 1, page: 0, length: 2 ** 31 }],
    ["an unknown record", { type: 9, count: 1, page: 0, length: 0 }],
  ])("refuses %s", (reason, { type, count, page, length }) => {
    const memory = filled();
    const start = passOf(memory, new MemoryEncoder(memory, { chunkBytes: CHUNK_BYTES }));
    const record = Buffer.alloc(12);
    record[0] = type;
    record.writeUInt16BE(count, 2);
    record.writeUInt32BE(page, 4);
    record.writeUInt32BE(length, 8);
    const decoder = new MemoryDecoder(Buffer.alloc(MEMORY_BYTES));
    decoder.push(start.subarray(0, STREAM_HEADER_BYTES));
    expect(() => decoder.push(record)).toThrow(reason);
  });

  it("refuses a stream of a memory of another size", () => {
    const memory = filled();
    const bytes = passOf(memory, new MemoryEncoder(memory, { chunkBytes: CHUNK_BYTES }));
    const decoder = new MemoryDecoder(Buffer.alloc(MEMORY_BYTES + PAGE_BYTES));
    expect(() => decoder.push(bytes)).toThrow("another size");
  });
});
