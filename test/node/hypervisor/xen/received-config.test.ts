import { describe, expect, it } from "vitest";
import type { DomainSpec } from "../../../../node/hypervisor/hypervisor.ts";
import { checkReceivedConfig } from "../../../../node/hypervisor/xen/received-config.ts";

const ID = "0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11";
const SPEC: DomainSpec = {
  id: ID,
  name: "web",
  memoryBytes: 96 << 20,
  config: "{}",
  vbds: [{ name: "root", sizeBytes: 1 << 30, socketPath: "/run/x", exportName: "root-1-abc" }],
};
const DISK = {
  pdev_path: `${ID}/root`,
  vdev: "xvda",
  backend: "phy",
  format: "raw",
  script: "block-sojourn",
  removable: 1,
  readwrite: 1,
};
const CONFIG = {
  c_info: { type: "pvh", name: "web", uuid: ID, run_hotplug_scripts: "True" },
  b_info: { max_vcpus: 1, max_memkb: 98304, kernel: "/kernels/vmlinuz", "type.pvh": {} },
  disks: [DISK],
  nics: [{ devid: 0, mac: "00:16:3e:00:00:01", bridge: "xenbr0", script: "/etc/xen/scripts/vif-bridge" }],
  on_reboot: "restart",
};

function check(config: unknown): void {
  checkReceivedConfig(typeof config === "string" ? config : JSON.stringify(config), SPEC);
}

describe("xl's configuration in a stream", () => {
  it("is taken when it is the domain's own", () => {
    expect(() => check(CONFIG)).not.toThrow();
    expect(() => check({ ...CONFIG, pcidevs: [] })).not.toThrow();
  });

  it.each([
    ["no JSON", "{"],
    ["another domain", { ...CONFIG, c_info: { ...CONFIG.c_info, uuid: ID.replace("0b", "1b") } }],
    ["another name", { ...CONFIG, c_info: { ...CONFIG.c_info, name: "Domain-0" } }],
    [
      "a file of the host as a disk",
      { ...CONFIG, disks: [{ ...DISK, pdev_path: "/dev/sda", script: "block" }] },
    ],
    ["a vbd of another domain", { ...CONFIG, disks: [{ ...DISK, pdev_path: "other/root" }] }],
    ["a script of its own", { ...CONFIG, disks: [{ ...DISK, script: "/tmp/x" }] }],
    ["another back end", { ...CONFIG, disks: [{ ...DISK, backend: "qdisk" }] }],
    ["a device of the host", { ...CONFIG, pcidevs: [{ domain: 0, bus: 3 }] }],
    ["a device model of its own", { ...CONFIG, b_info: { ...CONFIG.b_info, device_model: "/tmp/x" } }],
    ["arguments for a device model", { ...CONFIG, b_info: { ...CONFIG.b_info, extra: ["-drive"] } }],
    ["a script for the network", { ...CONFIG, nics: [{ script: "/tmp/x" }] }],
    ["more memory than it said", { ...CONFIG, b_info: { ...CONFIG.b_info, max_memkb: 1 << 20 } }],
  ])("is refused with %s", (_what, config) => {
    expect(() => check(config)).toThrow(/HYPERVISOR_BAD_STREAM/);
  });
});
