import { describe, expect, it } from "vitest";
import { StorageError } from "../../../storage/errors.ts";
import { NBD_CMD, NBD_CMD_FLAG, NBD_ERRNO } from "../../../storage/nbd/constants.ts";
import {
  blockStatusChunk,
  errnoOfFailure,
  errorChunk,
  Request,
  refusal,
  writeDataChunkHeader,
  writeSimpleReply,
} from "../../../storage/nbd/transmission.ts";
import { octets } from "./fixtures.ts";

const LIMITS = {
  sizeBytes: 1 << 20,
  readOnly: false,
  structuredReplies: true,
  hasContexts: true,
  canFastZero: false,
};

function request(fields: Partial<Request>): Request {
  return Object.assign(new Request(), { length: 4096 }, fields);
}

describe("transmission: requests", () => {
  it("are taken apart field by field", () => {
    const bytes = octets("ff 25609513 0001 0006 0123456789abcdef 0000000112345000 00abcdef");
    const decoded = new Request();
    expect(decoded.decode(bytes, 1)).toBe(true);
    expect(decoded).toMatchObject({ flags: 1, command: 6, high: 0x01234567, low: 0x89abcdef });
    expect(decoded).toMatchObject({ offset: 0x112345000, length: 0xabcdef });
  });

  it("with another magic are none", () => {
    expect(new Request().decode(Buffer.alloc(28), 0)).toBe(false);
  });
});

describe("transmission: refusals", () => {
  const { READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE } = NBD_CMD;
  const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO } = NBD_CMD_FLAG;
  const end = LIMITS.sizeBytes;
  const fine: [string, Partial<Request>, Partial<typeof LIMITS>?][] = [
    ["a read up to the last octet", { command: READ, offset: end - 4096 }],
    ["a read that must not be split", { command: READ, flags: DF }],
    ["a write with FUA", { command: WRITE, flags: FUA }],
    ["a flush", { command: FLUSH, length: 0 }],
    ["zeroes without a hole", { command: WRITE_ZEROES, flags: NO_HOLE | FUA }],
    ["fast zeroes where they are fast", { command: WRITE_ZEROES, flags: FAST_ZERO }, { canFastZero: true }],
    ["one extent", { command: BLOCK_STATUS, flags: REQ_ONE }],
    ["a cache hint", { command: CACHE }],
  ];
  it.each(fine)("%s is fine", (_, fields, limits) => {
    expect(refusal(request(fields), { ...LIMITS, ...limits })).toBe(0);
  });

  const { EPERM, EINVAL, ENOSPC, ENOTSUP } = NBD_ERRNO;
  const refused: [string, Partial<Request>, number, Partial<typeof LIMITS>?][] = [
    ["a write to a read-only export", { command: WRITE }, EPERM, { readOnly: true }],
    ["a trim of a read-only export", { command: TRIM }, EPERM, { readOnly: true }],
    ["zeroes for a read-only export", { command: WRITE_ZEROES }, EPERM, { readOnly: true }],
    ["a read beyond the end", { command: READ, offset: end - 4095 }, EINVAL],
    ["a write beyond the end", { command: WRITE, offset: end - 4095 }, ENOSPC],
    ["zeroes beyond the end", { command: WRITE_ZEROES, offset: end }, ENOSPC],
    ["a trim beyond the end", { command: TRIM, offset: end }, EINVAL],
    ["an offset beyond 2^53", { command: READ, offset: 2 ** 64 - 4096 }, EINVAL],
    ["a read of nothing", { command: READ, length: 0 }, EINVAL],
    ["a read of more than 32 MiB", { command: READ, length: (32 << 20) + 1 }, EINVAL, { sizeBytes: 2 ** 40 }],
    [
      "a write of more than 32 MiB",
      { command: WRITE, length: (32 << 20) + 1 },
      EINVAL,
      { sizeBytes: 2 ** 40 },
    ],
    ["a flush of a range", { command: FLUSH, offset: 4096 }, EINVAL],
    ["a flag nobody knows", { command: READ, flags: 1 << 9 }, EINVAL],
    ["DF on a write", { command: WRITE, flags: DF }, EINVAL],
    ["DF without structured replies", { command: READ, flags: DF }, EINVAL, { structuredReplies: false }],
    ["REQ_ONE on a read", { command: READ, flags: REQ_ONE }, EINVAL],
    ["a status without contexts", { command: BLOCK_STATUS }, EINVAL, { hasContexts: false }],
    ["fast zeroes where they are not", { command: WRITE_ZEROES, flags: FAST_ZERO }, ENOTSUP],
    ["a resize", { command: RESIZE }, EINVAL],
    ["a command of the future", { command: 77 }, EINVAL],
  ];
  it.each(refused)("%s is refused", (_, fields, errno, limits) => {
    expect(refusal(request(fields), { ...LIMITS, ...limits })).toBe(errno);
  });

  it("failures of the store become error numbers by their code", () => {
    const operation = "write";
    const range = { offset: 0, length: 1, sizeBytes: 0 };
    expect(errnoOfFailure(new StorageError({ code: "STORAGE_FULL", operation }))).toBe(NBD_ERRNO.ENOSPC);
    expect(errnoOfFailure(new StorageError({ code: "STORAGE_READ_ONLY", operation }))).toBe(NBD_ERRNO.EPERM);
    expect(errnoOfFailure(new StorageError({ code: "STORAGE_FENCED", operation }))).toBe(NBD_ERRNO.ESHUTDOWN);
    expect(errnoOfFailure(new StorageError({ code: "STORAGE_CLOSED", operation }))).toBe(NBD_ERRNO.ESHUTDOWN);
    expect(errnoOfFailure(new StorageError({ code: "STORAGE_OUT_OF_RANGE", ...range }))).toBe(
      NBD_ERRNO.EINVAL,
    );
    expect(errnoOfFailure(new StorageError({ code: "STORAGE_IO", operation, reason: "" }))).toBe(
      NBD_ERRNO.EIO,
    );
    const reason = "closed";
    expect(errnoOfFailure(new StorageError({ code: "STORAGE_PULL_FAILED", operation, reason }))).toBe(108);
    expect(errnoOfFailure("anything")).toBe(NBD_ERRNO.EIO);
  });
});

describe("transmission: replies", () => {
  const cookie = { high: 0x01234567, low: 0x89abcdef };

  it("a simple reply", () => {
    const bytes = Buffer.alloc(16);
    writeSimpleReply(bytes, 0, NBD_ERRNO.ENOSPC, cookie);
    expect(bytes).toEqual(octets("67446698 0000001c 0123456789abcdef"));
  });

  it("a chunk of data", () => {
    const bytes = Buffer.alloc(28);
    writeDataChunkHeader(bytes, 0, cookie, 0x112345000, 4096, true);
    expect(bytes).toEqual(octets("668e33ef 0001 0001 0123456789abcdef 00001008 0000000112345000"));
  });

  it("an error", () => {
    expect(errorChunk(5, cookie)).toEqual(
      octets("668e33ef 0001 8001 0123456789abcdef 00000006 00000005 0000"),
    );
  });

  it("a block status", () => {
    const extents = [
      { length: 4096, flags: 3 },
      { length: 8192, flags: 0 },
    ];
    expect(blockStatusChunk(cookie, { id: 7, extents, done: false })).toEqual(
      octets("668e33ef 0000 0005 0123456789abcdef 00000014 00000007 00001000 00000003 00002000 00000000"),
    );
  });
});
