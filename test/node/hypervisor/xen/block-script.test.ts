import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { blockScriptEntry, DEVICES_FOLDER } from "../../../../node/hypervisor/xen/block-script.ts";

/** What Xen's own library gives a hotplug script, over a folder for xenstore. Its trap ends whatever fails. */
const BLOCK_COMMON = `
command=$1
fatal() { echo "fatal: $*"; exit 1; }
sigerr() { fatal "$0 failed; error detected."; }
trap sigerr ERR
xenstore_read() { cat "$STORE/$1"; }
xenstore_write() { mkdir -p "$(dirname "$STORE/$1")"; printf %s "$2" >"$STORE/$1"; }
write_dev() { echo "device: $1"; }
`;
const DOMAIN = "0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11";

let folder: string;
let script: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sojourn-script-"));
  script = join(folder, "block-sojourn");
  // Devices are files here: a test has no block devices.
  const text = blockScriptEntry()
    .text.replace(DEVICES_FOLDER, join(folder, "devices"))
    .replace("! -b", "! -e");
  put("block-sojourn", text);
  put("block-common.sh", BLOCK_COMMON);
  put("bin/xenstore-list", '#!/bin/sh\nls "$STORE/local/domain/0/$1"\n');
  put("bin/xenstore-exists", '#!/bin/sh\n[ -e "$STORE/$1" ]\n');
  put("bin/xenstore-read", '#!/bin/sh\ncat "$STORE/local/domain/0/$1"\n');
});
afterEach(() => rmSync(folder, { recursive: true }));

function put(path: string, text: string): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), text);
  chmodSync(join(folder, path), 0o755);
}

/** A vbd of a domain in xenstore, as libxl writes it before it runs the script. */
function vbdOf(domid: number, { target = `${DOMAIN}/root` }: { target?: string } = {}): string {
  const path = `local/domain/0/backend/vbd/${domid}/51712`;
  put(`store/${path}/params`, target);
  put(`store/local/domain/${domid}/name`, "web");
  return `/${path}`;
}

function run(command: string, xenbusPath: string): string {
  const { stdout } = spawnSync("bash", [script, command], {
    encoding: "utf8",
    env: {
      PATH: `${join(folder, "bin")}:${process.env.PATH}`,
      STORE: join(folder, "store"),
      XENBUS_PATH: xenbusPath,
    },
  });
  return stdout.trim();
}

/** As the adapter does it while this host has the domain. */
function hostHas(vbd: string): string {
  put("nbd3", "");
  put(`devices/${DOMAIN}/${vbd}`, join(folder, "nbd3"));
  return join(folder, "nbd3");
}

describe("the block script", () => {
  it("attaches the device of a domain that this host has", () => {
    const device = hostHas("root");
    expect(run("add", vbdOf(5))).toBe(`device: ${device}`);
    expect(readFileSync(join(folder, "store/local/domain/0/backend/vbd/5/51712/node"), "utf8")).toBe(device);
  });

  it("refuses a domain that this host does not have, and says what to do instead", () => {
    const said = run("add", vbdOf(5));
    expect(said).toMatch(
      /^fatal: block-sojourn: Sojourn does not run this domain on this host, so xl may not/,
    );
    expect(said).toContain(`'sojourn migrate ${DOMAIN} HOST' brings it`);
  });

  it("refuses a second domain on the same vbd", () => {
    hostHas("root");
    vbdOf(5);
    expect(run("add", vbdOf(7))).toBe(
      `fatal: block-sojourn: ${DOMAIN}/root is in use by domain 5 of this host`,
    );
  });

  it("does not mind what a domain that is gone left behind, or another vbd", () => {
    const device = hostHas("root");
    vbdOf(5);
    rmSync(join(folder, "store/local/domain/5"), { recursive: true });
    vbdOf(6, { target: `${DOMAIN}/data` });
    expect(run("add", vbdOf(7))).toBe(`device: ${device}`);
  });

  it.each(["../../etc/passwd", "/dev/sda"])("refuses the target %s", (target) => {
    expect(run("add", vbdOf(5, { target }))).toBe(`fatal: block-sojourn: ${target} is not DOMAIN/VBD`);
  });

  it("has nothing to take away: the device lives as long as the domain is here", () => {
    expect(run("remove", vbdOf(5))).toBe("");
  });
});
