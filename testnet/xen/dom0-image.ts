/**
 * What a nested Xen host boots: the hypervisor, dom0's kernel and initramfs, a read-only root that all hosts share,
 * and a second read-only disk with the product as users install it. All of it is made from files, without root's
 * mounts; kept in the cache folder, and made anew where something it is made of is newer.
 */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import {
  copyFile,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { gunzipSync, gzipSync } from "node:zlib";
import { stepsToSetUp, takeSteps } from "../../node/setup/host-entries.ts";
import { xenEntries } from "../../node/setup/xen.ts";
import bundle from "../../rolldown.config.ts";
import { type ArchiveEntry, compile, MODE, modulesInOrder, newcArchive } from "../qemu/guest-image.ts";
import type { XenPackages } from "./packages.ts";

export type XenImages = {
  hypervisor: string;
  kernel: string;
  initrd: string;
  /** The root of dom0 and the product, each an ext4. */
  root: string;
  product: string;
};

const ROOT = join(import.meta.dirname, "..", "..");
const SOURCES = import.meta.dirname;
const INITRAMFS_MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay"];
const DOM0_MODULES = [
  ...["virtio_net", "loop", "nbd", "xenfs", "xen_privcmd", "xen_evtchn", "xen_gntdev", "xen_gntalloc"],
  ...["xen_blkback", "dm_mod", "dm_multipath", "dm_round_robin"],
];
const GUEST_MODULES = ["xen_blkfront", "crc32c_generic", "ext4"];
const SOURCE_FOLDERS = ["protocol", "storage", "node"];
/** As dom0/init knows it. */
const PROGRAM = "dist/node/bin.js";
/** What the build leaves out of the bundle. */
const NATIVE_MODULES = (bundle as { external: string[] }).external;
const NETWORKS = "127.0.0.1 localhost\n";
const run = promisify(execFile);

/** `say` is told of what takes time. */
export async function xenImages(
  packages: XenPackages,
  { cacheDir, say }: { cacheDir: string; say: (what: string) => void },
): Promise<XenImages> {
  const at = (name: string): string => join(cacheDir, name);
  const images = {
    hypervisor: at("xen"),
    kernel: at("vmlinuz"),
    initrd: at("dom0-initrd.gz"),
    root: at("dom0.ext4"),
    product: at("product.ext4"),
  };
  const rootSources = [
    ...[join(SOURCES, "dom0"), join(SOURCES, "guest"), join(SOURCES, "..", "qemu", "guest")],
    ...["setup", "marked-file.ts", "hypervisor/xen/block-script.ts"].map((name) => join(ROOT, "node", name)),
  ];
  if (!(await isNewer(images.root, [...rootSources, packages.kernel, import.meta.filename]))) {
    say("making dom0's image");
    await writeFile(images.hypervisor, gunzipSync(await readFile(packages.hypervisor)));
    await copyFile(packages.kernel, images.kernel);
    await writeFile(images.initrd, await dom0Initrd(packages));
    await makeRoot(packages, { cacheDir, image: images.root });
  }
  if (
    !(await isNewer(images.product, [
      ...SOURCE_FOLDERS.map((name) => join(ROOT, name)),
      ...["package-lock.json", "rolldown.config.ts"].map((name) => join(ROOT, name)),
    ]))
  ) {
    say("making the product's image");
    await makeProduct({ cacheDir, image: images.product });
  }
  return images;
}

async function dom0Initrd({ modules, busybox }: XenPackages): Promise<Buffer> {
  return initramfs({
    folders: ["bin", "dev", "modules", "new", "proc", "ro", "rw", "sys"],
    busybox,
    init: join(SOURCES, "dom0", "initramfs-init"),
    modules: await modulesInOrder(modules, INITRAMFS_MODULES),
    shell: true,
  });
}

async function guestInitrd({ modules, busybox }: XenPackages, cacheDir: string): Promise<Buffer> {
  const workload = join(cacheDir, "workload");
  await compile(join(SOURCES, "..", "qemu", "guest", "workload.c"), workload);
  return initramfs({
    folders: ["bin", "data", "dev", "modules", "proc", "sys"],
    busybox,
    init: join(SOURCES, "guest", "init"),
    modules: await modulesInOrder(modules, GUEST_MODULES),
    more: [{ path: "workload", mode: MODE.executable, data: await readFile(workload) }],
  });
}

type Initramfs = {
  folders: readonly string[];
  busybox: string;
  init: string;
  modules: readonly { name: string; data: Buffer }[];
  more?: readonly ArchiveEntry[];
  /** Its init has none of busybox's names yet. */
  shell?: boolean;
};

async function initramfs({ folders, busybox, init, modules, more = [], shell }: Initramfs): Promise<Buffer> {
  const console = { major: 5, minor: 1 };
  const entries: ArchiveEntry[] = [
    ...folders.map((path) => ({ path, mode: MODE.folder, data: Buffer.alloc(0) })),
    { path: "dev/console", mode: MODE.characterDevice, data: Buffer.alloc(0), device: console },
    { path: "bin/busybox", mode: MODE.executable, data: await readFile(busybox) },
    ...(shell ? [{ path: "bin/sh", mode: MODE.executable, data: await readFile(busybox) }] : []),
    { path: "init", mode: MODE.executable, data: await readFile(init) },
    ...modules.map(({ name, data }) => ({ path: `modules/${name}`, mode: MODE.file, data })),
    { path: "modules/order", mode: MODE.file, data: orderOf(modules) },
    ...more,
  ];
  return gzipSync(newcArchive(entries), { level: 1 });
}

function orderOf(modules: readonly { name: string }[]): Buffer {
  return Buffer.from(modules.map(({ name }) => `${name}\n`).join(""));
}

/** The packages' files, and what their scripts would have made of them. */
async function makeRoot(
  packages: XenPackages,
  { cacheDir, image }: { cacheDir: string; image: string },
): Promise<void> {
  const folder = join(cacheDir, "dom0-root");
  await rm(folder, { recursive: true, force: true });
  // Hard links: nothing of it is written to.
  await run("cp", ["-al", packages.root, folder]);
  for (const useless of [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/perl",
    "usr/lib/udev",
  ]) {
    await rm(join(folder, useless), { recursive: true, force: true });
  }
  for (const path of [
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "root",
    "modules",
    "opt",
    "var/log",
    "lab",
    "etc/xen/auto",
  ]) {
    await mkdir(join(folder, path), { recursive: true });
  }
  const texts = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": NETWORKS,
  };
  for (const [path, text] of Object.entries(texts)) await replace(join(folder, path), text);
  await link(folder, "var/run", "/run");
  await link(folder, "var/lock", "/run/lock");
  await link(folder, "usr/bin/awk", "gawk");
  const before = new Set((await modulesInOrder(packages.modules, INITRAMFS_MODULES)).map(({ name }) => name));
  const modules = (await modulesInOrder(packages.modules, DOM0_MODULES)).filter(
    ({ name }) => !before.has(name),
  );
  for (const { name, data } of modules) await writeFile(join(folder, "modules", name), data);
  await writeFile(join(folder, "modules", "order"), orderOf(modules));
  await replace(join(folder, "usr", "sbin", "xeninit"), await readFile(join(SOURCES, "dom0", "init")), 0o755);
  await writeFile(join(folder, "lab", "guest-initrd.gz"), await guestInitrd(packages, cacheDir));
  await copyFile(packages.kernel, join(folder, "lab", "vmlinuz"));
  const entries = xenEntries({ program: ["/usr/local/bin/sojourn"], dataDir: "/var/lib/sojourn" });
  takeSteps(stepsToSetUp(entries, folder), folder);
  await makeExt4(image, folder);
  await rm(folder, { recursive: true, force: true });
}

/** What a user's host has of us: what the build makes, the native modules that it leaves out, and their Node. */
async function makeProduct({ cacheDir, image }: { cacheDir: string; image: string }): Promise<void> {
  const folder = join(cacheDir, "product");
  await rm(folder, { recursive: true, force: true });
  await mkdir(join(folder, "bin"), { recursive: true });
  const bin = join(ROOT, "node_modules", ".bin");
  await run(join(bin, "rolldown"), ["-c", "--dir", join(folder, "dist")], {
    cwd: ROOT,
    env: { ...process.env, PATH: `${bin}:${process.env.PATH ?? ""}` },
  });
  if (!existsSync(join(folder, PROGRAM))) throw new Error(`the build has made no ${PROGRAM}`);
  await copyFile(join(ROOT, "package.json"), join(folder, "package.json"));
  for (const name of await withDependencies(NATIVE_MODULES)) {
    const path = join(folder, "node_modules", name);
    await mkdir(dirname(path), { recursive: true });
    await run("cp", ["-rL", join(ROOT, "node_modules", name), path]);
  }
  await copyFile(join(ROOT, "node_modules", "node", "bin", "node"), join(folder, "bin", "node"));
  await makeExt4(image, folder);
  await rm(folder, { recursive: true, force: true });
}

/** Names of packages with all that they need, those that are installed: others are for other machines. */
async function withDependencies(names: readonly string[]): Promise<Set<string>> {
  const found = new Set<string>();
  const look = async (name: string): Promise<void> => {
    const file = join(ROOT, "node_modules", name, "package.json");
    if (found.has(name) || !existsSync(file)) return;
    found.add(name);
    const needs = JSON.parse(await readFile(file, "utf8")) as Record<string, Record<string, string>>;
    for (const other of Object.keys({ ...needs.dependencies, ...needs.optionalDependencies }))
      await look(other);
  };
  for (const name of names) await look(name);
  return found;
}

async function makeExt4(image: string, folder: string): Promise<void> {
  const { stdout } = await run("du", ["-sm", folder]);
  const sizeMib = Math.ceil(Number.parseInt(stdout, 10) * 1.15) + 48;
  await rm(`${image}.new`, { force: true });
  const features = "^has_journal,^metadata_csum,^resize_inode";
  await ext4(["-q", "-t", "ext4", "-O", features, "-m", "0", "-d", folder, `${image}.new`, `${sizeMib}M`]);
  await rename(`${image}.new`, image);
}

/** These tools lie where only root's PATH looks. */
export async function ext4(args: readonly string[]): Promise<void> {
  await run("mke2fs", [...args], {
    env: { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` },
  });
}

/** A file that may be a hard link of the package's. */
async function replace(path: string, data: string | Buffer, mode = 0o644): Promise<void> {
  await rm(path, { force: true });
  await writeFile(path, data, { mode });
}

async function link(folder: string, path: string, target: string): Promise<void> {
  await rm(join(folder, path), { recursive: true, force: true });
  await symlink(target, join(folder, path));
}

async function isNewer(path: string, sources: readonly string[]): Promise<boolean> {
  const madeAtMs = (await stat(path).catch(() => undefined))?.mtimeMs ?? 0;
  for (const source of sources) if ((await newestIn(source)) > madeAtMs) return false;
  return true;
}

async function newestIn(path: string): Promise<number> {
  const { mtimeMs } = await lstat(path);
  const folder = (await stat(path)).isDirectory();
  if (!folder) return mtimeMs;
  const names = await readdir(path, { recursive: true });
  const times = await Promise.all(
    names
      .filter((name) => !basename(name).startsWith("."))
      .map(async (name) => (await lstat(join(path, name))).mtimeMs),
  );
  return Math.max(mtimeMs, ...times);
}
