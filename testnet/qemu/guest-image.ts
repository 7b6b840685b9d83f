/**
 * The guest's initramfs: busybox, the kernel's modules of virtio, and a workload that checks itself. Made by us
 * from nothing but these files: the format (`newc`) is a header, a name and the contents, one after the other.
 */

import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import type { QemuPackages } from "./packages.ts";

export type GuestImage = { kernel: string; initrd: string };

export type ArchiveEntry = {
  path: string;
  mode: number;
  data: Buffer;
  device?: { major: number; minor: number };
};

const MODULES = ["virtio_pci", "virtio_blk", "virtio_net"];
const SOURCES = join(import.meta.dirname, "guest");
const FOLDERS = ["bin", "data", "dev", "modules", "proc", "sys"];
export const MODE = {
  folder: 0o040755,
  executable: 0o100755,
  file: 0o100644,
  characterDevice: 0o020600,
} as const;
const run = promisify(execFile);

/** Made anew where the workload's source is newer than it. */
export async function guestImage(packages: QemuPackages, cacheDir: string): Promise<GuestImage> {
  const initrd = join(cacheDir, "initrd.img");
  const workload = join(cacheDir, "workload");
  await mkdir(cacheDir, { recursive: true });
  const madeAtMs = (await stat(initrd).catch(() => undefined))?.mtimeMs ?? 0;
  const sources = ["workload.c", "init"].map((name) => join(SOURCES, name));
  const times = await Promise.all([...sources, packages.kernel].map((path) => stat(path)));
  if (times.every(({ mtimeMs, ctimeMs }) => Math.max(mtimeMs, ctimeMs) < madeAtMs)) {
    return { kernel: packages.kernel, initrd };
  }
  await compile(join(SOURCES, "workload.c"), workload);
  const modules = await modulesInOrder(packages.modules, MODULES);
  const entries: ArchiveEntry[] = [
    ...FOLDERS.map((path) => ({ path, mode: MODE.folder, data: Buffer.alloc(0) })),
    // The kernel opens it for the first process before there is a `/dev` of its own.
    {
      path: "dev/console",
      mode: MODE.characterDevice,
      data: Buffer.alloc(0),
      device: { major: 5, minor: 1 },
    },
    { path: "bin/busybox", mode: MODE.executable, data: await readFile(packages.busybox) },
    { path: "init", mode: MODE.executable, data: await readFile(join(SOURCES, "init")) },
    { path: "workload", mode: MODE.executable, data: await readFile(workload) },
    ...modules.map(({ name, data }) => ({ path: `modules/${name}`, mode: MODE.file, data })),
    {
      path: "modules/order",
      mode: MODE.file,
      data: Buffer.from(modules.map(({ name }) => `${name}\n`).join("")),
    },
  ];
  await writeFile(`${initrd}.new`, gzipSync(newcArchive(entries)));
  await rename(`${initrd}.new`, initrd);
  return { kernel: packages.kernel, initrd };
}

export async function compile(source: string, target: string): Promise<void> {
  try {
    await run("gcc", ["-O2", "-static", "-pthread", "-o", target, source]);
  } catch (cause) {
    const { code, stderr } = cause as { code?: unknown; stderr?: string };
    const remedy = code === "ENOENT" ? "apt-get install gcc libc6-dev" : (stderr ?? "");
    throw new Error(`the guest's workload cannot be compiled: ${remedy}`, { cause });
  }
}

export type Module = { name: string; data: Buffer };

/** Each after those it needs: a package's modules come without an index, and each names its own. */
export async function modulesInOrder(folder: string, names: readonly string[]): Promise<Module[]> {
  const paths = await readdir(join(folder, "kernel"), { recursive: true });
  const byName = new Map(
    paths
      .filter((path) => path.endsWith(".ko"))
      .map((path) => [basename(path, ".ko").replaceAll("-", "_"), path]),
  );
  const ordered: Module[] = [];
  const add = async (name: string): Promise<void> => {
    const path = byName.get(name);
    if (path === undefined) throw new Error(`the kernel's package has no module ${name}`);
    const file = basename(path);
    if (ordered.some((module) => module.name === file)) return;
    const data = await readFile(join(folder, "kernel", path));
    for (const needed of needsOf(data)) await add(needed);
    ordered.push({ name: file, data });
  };
  for (const name of names) await add(name);
  return ordered;
}

/** `depends=a,b` among the strings of the module's description. */
function needsOf(module: Buffer): string[] {
  const mark = Buffer.from("\0depends=");
  const at = module.indexOf(mark);
  if (at < 0) return [];
  const text = module.toString("latin1", at + mark.length, module.indexOf(0, at + mark.length));
  return text.split(",").flatMap((name) => (name === "" ? [] : [name.replaceAll("-", "_")]));
}

export function newcArchive(entries: readonly ArchiveEntry[]): Buffer {
  const parts: Buffer[] = [];
  const end: ArchiveEntry = { path: "TRAILER!!!", mode: 0, data: Buffer.alloc(0) };
  for (const [index, { path, mode, data, device = { major: 0, minor: 0 } }] of [...entries, end].entries()) {
    const name = Buffer.from(`${path}\0`);
    const links = 1;
    const fields = [
      ...[index + 1, mode, 0, 0, links, 0, data.length, 0, 0, device.major, device.minor],
      ...[name.length, 0],
    ];
    const head = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
    parts.push(padded(Buffer.concat([head, name])), padded(data));
  }
  return Buffer.concat(parts);
}

/** Every part ends at a multiple of four. */
function padded(data: Buffer): Buffer {
  return Buffer.concat([data, Buffer.alloc((4 - (data.length % 4)) % 4)]);
}
