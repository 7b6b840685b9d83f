/**
 * The hotplug script by which Xen reaches a vbd. `disk` lines name it and say DOMAIN/VBD; which device that is on
 * this host says a file that the adapter writes while this host has the domain, and removes afterwards. Without that
 * file nothing is attached: an `xl migrate` or `xl create` by hand is refused here, before anything runs.
 */

import { join } from "node:path";
import { fileState, MARK, writeMarked } from "../../marked-file.ts";
import { HypervisorError } from "../errors.ts";

export const BLOCK_SCRIPT = "block-sojourn";
/** `<folder>/<domain>/<vbd>` holds the path of the device. On a tmpfs: no device outlives a boot. */
export const DEVICES_FOLDER = "/run/sojourn/xen";
const SCRIPTS_FOLDER = "/etc/xen/scripts";

const SCRIPT = `#!/bin/bash
# Attaches a vbd of Sojourn: target=DOMAIN/VBD. ${MARK}
dir=$(dirname "$0")
. "$dir/block-common.sh"
case "$command" in
  add)
    target=$(xenstore_read "$XENBUS_PATH/params")
    case "$target" in
      *..*|/*) fatal "block-sojourn: $target is not DOMAIN/VBD" ;;
    esac
    device=$(cat "${DEVICES_FOLDER}/$target" 2>/dev/null)
    if [ -z "$device" ] || [ ! -b "$device" ]; then
      fatal "block-sojourn: $target does not belong to this host; use sojourn migrate or sojourn start, not xl"
    fi
    xenstore_write "$XENBUS_PATH/node" "$device"
    write_dev "$device"
    exit 0
    ;;
  remove)
    exit 0
    ;;
esac
`;

/** The script as a file of the host. */
export function blockScriptEntry(folder = SCRIPTS_FOLDER): { path: string; text: string; mode: number } {
  return { path: join(folder, BLOCK_SCRIPT), text: SCRIPT, mode: 0o755 };
}

/** Puts the script where xl looks for it, where it is not there as it should be. Throws HYPERVISOR_PROCESS_FAILED. */
export function installBlockScript(folder = SCRIPTS_FOLDER): void {
  const { path, ...file } = blockScriptEntry(folder);
  const state = fileState(path, file);
  if (state === "same") return;
  if (state === "foreign") {
    const reason = `${path} is there and was not written by sojourn; move it out of the way`;
    throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
  }
  writeMarked(path, file);
}
