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
    # Whatever fails unasked ends the script, without a sentence.
    device=$(cat "${DEVICES_FOLDER}/$target" 2>/dev/null || true)
    if [ -z "$device" ] || [ ! -b "$device" ]; then
      domain=\${target%%/*}
      fatal "block-sojourn: Sojourn does not run this domain on this host, so xl may not; 'sojourn show $domain' says where it is, 'sojourn start $domain' boots it there, 'sojourn migrate $domain HOST' brings it"
    fi
    # One domain at a time, whatever xl was told: a second one under another name would write to the same disk.
    own=\${XENBUS_PATH#/local/domain/0/}
    for other in $(xenstore-list backend/vbd 2>/dev/null); do
      xenstore-exists "/local/domain/$other" || continue
      for number in $(xenstore-list "backend/vbd/$other" 2>/dev/null); do
        [ "backend/vbd/$other/$number" = "$own" ] && continue
        if [ "$(xenstore-read "backend/vbd/$other/$number/params" 2>/dev/null)" = "$target" ]; then
          fatal "block-sojourn: $target is in use by domain $other of this host"
        fi
      done
    done
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
