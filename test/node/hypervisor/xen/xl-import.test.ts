import { describe, expect, it } from "vitest";
import { parseXenConfig } from "../../../../node/hypervisor/xen/config.ts";
import { importXl, XlImportError } from "../../../../node/hypervisor/xen/xl-import.ts";

const WEB = `name = "web"
type = "pvh"
memory = 512
vcpus = 2
kernel = "/etc/xen/kernels/vmlinuz-6.1"
ramdisk = '/etc/xen/kernels/initrd.img-6.1'
root = "/dev/xvda1 ro"
extra = "console=hvc0"
disk = [ '/dev/vg0/web,raw,xvda1,rw', 'phy:/dev/vg0/swap,xvda2,w' ]
vif = [ 'mac=00:16:3E:12:34:56, bridge=br0, script=vif-bridge' ]
on_crash = 'restart'
`;

function problemsOf(text: string): string[] {
  try {
    importXl(text);
  } catch (error) {
    if (!(error instanceof XlImportError)) throw error;
    for (const { remedy } of error.problems) expect(remedy).not.toBe("");
    return error.problems.map(({ line, reason }) => `${line}: ${reason}`);
  }
  return [];
}

/** What a disk's line becomes, or why it is refused. */
function diskOf(disk: string): string {
  const text = `${WEB.replace(/^disk = .*/m, `disk = [ ${JSON.stringify(disk)} ]`)}`;
  const problems = problemsOf(text);
  if (problems.length > 0) return `refused ${problems.join(" ")}`;
  const { vbds } = importXl(text);
  return vbds.map(({ name, path }) => `${name}=${path}`).join();
}

describe("a configuration of xl as a domain", () => {
  it("keeps its name, memory, processors, kernel, command line, disks and network", () => {
    const { name, memoryBytes, vbds, config } = importXl(WEB);
    expect({ name, memoryBytes, vbds }).toEqual({
      name: "web",
      memoryBytes: 512 << 20,
      vbds: [
        { name: "xvda1", path: "/dev/vg0/web" },
        { name: "xvda2", path: "/dev/vg0/swap" },
      ],
    });
    // As the host that starts it will read it.
    expect(parseXenConfig(JSON.stringify(config))).toMatchObject({
      ...{ type: "pvh", cpus: 2, kernel: "vmlinuz-6.1", initrd: "initrd.img-6.1" },
      ...{ append: "root=/dev/xvda1 ro console=hvc0", vdevs: ["xvda1", "xvda2"] },
      vifs: [{ mac: "00:16:3e:12:34:56", bridge: "br0" }],
    });
  });

  it("says what is not as it was: where kernels come from, a UUID, an address that was made up", () => {
    const { notes, config } = importXl(
      `${WEB.replace("mac=00:16:3E:12:34:56, ", "")}uuid = "3f2a0000-0000-4000-8000-000000000000"`,
    );
    expect(notes.join("\n")).toMatch(/vmlinuz-6.1 is taken from the host's folder of kernels/);
    expect(notes.join("\n")).toMatch(/its UUID 3f2a.* is not kept/);
    expect(notes.join("\n")).toContain(`keeps ${config.vifs![0]!.mac} from now on`);
    expect(config.vifs![0]!.mac).toMatch(/^00:16:3e:[0-7]/);
  });

  it("takes what xl takes for granted: PV, and a boot loader in place of a kernel", () => {
    const text = 'name="a"\nmemory="256"\nbootloader="/usr/bin/pygrub"\ndisk=["/srv/a.img,,xvda"]\n';
    expect(importXl(text).config).toMatchObject({ type: "pv", bootloader: "pygrub", vdevs: ["xvda"] });
    expect(importXl(`${text}builder = "hvm"`).config.type).toBe("hvm");
  });

  it("carries further settings by their names", () => {
    const { config } = importXl(
      `${WEB}localtime = 1\nmaxvcpus = 4\ntsc_mode = "native"\npci = []\nnomigrate = 0\n`,
    );
    expect(config.options).toEqual({ localtime: 1, maxvcpus: 4 });
    expect(config.tscMode).toBe("native");
  });

  it.each([
    ["pci = [ '0000:03:00.0' ]", "12: pci: a device of this host is passed through"],
    ["nomigrate = 1", "12: nomigrate: the domain says itself that it must not migrate"],
    ["vnclisten = '0.0.0.0'", '12: vnclisten = "0.0.0.0": not a value that is carried'],
    ["something_new = 1", "12: something_new: not a setting that is carried"],
    ["constructor = 1", "12: constructor: not a setting that is carried"],
    ["__proto__ = 1", "12: __proto__: not a setting that is carried"],
    ["on_poweroff = 'preserve'", '12: on_poweroff = "preserve" is not carried'],
    ["maxmem = 1024", "12: maxmem is not memory"],
    ["bootloader = '/srv/own-loader'", "12: the boot loader own-loader"],
    ["vif = [ 'bridge=br0,script=vif-route' ]", "12: the network script vif-route"],
    ["vif = [ 'backend=net' ]", "12: backend of a network interface"],
    ["disk += [ '/dev/x,raw,xvda1,rw' ]", "12: two disks xvda1"],
    ["memory = 'much'", '12: "much" is no number'],
  ])("refuses %s, with its line", (line, problem) => {
    expect(problemsOf(`${WEB}${line}\n`)).toEqual([problem]);
  });

  it("says all that is in the way at once", () => {
    expect(problemsOf("disk = [ '/srv/a.qcow2,qcow2,xvda' ]\npci = [ '03:00.0' ]\n")).toEqual([
      "1: a disk of format qcow2",
      "1: it has no name",
      "1: it has no memory",
      "1: it says nothing of how it boots",
      "2: pci: a device of this host is passed through",
    ]);
  });

  it("says where xl could not read it either", () => {
    expect(problemsOf("name = web\n")).toEqual([
      "1: a value is a text in quotes, a number, or a list in brackets",
    ]);
  });
});

describe("a disk's line", () => {
  it.each([
    ["/dev/vg/a,raw,xvda,rw", "xvda=/dev/vg/a"],
    ["/dev/vg/a,,xvda", "xvda=/dev/vg/a"],
    ["phy:/dev/vg/a,xvda1,w", "xvda1=/dev/vg/a"],
    ["file:/srv/a.img,hda,w", "hda=/srv/a.img"],
    ["tap:aio:/srv/a.img,xvda,w", "xvda=/srv/a.img"],
    ["format=raw, vdev=xvdb, access=rw, target=/srv/a, with a comma", "xvdb=/srv/a, with a comma"],
    ["vdev=xvda,backendtype=phy,discard,target=/dev/sdb1", "xvda=/dev/sdb1"],
    ["/dev/vg/a,vdev=sda,format=raw", "sda=/dev/vg/a"],
  ])("%s", (disk, result) => {
    expect(diskOf(disk)).toBe(result);
  });

  it.each([
    ["/srv/a.qcow2,qcow2,xvda,rw", "a disk of format qcow2"],
    ["tap:qcow2:/srv/a.qcow2,xvda,w", "a disk of format qcow2"],
    ["file:/srv/cd.iso,hdc:cdrom,r", "the CD-ROM hdc"],
    ["/srv/cd.iso,raw,hdc,ro,cdrom", "the CD-ROM hdc"],
    [",raw,hdc:cdrom,r", "the CD-ROM hdc"],
    ["/dev/vg/a,raw,xvda,ro", "the read-only disk xvda"],
    ["vdev=xvda,script=block-iscsi,target=iqn:x", "the disk script block-iscsi"],
    ["vdev=xvda,backend=storage,target=/dev/a", "a disk of a driver domain"],
    ["web.img,raw,xvda,rw", 'the disk "web.img,raw,xvda,rw" without an absolute path'],
    ["/dev/vg/a,raw,disk0,rw", 'the disk "/dev/vg/a,raw,disk0,rw" without a name such as xvda'],
    ["/dev/vg/a,raw,xvda,rw,more", '"more" in the disk'],
    ["vdev=xvda,colocated=1,target=/dev/a", "the disk's colocated"],
  ])("%s is refused", (disk, reason) => {
    expect(diskOf(disk)).toContain(`refused 9: ${reason}`);
  });
});
