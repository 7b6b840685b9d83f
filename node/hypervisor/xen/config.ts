/** The settings of a `xen` domain, and what a host allows them. Settings travel with the domain: a peer wrote them. */

import { z } from "zod";
import { CPUS_MAX, KernelName, MacAddress, NICS_MAX, parseSettings, TEXT_MAX, Word } from "../settings.ts";

export const XenConfig = z.strictObject({
  type: z.enum(["pvh", "hvm", "pv"]).default("pvh"),
  cpus: z.int().min(1).max(CPUS_MAX).default(1),
  kernel: KernelName.optional().describe("boots this kernel; without it a loader of the domain's type"),
  initrd: KernelName.optional(),
  append: z
    .string()
    .max(TEXT_MAX)
    .regex(/^[^"\\\p{Cc}]*$/u, "no quotes, backslashes or control characters")
    .default("")
    .describe("the kernel's command line"),
  vifs: z
    .array(
      z.strictObject({
        mac: MacAddress,
        bridge: Word.default("xenbr0").describe("of that name on every host"),
      }),
    )
    .max(NICS_MAX)
    .default([]),
  tscMode: z.enum(["default", "always_emulate", "native"]).default("default"),
});
export type XenConfig = z.infer<typeof XenConfig>;

/** What the host's own configuration says. */
export type XenHostOptions = {
  /** The command `xl`. */
  xl: string;
  kernelFolder: string;
};

/** Reads a domain's settings. Throws `HYPERVISOR_BAD_SPEC`. */
export function parseXenConfig(text: string): XenConfig {
  return parseSettings(text, XenConfig);
}
