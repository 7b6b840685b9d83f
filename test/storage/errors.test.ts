import { closeSync, openSync, readSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { writeFully } from "../../storage/byte-file.ts";
import { StorageError, storageErrorOf } from "../../storage/errors.ts";

describe("storage errors", () => {
  it("calls a full disk STORAGE_FULL", () => {
    // The device whose every write fails for want of space.
    const fd = openSync("/dev/full", "r+");
    expect(() => writeFully(fd, 0, new Uint8Array(1))).toThrow("STORAGE_FULL");
    closeSync(fd);
  });

  it("calls a used-up quota STORAGE_FULL, a failed disk STORAGE_IO, a read-only mount STORAGE_READ_ONLY", () => {
    const errno = (code: string) => Object.assign(new Error(code), { code });
    expect(storageErrorOf(errno("EDQUOT"), "write").code).toBe("STORAGE_FULL");
    expect(storageErrorOf(errno("EROFS"), "write").code).toBe("STORAGE_READ_ONLY");
    expect(storageErrorOf(errno("EIO"), "write").detail).toEqual({
      code: "STORAGE_IO",
      operation: "write",
      reason: "EIO",
    });
  });

  it("keeps the cause of a failed call, and a StorageError as it is", () => {
    let cause: unknown;
    try {
      readSync(-1, new Uint8Array(1));
    } catch (error) {
      cause = error;
    }
    const wrapped = storageErrorOf(cause, "read");
    expect(wrapped.cause).toBe(cause);
    expect(storageErrorOf(wrapped, "other")).toBe(wrapped);
    expect(wrapped).toBeInstanceOf(StorageError);
  });
});
