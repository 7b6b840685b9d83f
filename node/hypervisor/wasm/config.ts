/** The settings of a wasm domain: what its guest does, how much and how fast. */

import { z } from "zod";
import { badSpec } from "../errors.ts";
import { parseSettings } from "../settings.ts";
import { MEMORY_BYTES_MIN, UNLIMITED, VBDS_MAX } from "./layout.ts";

const WASM_PAGE_BYTES = 65_536;
const MEMORY_BYTES_MAX = 2 ** 32 - WASM_PAGE_BYTES;

const rate = z.union([z.int().min(0).max(1_000_000), z.literal("unlimited")]);

export const GuestConfig = z.strictObject({
  workload: z
    .enum(["idle", "web", "video", "diabolical"])
    .default("web")
    .describe("what the guest does with its vbds once they are filled"),
  seed: z.int().min(1).default(1).describe("seeds the guest's choices and every stamp it writes"),
  fillBytes: z
    .int()
    .min(0)
    .default(16 * 2 ** 20)
    .describe("bytes written in order to every vbd before the workload begins"),
  workingSetBytes: z
    .int()
    .min(0)
    .default(0)
    .describe("bytes of every vbd that the guest uses, spread over all of it; 0: as many as it can remember"),
  opsPerSecond: rate.optional().describe("disk operations; the default depends on the workload"),
  memoryPagesPerSecond: rate
    .optional()
    .describe("pages of memory changed; the default depends on the workload"),
  touchedMemoryBytes: z
    .int()
    .min(0)
    .default(16 * 2 ** 20)
    .describe("memory that carries stamps; the rest stays zero"),
  imageOpsPerSecond: rate.default(100).describe("64 KiB reads of the images"),
  imageVbds: z
    .array(z.string())
    .max(VBDS_MAX)
    .default([])
    .describe("vbds with a user's own data: only read, and compared with what was read first"),
  wholeBlocks: z
    .boolean()
    .default(false)
    .describe("no write begins or ends inside a block of 4 KiB; otherwise half of them do"),
  depth: z
    .int()
    .min(1)
    .max(28)
    .optional()
    .describe("the most requests in flight; the default depends on the workload"),
});
export type GuestConfig = z.infer<typeof GuestConfig>;

/** Rates as the paper's workloads have them, scaled to a guest that costs a few per cent of one core. */
export const WORKLOAD_DEFAULTS = {
  idle: { number: 0, opsPerSecond: 2, memoryPagesPerSecond: 20, depth: 2 },
  web: { number: 1, opsPerSecond: 200, memoryPagesPerSecond: 500, depth: 8 },
  video: { number: 2, opsPerSecond: 32, memoryPagesPerSecond: 200, depth: 4 },
  diabolical: { number: 3, opsPerSecond: UNLIMITED, memoryPagesPerSecond: 2000, depth: 16 },
} as const;

/** Reads a domain's settings; an empty text is all defaults. Throws `HYPERVISOR_BAD_SPEC`. */
export function parseGuestConfig(text: string): GuestConfig {
  return parseSettings(text, GuestConfig);
}

export function checkMemoryBytes(memoryBytes: number): void {
  const fits = memoryBytes >= MEMORY_BYTES_MIN && memoryBytes <= MEMORY_BYTES_MAX;
  if (Number.isInteger(memoryBytes) && fits && memoryBytes % WASM_PAGE_BYTES === 0) return;
  throw badSpec(
    "memoryBytes",
    `must be a multiple of ${WASM_PAGE_BYTES} from ${MEMORY_BYTES_MIN} to ${MEMORY_BYTES_MAX}`,
  );
}

export function rateNumber(value: number | "unlimited" | undefined, otherwise: number): number {
  return value === "unlimited" ? UNLIMITED : (value ?? otherwise);
}
