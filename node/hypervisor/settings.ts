/** An adapter's own settings of a domain: JSON text that travels with it, so that a peer wrote them. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { badSpec, HypervisorError } from "./errors.ts";

export const CPUS_MAX = 64;
export const NICS_MAX = 8;
export const TEXT_MAX = 4096;

/** Goes into an argument or a configuration of the hypervisor's: nothing that could begin or end another option. */
export const Word = z
  .string()
  .max(200)
  .regex(/^[\w.:/+-]+$/, 'letters, digits and "._:/+-" only');

export const MacAddress = z.string().regex(/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/, "as 52:54:00:12:34:56");

/** A file in the host's own folder of kernels: the peer does not choose which other file is read. */
export const KernelName = z
  .string()
  .max(200)
  .regex(/^\w[\w.+-]*$/, "the name of a file in the host's folder of kernels");

/** Where a kernel or an initrd of that name is on this host. Throws `HYPERVISOR_BAD_SPEC` where it is not. */
export function kernelFile(name: string, { kernelFolder }: { kernelFolder: string }): string {
  const path = join(kernelFolder, name);
  if (existsSync(path)) return path;
  throw badSpec("config", `there is no ${path}; put the domain's kernel and initrd there`);
}

/** Reads `text` by the adapter's schema; an empty text is all defaults. Throws `HYPERVISOR_BAD_SPEC`. */
export function parseSettings<T>(text: string, schema: z.ZodType<T>): T {
  let value: unknown;
  try {
    value = text.trim() === "" ? {} : JSON.parse(text);
  } catch (cause) {
    throw new HypervisorError(
      { code: "HYPERVISOR_BAD_SPEC", field: "config", reason: "not JSON" },
      { cause },
    );
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw badSpec("config", z.prettifyError(parsed.error));
}
