import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { linuxCalls } from "../../storage/linux.ts";

const MODULE = new URL("../../node/memory-return.ts", import.meta.url).href;

/** What a process has of its executable, in KiB, before and after; then it works on. */
const PROGRAM = `
  import { readFileSync, readlinkSync } from "node:fs";
  import { returnMemory } from ${JSON.stringify(MODULE)};
  const path = readlinkSync("/proc/self/exe");
  const mapped = () => {
    let size = 0;
    let ours = false;
    for (const line of readFileSync("/proc/self/smaps", "latin1").split("\\n")) {
      if (/^[0-9a-f]+-/.test(line)) ours = line.endsWith(" " + path);
      else if (ours && line.startsWith("Rss:")) size += Number.parseInt(line.slice(4));
    }
    return size;
  };
  mapped();
  const before = mapped();
  returnMemory();
  const after = mapped();
  const { createHash } = await import("node:crypto");
  const digest = createHash("sha256").update("sojourn").digest("hex");
  console.log(JSON.stringify({ before, after, digest }));
`;

// Where the system cannot be called nothing is given back, and nothing else is different.
describe.skipIf(linuxCalls() === undefined)("memory that is given back", () => {
  it("is most of what the start touched of the executable, and the process works on", async () => {
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", PROGRAM]);
    const { before, after, digest } = JSON.parse(stdout);
    expect(after).toBeLessThan(before / 2);
    expect(digest).toBe("cb4032a0d576f861a251323a1ae3d6fe626a684cb2aec0d667ddc711d8818ce4");
  });
});
