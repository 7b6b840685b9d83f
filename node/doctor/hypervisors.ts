/** The hypervisors of a host, as `sojourn doctor` finds them. */

import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import type { NodeConfig } from "../config.ts";
import type { Finding, Run } from "./finding.ts";

/** Before 9.0, memory that is migrated under TCG arrives corrupted when it took more than three passes. */
const TCG_MAJOR_MIN = 9;
/** `blockdev-reopen` is stable since then: before it a vbd cannot leave our export. */
const QEMU_MAJOR_MIN = 7;

/** Where the system tells; other paths in tests. */
export type SystemPaths = { kvm: string; cpuinfo: string; xenCapabilities: string; modules: string };

export const SYSTEM_PATHS: SystemPaths = {
  kvm: "/dev/kvm",
  cpuinfo: "/proc/cpuinfo",
  xenCapabilities: "/proc/xen/capabilities",
  modules: "/",
};

type Parts = { run: Run; paths: SystemPaths };

export async function examineHypervisors(
  { qemu, xen }: Pick<NodeConfig, "qemu" | "xen">,
  parts: Parts,
): Promise<Finding[]> {
  const kvm = await examineKvm(parts);
  return [
    { what: "WebAssembly", state: "ok", found: "domains of kind wasm, on any host" },
    await examineQemu(qemu, { ...parts, isKvmUsable: kvm.state === "ok" }),
    kvm,
    await examineQemuImg(parts),
    await examineXen(xen.xl, parts),
    ...(await Promise.all(
      MODULES.map(({ name, use }) => examineModule(name, { use, root: parts.paths.modules })),
    )),
  ];
}

export async function examineQemu(
  { executable, acceleration }: Pick<NodeConfig["qemu"], "executable" | "acceleration">,
  { run, isKvmUsable }: Pick<Parts, "run"> & { isKvmUsable: boolean },
): Promise<Finding> {
  const what = "QEMU";
  const said = await run(executable, ["--version"]);
  const version = /version (\d+)\.(\d+)\S*/.exec(said ?? "");
  if (version === null) {
    return {
      what,
      state: "missing",
      found: `${executable} cannot be run`,
      costs: "no domains of kind qemu",
      remedy: "apt-get install qemu-system-x86, or name another with qemu.executable in config.json",
    };
  }
  const found = `${version[0].replace("version ", "")} (${executable}), qemu.acceleration is ${acceleration}`;
  const major = Number(version[1]);
  if (major < QEMU_MAJOR_MIN) {
    const costs = "its vbds cannot be exchanged under a running guest: no domains of kind qemu";
    return { what, state: "missing", found, costs, remedy: `QEMU ${TCG_MAJOR_MIN} or newer` };
  }
  if (acceleration === "kvm" && isKvmUsable) return { what, state: "ok", found };
  const corruption = `before ${TCG_MAJOR_MIN}.0 the memory of a guest that runs without KVM arrives corrupted when its migration took more than three passes: such domains are refused`;
  const tooOld = major < TCG_MAJOR_MIN ? `; ${corruption}` : "";
  if (acceleration === "kvm") {
    const costs = `no domain of kind qemu starts without KVM${tooOld}`;
    const remedy = `what the line KVM says; or QEMU ${TCG_MAJOR_MIN} or newer (Debian: from backports) with qemu.acceleration set to "tcg"`;
    return { what, state: "missing", found, costs, remedy };
  }
  if (major < TCG_MAJOR_MIN) {
    const remedy = `QEMU ${TCG_MAJOR_MIN} or newer (Debian: from backports), or KVM`;
    return { what, state: "missing", found, costs: corruption, remedy };
  }
  const costs = "guests run many times slower than on a processor with virtualization";
  const remedy = isKvmUsable ? 'KVM works here: set "acceleration": "kvm"' : "what the line KVM says";
  return { what, state: "limited", found, costs, remedy };
}

export async function examineKvm({ paths }: Pick<Parts, "paths">): Promise<Finding> {
  const what = "KVM";
  const costs = "QEMU runs guests by emulation, many times slower";
  const reason = await access(paths.kvm, constants.R_OK | constants.W_OK).then(
    () => undefined,
    ({ code }: NodeJS.ErrnoException) => code,
  );
  if (reason === "EACCES") {
    const remedy = "add the daemon's user to the group kvm, and start it anew";
    return { what, state: "missing", found: `${paths.kvm} is not this user's to open`, costs, remedy };
  }
  if (reason !== undefined) {
    const remedy =
      "switch virtualization on in the firmware, or nested virtualization where this host is a guest; modprobe kvm_intel or kvm_amd";
    return { what, state: "missing", found: `there is no ${paths.kvm}`, costs, remedy };
  }
  const cpuinfo = await readFile(paths.cpuinfo, "utf8").catch(() => "");
  if (/^flags\s*:.*\b(?:vmx|svm)\b/m.test(cpuinfo) || !/^flags\s*:/m.test(cpuinfo)) {
    return { what, state: "ok", found: `${paths.kvm} can be used` };
  }
  return {
    what,
    state: "limited",
    found: `${paths.kvm} is there, and the processor has neither vmx nor svm (a software KVM such as PVM)`,
    costs: "guests with a kernel of their distribution do not boot under it",
    remedy: 'set qemu.acceleration to "tcg" unless your guests are known to run',
  };
}

async function examineQemuImg({ run }: Pick<Parts, "run">): Promise<Finding> {
  const what = "qemu-img";
  const version = /version (\S+)/.exec((await run("qemu-img", ["--version"])) ?? "")?.[1];
  if (version !== undefined) return { what, state: "ok", found: version };
  return {
    what,
    state: "limited",
    found: "none",
    costs: "images that are not raw cannot be taken over (`create --image FILE --flatten`)",
    remedy: "apt-get install qemu-utils",
  };
}

export async function examineXen(xl: string, { run, paths }: Parts): Promise<Finding> {
  const what = "Xen";
  const capabilities = await readFile(paths.xenCapabilities, "latin1").catch(() => undefined);
  const costs = "no domains of kind xen";
  if (capabilities?.includes("control_d") !== true) {
    const found =
      capabilities === undefined ? "this host does not run on Xen" : "this is a guest of Xen, not its dom0";
    const remedy = "apt-get install xen-system-amd64, and boot it, on a host whose domains are Xen's";
    return { what, state: "missing", found, costs, remedy };
  }
  const info = await run(xl, ["info"]);
  if (info === undefined) {
    const remedy =
      "run the daemon as root in dom0, with xen-utils installed; or name the command with xen.xl";
    return { what, state: "missing", found: `dom0, and \`${xl} info\` fails`, costs, remedy };
  }
  const field = (name: string): string =>
    new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(info)?.[1]?.trim() ?? "?";
  const found = `dom0 of Xen ${field("xen_version")}, ${field("free_memory")} MiB free, ${field("virt_caps")}`;
  return {
    what,
    state: "limited",
    found,
    costs: "seen in tests between nested hosts only",
    remedy: "testnet/xen/README.md",
  };
}

const MODULES = [
  { name: "nbd", use: "vbds of Xen's block devices during a migration" },
  { name: "dm_mod", use: "live exchange of what is below a block device of Xen" },
] as const;

/** Loaded, in the kernel, or there to be loaded. */
async function examineModule(name: string, { use, root }: { use: string; root: string }): Promise<Finding> {
  const what = `module ${name}`;
  const has = (path: string): Promise<boolean> =>
    access(path).then(
      () => true,
      () => false,
    );
  if (await has(`${root}sys/module/${name}`)) return { what, state: "ok", found: "in the kernel" };
  const release = (await readFile(`${root}proc/sys/kernel/osrelease`, "utf8").catch(() => "")).trim();
  const file = name.replace("_", "[-_]");
  for (const list of ["modules.dep", "modules.builtin"]) {
    const text = await readFile(`${root}lib/modules/${release}/${list}`, "utf8").catch(() => "");
    if (new RegExp(`/${file}\\.ko`, "m").test(text)) {
      return { what, state: "ok", found: `there, loaded when it is needed (${list})` };
    }
  }
  const remedy = "a kernel that has it, where domains of kind xen live on block devices";
  return { what, state: "missing", found: `kernel ${release} has none`, costs: `without it: ${use}`, remedy };
}
