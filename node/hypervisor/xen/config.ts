/** The settings of a `xen` domain, and what a host allows them. Settings travel with the domain: a peer wrote them. */

import { z } from "zod";
import { HypervisorError } from "../errors.ts";

const CPUS_MAX = 64;
const VIFS_MAX = 8;
const TEXT_MAX = 4096;

/** Goes into quotes of xl's configuration: nothing that could end them. */
const Word = z
  .string()
  .max(200)
  .regex(/^[\w.:/+-]+$/, 'letters, digits and "._:/+-" only');
/** A file in the host's own folder of kernels: the peer does not choose which other file is read. */
const FileName = z
  .string()
  .max(200)
  .regex(/^\w[\w.+-]*$/, "the name of a file in the host's xen.kernelFolder");

export const XenConfig = z.strictObject({
  type: z.enum(["pvh", "hvm", "pv"]).default("pvh"),
  cpus: z.int().min(1).max(CPUS_MAX).default(1),
  kernel: FileName.optional().describe("boots this kernel; without it a loader of the domain's type"),
  initrd: FileName.optional(),
  append: z
    .string()
    .max(TEXT_MAX)
    .regex(/^[^"\\\p{Cc}]*$/u, "no quotes, backslashes or control characters")
    .default("")
    .describe("the kernel's command line"),
  vifs: z
    .array(
      z.strictObject({
        mac: z.string().regex(/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/, "as 00:16:3e:12:34:56"),
        bridge: Word.default("xenbr0").describe("of that name on every host"),
      }),
    )
    .max(VIFS_MAX)
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
  let value: unknown;
  try {
    value = text.trim() === "" ? {} : JSON.parse(text);
  } catch (cause) {
    throw new HypervisorError(
      { code: "HYPERVISOR_BAD_SPEC", field: "config", reason: "not JSON" },
      { cause },
    );
  }
  const parsed = XenConfig.safeParse(value);
  if (parsed.success) return parsed.data;
  const reason = z.prettifyError(parsed.error);
  throw new HypervisorError({ code: "HYPERVISOR_BAD_SPEC", field: "config", reason });
}
