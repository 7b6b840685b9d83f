/**
 * The block nodes of a vbd in QEMU, by names that the hypervisor's adapter and the attachment agree on.
 *
 *     guest's device ── vbd0 (raw, stays) ──▶ vbd0-… (our NBD export, or the native file or device)
 *
 * The device, the dirty bitmaps and the name stay with the upper node; only its child is exchanged, while the
 * guest runs. Every child has a name of its own, because the old one is there until nothing uses it any more.
 */

import { randomBytes } from "node:crypto";
import type { BlockdevOptions } from "./commands.ts";

/** QEMU waits for a daemon that was restarted, and the guest with it; afterwards its requests fail. */
const RECONNECT_DELAY_S = 7 * 24 * 3600;

/** The upper node of the domain's vbd number `index`; a node's name has 31 characters at most. */
export function vbdNode(index: number): string {
  return `vbd${index}`;
}

/** A new name for a child of `node`. */
export function childNode(node: string): string {
  return `${node}-${randomBytes(5).toString("hex")}`;
}

/** Whether a node is, or was, a child of `node` by our naming. */
export function isChildNode(name: string, node: string): boolean {
  return name.startsWith(`${node}-`) && /^[0-9a-f]{10}$/.test(name.slice(node.length + 1));
}

/** A new name for a node that holds a copy of `node`'s dirty bitmap for the moment. */
export function mapNode(node: string): string {
  return `${node}-map-${randomBytes(5).toString("hex")}`;
}

/** The upper node over `child`: for `-blockdev`, and for `blockdev-reopen`, which resets what is left out. */
export function upperOptions(node: string, child: string): BlockdevOptions {
  return {
    driver: "raw",
    "node-name": node,
    file: child,
    "read-only": false,
    discard: "unmap",
    cache: { direct: false, "no-flush": false },
  };
}

/** A child that is our export. */
export function exportOptions(
  name: string,
  { socketPath, exportName }: { socketPath: string; exportName: string },
): BlockdevOptions {
  return {
    driver: "nbd",
    "node-name": name,
    server: { type: "unix", path: socketPath },
    export: exportName,
    "reconnect-delay": RECONNECT_DELAY_S,
    discard: "unmap",
    cache: { direct: false, "no-flush": false },
  };
}

/**
 * A child that is the file or device itself. The page cache stays on: our own reads of the file, in a window,
 * see what the guest wrote before.
 */
export function nativeOptions(
  name: string,
  { path, isDevice }: { path: string; isDevice: boolean },
): BlockdevOptions {
  return {
    driver: isDevice ? "host_device" : "file",
    "node-name": name,
    filename: path,
    locking: "auto",
    aio: "threads",
    discard: "unmap",
    cache: { direct: false, "no-flush": false },
  };
}

/** The values of `-blockdev`, in order, with which QEMU begins on our exports, also with `-incoming`. */
export function startBlockdevs(
  vbds: readonly { socketPath: string; exportName: string }[],
): readonly BlockdevOptions[] {
  return vbds.flatMap((vbd, index) => {
    const node = vbdNode(index);
    const child = childNode(node);
    return [exportOptions(child, vbd), upperOptions(node, child)];
  });
}
