import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { DomainSpec } from "../../../../node/hypervisor/hypervisor.ts";
import { parseXenConfig } from "../../../../node/hypervisor/xen/config.ts";
import { xlConfig } from "../../../../node/hypervisor/xen/xl-config.ts";

const SPEC: DomainSpec = {
  id: "0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11",
  name: "web",
  memoryBytes: 96 << 20,
  config: "{}",
  vbds: [
    { name: "root", sizeBytes: 1 << 30, socketPath: "/run/x", exportName: "root-1-abc" },
    { name: "data", sizeBytes: 1 << 20, socketPath: "/run/x", exportName: "data-1-def" },
  ],
};

describe("a specification as xl's configuration", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "sojourn-xl-"));
    for (const name of ["vmlinuz", "initrd.gz"]) writeFileSync(join(folder, name), "");
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function configOf(settings: object, spec: Partial<DomainSpec> = {}): string {
    const config = parseXenConfig(JSON.stringify(settings));
    return xlConfig({ ...SPEC, ...spec }, config, { xl: "xl", kernelFolder: folder, configFolder: folder });
  }

  it("names whose vbds they are, and nothing of the host", () => {
    expect(configOf({})).toContain(
      'disk = [ "format=raw, vdev=xvda, access=rw, backendtype=phy, script=block-sojourn, ' +
        'target=0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11/root", ' +
        '"format=raw, vdev=xvdb, access=rw, backendtype=phy, script=block-sojourn, ' +
        'target=0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11/data" ]',
    );
  });

  it("has the domain's id for Xen's UUID, its memory, its kernel and its command line", () => {
    const text = configOf({
      kernel: "vmlinuz",
      initrd: "initrd.gz",
      append: "root=/dev/xvda quiet",
      cpus: 2,
    });
    for (const line of [
      'uuid = "0b5a4cf6-8e0f-4a52-9d4e-0d3b5f2f6a11"',
      'name = "web"',
      'type = "pvh"',
      "memory = 96",
      "vcpus = 2",
      `kernel = "${join(folder, "vmlinuz")}"`,
      `ramdisk = "${join(folder, "initrd.gz")}"`,
      'extra = "root=/dev/xvda quiet"',
    ]) {
      expect(text.split("\n")).toContain(line);
    }
  });

  it("gives the guest's disks the names that they had, its interfaces and its further settings", () => {
    const vif = { mac: "00:16:3e:00:00:01", bridge: "br0", type: "vif", rate: "10Mb/s" };
    const options = { localtime: 1, boot: "cd" };
    const text = configOf({
      vdevs: ["xvda1", "hdc"],
      vifs: [vif],
      options,
      bootloader: "pygrub",
      type: "pv",
    });
    expect(text).toContain("vdev=xvda1,");
    expect(text).toContain("vdev=hdc,");
    for (const line of [
      'vif = [ "mac=00:16:3e:00:00:01, bridge=br0, type=vif, rate=10Mb/s" ]',
      "localtime = 1",
      'boot = "cd"',
      'bootloader = "pygrub"',
    ]) {
      expect(text.split("\n")).toContain(line);
    }
  });

  it.each([
    ["a boot loader of a peer's choice", { bootloader: "/tmp/x" }],
    ["a further setting that runs a program", { options: { device_model_override: "/tmp/x" } }],
    ["a screen that listens to a network", { options: { vnclisten: "0.0.0.0" } }],
    ["a disk's name that brings more", { vdevs: ["xvda, script=/tmp/x"] }],
    ["a command line that ends the quotes", { append: 'x" \ndisk = []' }],
    ["a kernel that climbs", { kernel: "../../etc/shadow" }],
    ["a setting that nobody knows", { device_model_override: "/tmp/x" }],
    ["a bridge that brings a script", { vifs: [{ mac: "00:16:3e:00:00:01", bridge: "x, script=/tmp/x" }] }],
  ])("refuses %s", (_what, settings) => {
    expect(() => configOf(settings)).toThrow(/HYPERVISOR_BAD_SPEC/);
  });

  it.each([
    ["a name that ends the quotes", { name: 'w"' }],
    ["a name that xl would take for one of its own", { name: "web--incoming" }],
    ["an id that is no UUID", { id: "web" }],
    ["memory of half a MiB", { memoryBytes: (96 << 20) + 1 }],
  ])("refuses %s", (_what, spec) => {
    expect(() => configOf({}, spec)).toThrow(/HYPERVISOR_BAD_SPEC/);
  });

  it("says where a kernel has to be that is not there", () => {
    expect(() => configOf({ kernel: "missing" })).toThrow(/put the domain's kernel/);
  });
});
