import { describe, expect, test } from "vitest";
import { formatProgress, formatShare, progressPrinter } from "../../../node/cli/progress.ts";
import { progress } from "../control/samples.ts";

describe("progress", () => {
  test("names phase, share, bytes, rates and the time left", () => {
    expect(formatProgress({ ...progress, iteration: 2, memoryBytes: 1 << 20 })).toMatchInlineSnapshot(
      `"pre-copy #2 25%, disk 25MiB of 100MiB, memory 1MiB, 50MiB/s, dirty 1MiB/s, ETA 1.5 s"`,
    );
  });

  test("says that the link is down instead of rates that mean nothing", () => {
    const line = formatProgress({ ...progress, connected: false });
    expect(line).toContain("link down");
    expect(line).not.toContain("/s");
  });

  test("has no share where the total is not known, and never more than the whole", () => {
    expect(formatShare({ sentBytes: 5 })).toBe("");
    expect(formatShare({ sentBytes: 5, totalBytes: 0 })).toBe("");
    expect(formatShare({ sentBytes: 9, totalBytes: 8 })).toBe(" 100%");
  });

  test("is one line on a terminal: rewritten in place, never wrapped, gone at the end", () => {
    const written: string[] = [];
    const terminal = { isTTY: true, columns: 20, write: (text: string) => written.push(text) > 0 };
    const printer = progressPrinter(terminal, "web to beta");
    printer.update(progress);
    printer.update({ ...progress, phase: "post-copy" });
    printer.end();
    printer.end();
    expect(written).toEqual(["\r\x1b[Kweb to beta: pre-co", "\r\x1b[Kweb to beta: post-c", "\r\x1b[K"]);
  });
});
