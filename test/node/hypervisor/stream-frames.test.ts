import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FRAME_BYTES_MAX, FrameReader, frameHead } from "../../../node/hypervisor/stream-frames.ts";

/** What a reader makes of the pieces, data joined. */
function read(pieces: readonly Uint8Array[]): string[] {
  const reader = new FrameReader();
  const parts: string[] = [];
  for (const piece of pieces) {
    for (const part of reader.push(piece)) {
      if (part.type !== "data") parts.push(part.type);
      else if (parts.at(-1)?.startsWith("data:")) parts.push(`${parts.pop()}${Buffer.from(part.data)}`);
      else parts.push(`data:${Buffer.from(part.data)}`);
    }
  }
  return parts;
}

describe("the frames of a qemu domain's stream", () => {
  const stream = Buffer.concat([
    frameHead("data", 5),
    Buffer.from("first"),
    frameHead("again"),
    frameHead("data", 6),
    Buffer.from("second"),
    frameHead("whole"),
  ]);

  it("have the layout that is written down", () => {
    expect([...frameHead("data", 0x01020304)]).toEqual([1, 1, 2, 3, 4]);
    expect([...frameHead("whole")]).toEqual([2, 0, 0, 0, 0]);
    expect([...frameHead("again")]).toEqual([3, 0, 0, 0, 0]);
  });

  it("are read the same however the stream is cut", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(stream.length)), (cuts) => {
        const ends = [...cuts, stream.length].sort((a, b) => a - b);
        const pieces = ends.map((end, index) => stream.subarray(ends[index - 1] ?? 0, end));
        expect(read(pieces)).toEqual(["data:first", "again", "data:second", "whole"]);
      }),
    );
  });

  it.each([
    ["of a type that nobody knows", Buffer.from([9, 0, 0, 0, 0])],
    ["of data beyond their limit", frameHead("data", FRAME_BYTES_MAX + 1)],
    ["that end a stream and carry something", Buffer.from([2, 0, 0, 0, 1])],
  ])("%s end the stream", (_, bytes) => {
    expect(() => read([bytes])).toThrow(expect.objectContaining({ code: "HYPERVISOR_BAD_STREAM" }));
  });

  it("of any bytes are read or refused, and nothing else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          read([bytes]);
        } catch (error) {
          expect(error).toMatchObject({ code: "HYPERVISOR_BAD_STREAM" });
        }
      }),
    );
  });
});
