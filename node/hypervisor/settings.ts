/** An adapter's own settings of a domain: JSON text that travels with it. */

import { z } from "zod";
import { HypervisorError } from "./errors.ts";

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
  const reason = z.prettifyError(parsed.error);
  throw new HypervisorError({ code: "HYPERVISOR_BAD_SPEC", field: "config", reason });
}
