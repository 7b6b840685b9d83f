import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, expect, it } from "vitest";
import type { HopResult, TourSummary } from "../../testnet/tour-report.ts";

const TOUR = join(import.meta.dirname, "..", "..", "testnet", "tour.ts");
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sojourn-tour-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function tour(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [TOUR, "--folder", folder, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "close") as Promise<[number | null]>,
  ]);
  return { code, stdout, stderr };
}

const SMALL = ["--disk-size", "64MiB", "--fill", "8MiB", "--memory", "16MiB", "--json"];

it("travels there and back with an image, every check passes, and nothing stays", async () => {
  // Not a whole number of blocks, and zeroes in the middle.
  const bytes = Buffer.alloc((2 << 20) + 512);
  bytes.fill("an image of the user's", 0, 1 << 20);
  bytes.fill("its end", bytes.length - 100);
  const image = join(folder, "image.raw");
  writeFileSync(image, bytes);

  const { code, stdout, stderr } = await tour("--route", "A,B,A", "--image", image, "--links", ...SMALL);
  expect(stderr).toBe("");
  const lines = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as HopResult | { summary: TourSummary });
  const hops = lines.slice(0, -1) as HopResult[];
  expect(hops.map(({ from, to, generation, rung }) => [from, to, generation, rung])).toEqual([
    ["A", "B", 2, "allocated"],
    ["B", "A", 3, "bitmaps"],
  ]);
  for (const hop of hops) {
    expect(hop.verified).toBe(true);
    expect(hop.checks.filter(({ ok }) => !ok)).toEqual([]);
    expect(hop.checks.map(({ name }) => name)).toContain("the bytes on the link");
  }
  expect(hops[1]!.blocksDiffering).toBeGreaterThan(0);
  const { summary } = lines.at(-1) as { summary: TourSummary };
  expect(summary).toMatchObject({
    ok: true,
    failed: [],
    image: { identical: true, sizeBytes: bytes.length },
  });
  expect(code).toBe(0);
  expect(readdirSync(folder)).toEqual(["image.raw"]);
}, 180_000);

it("refuses what does not go together, and starts nothing", async () => {
  for (const args of [
    ["--route", "A,A"],
    ["--route", "A"],
    ["--fill", "8GiB"],
    ["--keep", "--links"],
    ["--image", join(folder, "none")],
    ["--workload", "paper"],
  ]) {
    const { code, stderr } = await tour(...args);
    expect(code, args.join(" ")).toBe(2);
    expect(stderr).toMatch(/^error: /);
  }
  expect(readdirSync(folder)).toEqual([]);
}, 60_000);

it("ends nothing but a cluster", async () => {
  writeFileSync(join(folder, "file"), "");
  const { code, stderr } = await tour("--end", folder);
  expect(code).toBe(1);
  expect(stderr).toContain("cluster.json");
  expect(existsSync(join(folder, "file"))).toBe(true);
});
