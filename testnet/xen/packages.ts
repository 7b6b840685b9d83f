/**
 * A Xen host's root file system from Debian's packages: unpacked, not installed. No maintainer script runs, so it
 * needs neither debootstrap nor a chroot; the few things that those scripts would have made are made in
 * dom0-image.ts. The packages come from where this machine's apt takes its own.
 */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { Apt } from "../qemu/packages.ts";

export type XenPackages = {
  /** The unpacked root of dom0, without kernel and hypervisor. */
  root: string;
  /** Gzipped, as the package brings it. */
  hypervisor: string;
  xenVersion: string;
  kernel: string;
  /** `lib/modules/<version>` of that kernel. */
  modules: string;
  /** Statically linked. */
  busybox: string;
};

/** What a dom0 without udev, systemd and a package manager needs. */
const TOOLS = [
  ...[
    "base-files",
    "bash",
    "bsdutils",
    "busybox-static",
    "coreutils",
    "dash",
    "dmsetup",
    "e2fsprogs",
    "findutils",
  ],
  ...["gawk", "grep", "gzip", "hostname", "iproute2", "kmod", "libc-bin", "libstdc++6", "mawk", "mount"],
  ...["procps", "sed", "socat", "tar", "util-linux", "xen-utils-common", "xenstore-utils"],
];
const MERGED = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];
const run = promisify(execFile);

/** From the cache folder where they are there already; `say` is told of what takes time. */
export async function xenPackages(cacheDir: string, say: (what: string) => void): Promise<XenPackages> {
  const folder = join(cacheDir, "packages");
  if (!existsSync(join(folder, "complete"))) await fetchPackages(cacheDir, folder, say);
  const boot = await readdir(join(folder, "xen", "boot"));
  const hypervisor = boot.find((name) => /^xen-[\d.]+-amd64\.gz$/.test(name));
  const release = (await readdir(join(folder, "kernel", "lib", "modules")))[0];
  if (hypervisor === undefined || release === undefined) {
    throw new Error(`${folder} holds no Xen and no kernel; remove it and try again`);
  }
  return {
    root: join(folder, "root"),
    hypervisor: join(folder, "xen", "boot", hypervisor),
    xenVersion: /^xen-([\d.]+)-/.exec(hypervisor)![1]!,
    kernel: join(folder, "kernel", "boot", `vmlinuz-${release}`),
    modules: join(folder, "kernel", "lib", "modules", release),
    busybox: join(folder, "root", "bin", "busybox"),
  };
}

async function fetchPackages(cacheDir: string, folder: string, say: (what: string) => void): Promise<void> {
  const apt = await Apt.open(join(cacheDir, "apt"));
  const partial = `${folder}.partial`;
  await rm(partial, { recursive: true, force: true });
  for (const part of ["root/usr", "xen", "kernel"]) await mkdir(join(partial, part), { recursive: true });
  say("reading the lists of Debian's packages");
  await apt.update();
  const xen = (await apt.dependenciesOf("xen-system-amd64")).filter((name) =>
    /^xen-(?:hypervisor-[\d.]+-amd64|utils-[\d.]+)$/.test(name),
  );
  const [kernel] = (await apt.dependenciesOf("linux-image-amd64")).filter((name) =>
    /^linux-image-\d/.test(name),
  );
  if (xen.length !== 2 || kernel === undefined) throw new Error("apt knows no Xen and no kernel for it");
  say("fetching Xen, a kernel and a small Debian");
  await apt.downloadForNewMachine([...TOOLS, ...xen, kernel]);
  say("unpacking");
  for (const name of MERGED) {
    await mkdir(join(partial, "root", "usr", name), { recursive: true });
    await symlink(`usr/${name}`, join(partial, "root", name));
  }
  for (const file of await apt.packages()) {
    const part = /\/linux-image-\d/.test(file) ? "kernel" : /\/xen-hypervisor-\d/.test(file) ? "xen" : "root";
    await unpack(file, join(partial, part));
  }
  await writeFile(join(partial, "complete"), "");
  await rm(folder, { recursive: true, force: true });
  await rename(partial, folder);
  await rm(join(cacheDir, "apt", "archives"), { recursive: true, force: true });
}

/** Folders that the tree has as links (`/bin`, `/lib`) stay links. */
async function unpack(file: string, folder: string): Promise<void> {
  await run("sh", [
    "-c",
    'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --keep-directory-symlink',
    "sh",
    file,
    folder,
  ]);
}
