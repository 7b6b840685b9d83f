import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  compareIdentity,
  type FileIdentity,
  findOpenElsewhere,
  fingerprint,
} from "../../storage/file-identity.ts";
import { pattern } from "../contract/block-store.contract.ts";

const directory = mkdtempSync(join(tmpdir(), "sojourn-identity-"));
afterAll(() => rmSync(directory, { recursive: true }));
let count = 0;

function newFile(sizeBytes = 100_000): string {
  const path = join(directory, `vbd-${count++}`);
  writeFileSync(path, pattern(sizeBytes, count));
  return path;
}

/** What changed between two looks, in words. */
function changeBy(path: string, change: () => void): string | undefined {
  const before = fingerprint(path, { seed: "s" });
  change();
  return compareIdentity(before, fingerprint(path, { seed: "s" }));
}

describe("file identity", () => {
  it("is the same for a file that nobody touched, and survives JSON", () => {
    const path = newFile();
    const before = fingerprint(path, { seed: "s" });
    const kept = JSON.parse(JSON.stringify(before)) as FileIdentity;
    expect(before.spotHashes).toHaveLength(66);
    expect(compareIdentity(kept, fingerprint(path, { seed: "s" }))).toBeUndefined();
  });

  it("names a resize, a write, a replacement and a change of attributes", () => {
    const path = newFile();
    expect(changeBy(path, () => truncateSync(path, 99_999))).toBe("its size was 100000 bytes and is 99999");
    const write = () => {
      const fd = openSync(path, "r+");
      writeSync(fd, "x", 50_000);
      closeSync(fd);
    };
    expect(changeBy(path, write)).toMatch(/modification time/);
    const replace = () => {
      copyFileSync(path, `${path}.new`);
      renameSync(`${path}.new`, path);
    };
    expect(changeBy(path, replace)).toBe("it is another file of that name");
    const setBack = () => {
      const { atime, mtime } = statSync(path);
      utimesSync(path, atime, new Date(Math.floor(mtime.getTime() / 1000) * 1000));
    };
    utimesSync(path, new Date(0), new Date(1_000_000));
    expect(changeBy(path, setBack)).toMatch(/change time/);
  });

  it("finds content that changed under the same times", () => {
    const path = newFile();
    const before = fingerprint(path, { seed: "s" });
    writeFileSync(path, pattern(100_000, 200));
    const after = fingerprint(path, { seed: "s" });
    const sameTimes = { ...after, mtimeNs: before.mtimeNs, ctimeNs: before.ctimeNs };
    expect(compareIdentity(before, sameTimes)).toMatch(/66 of 66 sampled blocks/);
  });

  it("chooses other blocks for another seed, and compares only like with like", () => {
    const path = newFile(4096 * 5000);
    const one = fingerprint(path, { seed: "1" });
    const two = fingerprint(path, { seed: "2" });
    expect(compareIdentity(one, two)).toMatch(/seeds/);
    expect(fingerprint(path, { seed: "1" }).spotHashes).toEqual(one.spotHashes);
    expect(() => fingerprint(join(directory, "none"), { seed: "s" })).toThrow("STORAGE_NOT_FOUND");
    expect(fingerprint(newFile(0), { seed: "s" }).spotHashes).toEqual([]);
  });
});

describe("findOpenElsewhere", () => {
  it("names the process that has the file open for writing, and not one that reads", async () => {
    const path = newFile();
    for (const [flags, found] of [
      ["r", 0],
      ["r+", 1],
    ] as const) {
      const script = `require("fs").openSync(process.argv[1], ${JSON.stringify(flags)}); console.log("open"); process.stdin.resume()`;
      const child = spawn(process.execPath, ["-e", script, path], { stdio: ["pipe", "pipe", "inherit"] });
      await once(child.stdout, "data");
      const openers = await findOpenElsewhere(path);
      child.kill("SIGKILL");
      await once(child, "exit");
      expect(openers).toHaveLength(found);
      if (found > 0) expect(openers[0]).toMatchObject({ pid: child.pid, command: expect.any(String) });
    }
    expect(await findOpenElsewhere(path)).toEqual([]);
  });

  it("does not count ourselves, and fails for a file that is not there", async () => {
    const path = newFile();
    const fd = openSync(path, "r+");
    expect(await findOpenElsewhere(path)).toEqual([]);
    closeSync(fd);
    await expect(findOpenElsewhere(join(directory, "none"))).rejects.toMatchObject({
      code: "STORAGE_NOT_FOUND",
    });
  });

  it("names a loop device on the file (skipped where none can be made)", async ({ skip }) => {
    const path = newFile(8192);
    let device: string;
    try {
      device = execFileSync("losetup", ["--find", "--show", path], { stdio: "pipe" }).toString().trim();
    } catch {
      return skip("no loop devices");
    }
    try {
      expect(await findOpenElsewhere(path)).toContainEqual({ pid: 0, command: device });
      expect(fingerprint(device, { seed: "s" })).toMatchObject({ sizeBytes: 8192, ctimeNs: undefined });
    } finally {
      execFileSync("losetup", ["--detach", device]);
    }
  });
});
