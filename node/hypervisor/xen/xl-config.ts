/** A domain's specification as xl's configuration file. */

import { badSpec } from "../errors.ts";
import type { DomainSpec } from "../hypervisor.ts";
import { kernelFile } from "../settings.ts";
import { BLOCK_SCRIPT } from "./block-script.ts";
import type { XenConfig, XenHostOptions } from "./config.ts";

const MIB = 1 << 20;
const MEMORY_BYTES_MIN = 32 << 20;
const VBDS_MAX = 26;

/** Throws `HYPERVISOR_BAD_SPEC` where the host cannot run it. */
export function xlConfig(spec: DomainSpec, config: XenConfig, host: XenHostOptions): string {
  checkXenSpec(spec);
  return [
    `name = "${spec.name}"`,
    `uuid = "${spec.id}"`,
    `type = "${config.type}"`,
    `memory = ${spec.memoryBytes / MIB}`,
    `vcpus = ${config.cpus}`,
    ...bootLines(config, host),
    `tsc_mode = "${config.tscMode}"`,
    `disk = [ ${spec.vbds.map((vbd, index) => `"${diskOf(spec.id, vbd.name, vdevOf(config, index))}"`).join(", ")} ]`,
    `vif = [ ${config.vifs.map((vif) => `"${vifOf(vif)}"`).join(", ")} ]`,
    ...Object.entries(config.options).map(([key, value]) => `${key} = ${JSON.stringify(value)}`),
    // Whoever looks for the domain afterwards is to find what is left of it.
    'on_crash = "preserve"',
    "",
  ].join("\n");
}

/** Throws `HYPERVISOR_BAD_SPEC` for what no host of Xen can run. */
export function checkXenSpec({ id, name, memoryBytes, vbds }: DomainSpec): void {
  if (!/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)) throw badSpec("id", "Xen wants a UUID");
  if (!/^[A-Za-z][\w.-]{0,63}$/.test(name) || /--(?:incoming|migratedaway)$/.test(name)) {
    throw badSpec(
      "name",
      'Xen wants a letter, then letters, digits, ".", "_" and "-", and xl has suffixes of its own',
    );
  }
  if (memoryBytes % MIB !== 0 || memoryBytes < MEMORY_BYTES_MIN) {
    throw badSpec("memoryBytes", `must be whole MiB, ${MEMORY_BYTES_MIN / MIB} at least`);
  }
  if (vbds.length > VBDS_MAX) throw badSpec("vbds", `${VBDS_MAX} at most`);
}

/** What the block script is told: whose vbd it is, and nothing of the host. */
function diskOf(domain: string, vbd: string, vdev: string): string {
  return `format=raw, vdev=${vdev}, access=rw, backendtype=phy, script=${BLOCK_SCRIPT}, target=${domain}/${vbd}`;
}

function vdevOf({ vdevs }: XenConfig, index: number): string {
  return vdevs[index] ?? `xvd${String.fromCharCode(97 + index)}`;
}

function vifOf(vif: XenConfig["vifs"][number]): string {
  return Object.entries(vif)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
}

function bootLines({ kernel, initrd, append, bootloader }: XenConfig, host: XenHostOptions): string[] {
  if (kernel === undefined) {
    return [
      ...(bootloader === undefined ? [] : [`bootloader = "${bootloader}"`]),
      ...(append === "" ? [] : [`extra = "${append}"`]),
    ];
  }
  return [
    `kernel = "${kernelFile(kernel, host)}"`,
    ...(initrd === undefined ? [] : [`ramdisk = "${kernelFile(initrd, host)}"`]),
    `extra = "${append}"`,
  ];
}
