/** The settings of a `qemu` domain, and what a host allows them. Settings travel with the domain: a peer wrote them. */

import { z } from "zod";
import { CPUS_MAX, KernelName, MacAddress, NICS_MAX, parseSettings, TEXT_MAX, Word } from "../settings.ts";

const ARGUMENTS_MAX = 64;

const Nic = z.strictObject({
  mac: MacAddress,
  model: Word.default("virtio-net-pci"),
  backend: z
    .discriminatedUnion("type", [
      z.strictObject({ type: z.literal("tap"), interface: Word }),
      z.strictObject({ type: z.literal("bridge"), bridge: Word }),
      z.strictObject({ type: z.literal("stream"), path: Word }),
      z.strictObject({ type: z.literal("user") }),
    ])
    .describe("tap and bridge: of that name on every host; stream: frames over a unix socket"),
});
export type Nic = z.infer<typeof Nic>;

export const QemuConfig = z.strictObject({
  machine: Word.default("pc-q35-9.0").describe("with its version: both ends must build the same machine"),
  cpus: z.int().min(1).max(CPUS_MAX).default(1),
  cpuModel: Word.default("qemu64").describe("what every host of the cluster has"),
  kernel: KernelName.optional().describe("boots this kernel; without it the first vbd is booted"),
  initrd: KernelName.optional(),
  append: z.string().max(TEXT_MAX).default("").describe("the kernel's command line"),
  nics: z.array(Nic).max(NICS_MAX).default([]),
  arguments: z
    .array(z.string().max(TEXT_MAX))
    .max(ARGUMENTS_MAX)
    .default([])
    .describe("further arguments, where the host's qemu.extraArguments allows them"),
  qmp: z
    .string()
    .startsWith("/")
    .optional()
    .describe("QMP socket of a QEMU that somebody else started, which is taken over as it is"),
});
export type QemuConfig = z.infer<typeof QemuConfig>;

/** What the host's own configuration says. */
export type QemuHostOptions = {
  executable: string;
  acceleration: "kvm" | "tcg";
  kernelFolder: string;
  /** Whether a domain may bring arguments of its own: whoever may send one here can then run what it likes. */
  extraArguments: boolean;
};

/** Reads a domain's settings. Throws `HYPERVISOR_BAD_SPEC`. */
export function parseQemuConfig(text: string): QemuConfig {
  return parseSettings(text, QemuConfig);
}
