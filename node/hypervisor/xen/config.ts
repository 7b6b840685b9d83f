/** The settings of a `xen` domain, and what a host allows them. Settings travel with the domain: a peer wrote them. */

import { z } from "zod";
import { CPUS_MAX, KernelName, MacAddress, NICS_MAX, parseSettings, TEXT_MAX, Word } from "../settings.ts";
import { XenOptions } from "./options.ts";

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
        type: z.enum(["vif", "ioemu"]).exactOptional(),
        ...{ model: Word.exactOptional(), rate: Word.exactOptional(), vifname: Word.exactOptional() },
      }),
    )
    .max(NICS_MAX)
    .default([]),
  vdevs: z
    .array(z.string().regex(/^(?:xvd[a-z]{1,2}|hd[a-d]|sd[a-p])\d{0,2}$/))
    .max(26)
    .default([])
    .describe("what the guest calls its disks, in the order of the vbds; xvda, xvdb and so on without it"),
  bootloader: z.enum(["pygrub"]).exactOptional(),
  options: XenOptions.default({}).describe("further settings of xl.cfg, by their names there"),
  tscMode: z.enum(["default", "always_emulate", "native"]).default("default"),
});
export type XenConfig = z.infer<typeof XenConfig>;

/** What the host's own configuration says. */
export type XenHostOptions = {
  /** The command `xl`. */
  xl: string;
  kernelFolder: string;
  /** Where the configurations lie of domains that are here. */
  configFolder: string;
};

/** Reads a domain's settings. Throws `HYPERVISOR_BAD_SPEC`. */
export function parseXenConfig(text: string): XenConfig {
  return parseSettings(text, XenConfig);
}
