/**
 * What xl's configuration in a stream may say. The peer wrote it, and libxl would do what it says: attach any file of
 * this host as a disk, pass a device through, run a device model of the peer's choice.
 */

import { z } from "zod";
import { badStream } from "../errors.ts";
import type { DomainSpec } from "../hypervisor.ts";
import { BLOCK_SCRIPT } from "./block-script.ts";

const MEMORY_SLACK_BYTES = 64 << 20;

/** libxl writes what is empty as such, or leaves it out. */
const None = z.array(z.unknown()).length(0).nullish();
const Disk = z.looseObject({
  pdev_path: z.string(),
  script: z.string(),
  backend: z.literal("phy"),
  format: z.literal("raw"),
});
const Nic = z.looseObject({
  script: z
    .string()
    .regex(/^(?:\/etc\/xen\/scripts\/)?vif-[a-z]+$/)
    .nullish(),
});
const Received = z
  .object({
    c_info: z.looseObject({ name: z.string(), uuid: z.string(), type: z.enum(["pvh", "pv", "hvm"]) }),
    b_info: z.looseObject({
      max_memkb: z.number(),
      device_model: z.null().optional(),
      device_model_user: z.null().optional(),
      ...{ extra: None, extra_pv: None, extra_hvm: None },
    }),
    disks: z.array(Disk).default([]),
    nics: z.array(Nic).default([]),
    ...{ on_poweroff: z.string().optional(), on_reboot: z.string().optional() },
    ...{ on_watchdog: z.string().optional(), on_crash: z.string().optional() },
    on_soft_reset: z.string().optional(),
  })
  // Devices of every other kind: none.
  .catchall(None);

/** Throws HYPERVISOR_BAD_STREAM where the configuration is not that of `spec` and of nothing else. */
export function checkReceivedConfig(text: string, spec: DomainSpec): void {
  let value: unknown;
  try {
    value = JSON.parse(text.replace(/\0+$/, ""));
  } catch {
    throw badStream("its configuration is no JSON");
  }
  const parsed = Received.safeParse(value);
  if (!parsed.success) throw badStream(`its configuration is refused: ${z.prettifyError(parsed.error)}`);
  const { c_info, b_info, disks } = parsed.data;
  if (c_info.name !== spec.name || c_info.uuid !== spec.id) throw badStream("it is another domain's");
  if (b_info.max_memkb * 1024 > spec.memoryBytes + MEMORY_SLACK_BYTES)
    throw badStream("it wants more memory than it said");
  const allowed = new Set(spec.vbds.map(({ name }) => `${spec.id}/${name}`));
  for (const { pdev_path, script } of disks) {
    if (script !== BLOCK_SCRIPT || !allowed.has(pdev_path))
      throw badStream(`it wants the disk ${pdev_path} by ${script}`);
  }
}
