/**
 * The hotplug script by which Xen reaches a vbd. `disk` lines name it and say DOMAIN/VBD; which device that is on
 * this host says a file that the adapter writes while this host has the domain, and removes afterwards. Without that
 * file nothing is attached: an `xl migrate` or `xl create` by hand is refused here, before anything runs.
 */

import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const BLOCK_SCRIPT = "block-sojourn";
/** `<folder>/<domain>/<vbd>` holds the path of the device. On a tmpfs: no device outlives a boot. */
export const DEVICES_FOLDER = "/run/sojourn/xen";
const SCRIPTS_FOLDER = "/etc/xen/scripts";

const SCRIPT = `#!/bin/bash
# Attaches a vbd of Sojourn: target=DOMAIN/VBD. Written by the daemon; changes are overwritten.
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

/** Puts the script where xl looks for it. Rewrites it only where it differs. */
export function installBlockScript(folder = SCRIPTS_FOLDER): void {
  const path = join(folder, BLOCK_SCRIPT);
  if (read(path) === SCRIPT) return;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.new`, SCRIPT, { mode: 0o755 });
  renameSync(`${path}.new`, path);
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
