/**
 * Settings of xl.cfg that travel with a domain under their own names. They are written into a configuration on a host
 * that did not choose them: each has a shape of its own, and none names a file, a device or an address of a host.
 */

import { z } from "zod";

const Flag = z.union([z.literal(0), z.literal(1)]);

export const XenOptions = z.strictObject({
  maxvcpus: z.int().min(1).max(64).exactOptional(),
  cpu_weight: z.int().min(1).max(65_535).exactOptional(),
  cap: z.int().min(0).max(6400).exactOptional(),
  shadow_memory: z.int().min(0).max(65_536).exactOptional(),
  rtc_timeoffset: z.int().min(-86_400).max(86_400).exactOptional(),
  localtime: Flag.exactOptional(),
  timer_mode: z
    .union([
      z.int().min(0).max(3),
      z.enum([
        "delay_for_missed_ticks",
        "no_delay_for_missed_ticks",
        "no_missed_ticks_pending",
        "one_missed_tick_pending",
      ]),
    ])
    .exactOptional(),
  acpi: Flag.exactOptional(),
  apic: Flag.exactOptional(),
  pae: Flag.exactOptional(),
  nx: Flag.exactOptional(),
  hap: Flag.exactOptional(),
  hpet: Flag.exactOptional(),
  nestedhvm: z.literal(0).exactOptional(),
  viridian: Flag.exactOptional(),
  xen_platform_pci: Flag.exactOptional(),
  bios: z.enum(["rombios", "seabios", "ovmf"]).exactOptional(),
  firmware: z.enum(["bios", "uefi", "seabios", "rombios", "ovmf"]).exactOptional(),
  boot: z
    .string()
    .regex(/^[acdn]{1,4}$/)
    .exactOptional(),
  device_model_version: z.literal("qemu-xen").exactOptional(),
  serial: z.literal("pty").exactOptional(),
  vga: z.enum(["stdvga", "cirrus", "none"]).exactOptional(),
  stdvga: Flag.exactOptional(),
  videoram: z.int().min(1).max(256).exactOptional(),
  nographic: Flag.exactOptional(),
  sdl: z.literal(0).exactOptional(),
  spice: z.literal(0).exactOptional(),
  vnc: Flag.exactOptional(),
  vncunused: Flag.exactOptional(),
  vnclisten: z.literal("127.0.0.1").exactOptional(),
  keymap: z
    .string()
    .regex(/^[a-z]{2}(?:-[a-z]{2})?$/)
    .exactOptional(),
  usb: Flag.exactOptional(),
  usbdevice: z.enum(["tablet", "mouse"]).exactOptional(),
  soundhw: z.literal("").exactOptional(),
});
