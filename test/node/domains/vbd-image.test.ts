import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { copyImage, refuseQcow2 } from "../../../node/domains/vbd-image.ts";
import { readQcow2Header } from "../../../storage/qcow2-header.ts";

const SIZE_BYTES = 1 << 20;
const hasQemuTools = spawnSync("qemu-img", ["--version"]).status === 0;

let folder: string;
const at = (name: string): string => join(folder, name);
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sojourn-image-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe("a raw image", () => {
  test("is no qcow2 image, however short or like one it is", () => {
    for (const bytes of ["", "QFI", "QFI\xfb", `QFI\xfb\0\0\0\x09${"\0".repeat(200)}`]) {
      writeFileSync(at("raw"), bytes, "latin1");
      expect(readQcow2Header(at("raw")), JSON.stringify(bytes)).toBeUndefined();
    }
  });

  test("is copied byte for byte, and never over a file", async () => {
    writeFileSync(at("raw"), Buffer.alloc(SIZE_BYTES, 7));
    refuseQcow2(at("raw"));
    await copyImage(at("raw"), at("copy"), { flatten: false });
    expect(readFileSync(at("copy")).equals(readFileSync(at("raw")))).toBe(true);
    await expect(copyImage(at("raw"), at("copy"), { flatten: false })).rejects.toMatchObject({
      code: "EEXIST",
    });
  });
});

describe.skipIf(!hasQemuTools)("a qcow2 image", () => {
  /** `base` holds 1 and 2, `top` on it 3, and a snapshot of before. */
  function makeChain(): void {
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", at("base"), String(SIZE_BYTES)]);
    execFileSync("qemu-io", ["-c", "write -P 1 0 64k", "-c", "write -P 2 128k 64k", at("base")]);
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", at("base"), at("top")]);
    execFileSync("qemu-img", ["snapshot", "-c", "before", at("top")]);
    execFileSync("qemu-io", ["-c", "write -P 3 128k 4k", at("top")]);
  }

  test("says what it holds, and what would stay behind", () => {
    makeChain();
    expect(readQcow2Header(at("top"))).toEqual({
      sizeBytes: SIZE_BYTES,
      backing: at("base"),
      snapshots: 1,
      isEncrypted: false,
      hasDataFile: false,
    });
    expect(readQcow2Header(at("base"))).toMatchObject({ backing: undefined, snapshots: 0 });
  });

  test("is refused as a vbd and as an image, with what it is and with the remedy", async () => {
    makeChain();
    const refusal = {
      code: "VBD_FORMAT",
      message: expect.stringContaining(
        `a qcow2 image of 1MiB, with 1 snapshot in it, on top of ${at("base")}`,
      ),
      remedy: expect.stringContaining("--flatten"),
    };
    expect(() => refuseQcow2(at("top"))).toThrow(expect.objectContaining(refusal));
    await expect(copyImage(at("top"), at("copy"), { flatten: false })).rejects.toMatchObject(refusal);
  });

  test("is flattened to what its guest sees, sparsely, and the image stays as it was", async () => {
    makeChain();
    const before = readFileSync(at("top"));
    await copyImage(at("top"), at("copy"), { flatten: true });
    const expected = Buffer.alloc(SIZE_BYTES);
    expected
      .fill(1, 0, 64 << 10)
      .fill(2, 128 << 10, 192 << 10)
      .fill(3, 128 << 10, 132 << 10);
    expect(readFileSync(at("copy")).equals(expected)).toBe(true);
    expect(statSync(at("copy")).blocks * 512).toBeLessThan(256 << 10);
    expect(readFileSync(at("top")).equals(before)).toBe(true);
  });

  test("whose lower image is gone cannot be flattened, and says why", async () => {
    makeChain();
    rmSync(at("base"));
    await expect(copyImage(at("top"), at("copy"), { flatten: true })).rejects.toMatchObject({
      code: "VBD_FORMAT",
      message: expect.stringMatching(/cannot be flattened: .*base/s),
      remedy: expect.stringContaining("qemu-img convert"),
    });
  });
});
