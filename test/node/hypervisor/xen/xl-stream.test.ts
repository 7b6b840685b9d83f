import { describe, expect, it } from "vitest";
import { XlStreamReader } from "../../../../node/hypervisor/xen/xl-stream.ts";
import { xlStream } from "./xl-streams.ts";

const STREAM = xlStream({
  passes: [
    [
      [0, 1, 2],
      [3, 4, 7],
    ],
    [[1, 5]],
    [[1]],
  ],
  config: '{"c_info":{"name":"web"}}',
});

describe("a stream of xl migrate", () => {
  it.each([1, 7, 64, 4096, STREAM.length])("is read to its end in pieces of %i bytes", (size) => {
    const reader = new XlStreamReader();
    for (let at = 0; at < STREAM.length; at += size) {
      expect(reader.isWhole).toBe(false);
      reader.push(STREAM.subarray(at, at + size));
    }
    expect(reader.isWhole).toBe(true);
    expect(reader.progress).toEqual({ pass: 3, nextPage: 2 });
    expect(reader.config?.replace(/\0$/, "")).toBe('{"c_info":{"name":"web"}}');
  });

  it("tells how far its first pass is, and when the next one begins", () => {
    const first = xlStream({
      passes: [
        [
          [0, 1, 2],
          [3, 4, 7],
        ],
      ],
    });
    const reader = new XlStreamReader();
    const seen: string[] = [];
    for (const octet of first) {
      reader.push(Buffer.from([octet]));
      const { pass, nextPage } = reader.progress;
      if (seen.at(-1) !== `${pass}:${nextPage}`) seen.push(`${pass}:${nextPage}`);
    }
    expect(seen).toEqual(["0:0", "1:3", "1:6"]);
  });

  it("is not whole one byte before its end", () => {
    const reader = new XlStreamReader();
    reader.push(STREAM.subarray(0, -1));
    expect(reader.isWhole).toBe(false);
  });

  it("has nothing after its end", () => {
    const reader = new XlStreamReader();
    reader.push(STREAM);
    expect(() => reader.push(Buffer.from([0]))).toThrow(/goes on after its end/);
  });

  it.each([
    ["of something else", Buffer.alloc(100, 0x5a), /not one of xl/],
    ["with a configuration of 2 GiB", withLength(44, 0x7fffffff), /a configuration of/],
    ["without libxl's header", withLength(48 + 4 + 26, 0), /libxl's header/],
  ])("%s is refused", (_what, bytes, reason) => {
    const reader = new XlStreamReader();
    expect(() => reader.push(bytes)).toThrow(reason);
  });

  it("with a record of more than libxc's limit is refused", () => {
    const bytes = Buffer.from(STREAM);
    const at = bytes.indexOf("LibxlFmt") + 16;
    bytes.writeUInt32LE(0x7fffffff, at + 4);
    expect(() => new XlStreamReader().push(bytes)).toThrow(/a record of/);
  });
});

function withLength(at: number, value: number): Buffer {
  const bytes = Buffer.from(STREAM);
  bytes.writeUInt32LE(value, at);
  return bytes;
}
