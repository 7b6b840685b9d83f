/**
 * A domain's specification as QEMU's arguments. Both ends of a migration build the same machine from them: every
 * device has its place on the bus by its order, and nothing is left to a default that another version changes.
 */

import type { BlockdevOptions } from "../../qmp/commands.ts";
import { childNode, exportOptions, upperOptions, vbdNode } from "../../qmp/vbd-nodes.ts";
import type { DomainFolder } from "../domain-folder.ts";
import { badSpec } from "../errors.ts";
import type { DomainSpec, VbdAttachment } from "../hypervisor.ts";
import { kernelFile } from "../settings.ts";
import type { Nic, QemuConfig, QemuHostOptions } from "./config.ts";
import { placeholderNode } from "./vbd-switch.ts";

const MEMORY_BYTES_MIN = 16 << 20;
const MIB = 1 << 20;

export type LaunchMode = "boot" | "incoming";

/** Throws `HYPERVISOR_BAD_SPEC` where the host cannot, or does not want to, run it. */
export function qemuArguments(
  spec: DomainSpec,
  config: QemuConfig,
  {
    folder,
    host,
    mode,
  }: {
    folder: Pick<DomainFolder, "pidPath" | "controlPath" | "serialPath" | "consoleLogPath">;
    host: QemuHostOptions;
    mode: LaunchMode;
  },
): string[] {
  if (spec.memoryBytes % MIB !== 0 || spec.memoryBytes < MEMORY_BYTES_MIN) {
    throw badSpec("memoryBytes", `must be whole MiB, ${MEMORY_BYTES_MIN / MIB} at least`);
  }
  if (config.arguments.length > 0 && !host.extraArguments) {
    throw badSpec(
      "config",
      "brings arguments of its own; set qemu.extraArguments on this host to allow them",
    );
  }
  return [
    ...["-name", `guest=${spec.name.replaceAll(",", ",,")},debug-threads=on`, "-uuid", spec.id],
    ...["-no-user-config", "-nodefaults", "-display", "none"],
    ...["-machine", config.machine, "-accel", host.acceleration, "-cpu", config.cpuModel],
    ...["-smp", `cpus=${config.cpus}`, "-m", `size=${spec.memoryBytes / MIB}M`],
    // A guest that powers off stays until what it wrote has been harvested; a reset is an event.
    ...["-no-shutdown"],
    ...["-pidfile", folder.pidPath],
    ...["-qmp", `unix:${quoted(folder.controlPath)},server=on,wait=off`],
    "-chardev",
    `socket,id=serial0,path=${quoted(folder.serialPath)},server=on,wait=off,logfile=${quoted(folder.consoleLogPath)}`,
    ...["-serial", "chardev:serial0"],
    ...bootArguments(config, host),
    ...spec.vbds.flatMap((vbd, index) => vbdArguments(vbd, { index, mode })),
    ...config.nics.flatMap((nic, index) => nicArguments(nic, index)),
    ...config.arguments,
    // Whoever loads the memory says when it may run.
    ...(mode === "incoming" ? ["-S", "-incoming", "defer"] : []),
  ];
}

function bootArguments({ kernel, initrd, append }: QemuConfig, host: QemuHostOptions): string[] {
  if (kernel === undefined) return [];
  return [
    ...["-kernel", kernelFile(kernel, host), "-append", append],
    ...(initrd === undefined ? [] : ["-initrd", kernelFile(initrd, host)]),
  ];
}

function vbdArguments(vbd: VbdAttachment, { index, mode }: { index: number; mode: LaunchMode }): string[] {
  const node = vbdNode(index);
  const child = mode === "boot" ? childNode(node) : placeholderNode(index);
  const lower = mode === "boot" ? exportOptions(child, vbd) : placeholderOptions(child, vbd);
  const device = [
    ...["virtio-blk-pci", `id=${node}-device`, `drive=${node}`, `serial=${vbd.name.slice(0, 20)}`],
    // A disk that fails stops the guest; it does not tell the file system to give up. A kernel boots first, as 0.
    ...["write-cache=on", "werror=stop", "rerror=stop", `bootindex=${index + 1}`],
  ];
  return [
    ...["-blockdev", JSON.stringify(lower), "-blockdev", JSON.stringify(upperOptions(node, child))],
    ...["-device", device.join(",")],
  ];
}

/** Of the right size and without bytes: our export is there only once the domain was handed over to this host. */
function placeholderOptions(name: string, { sizeBytes }: VbdAttachment): BlockdevOptions {
  return { driver: "null-co", "node-name": name, size: sizeBytes, "read-zeroes": true };
}

function nicArguments({ mac, model, backend }: Nic, index: number): string[] {
  const id = `nic${index}`;
  return [
    ...["-netdev", `${netdevOf(backend)},id=${id}`],
    // Without a ROM: the machine boots from its vbds.
    ...[
      "-device",
      `${model},netdev=${id},mac=${mac},id=${id}-device${model.startsWith("virtio") ? ",romfile=" : ""}`,
    ],
  ];
}

function netdevOf(backend: Nic["backend"]): string {
  switch (backend.type) {
    case "tap":
      return `tap,ifname=${backend.interface},script=no,downscript=no`;
    case "bridge":
      return `bridge,br=${backend.bridge}`;
    case "stream":
      return `stream,server=off,addr.type=unix,addr.path=${quoted(backend.path)}`;
    case "user":
      return "user,restrict=on";
  }
}

/** In QEMU's comma-separated arguments a comma is written twice. */
function quoted(path: string): string {
  return path.replaceAll(",", ",,");
}
