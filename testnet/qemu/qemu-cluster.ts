/** Daemons whose hosts can run the guest: they have its QEMU, its kernel and its initramfs. */

import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { Cluster } from "../cluster.ts";
import { type GuestImage, guestImage } from "./guest-image.ts";
import { type QemuPackages, qemuPackages } from "./packages.ts";

const CACHE = join(import.meta.dirname, "..", "..", ".cache", "qemu");

export type GuestParts = { packages: QemuPackages; image: GuestImage };

/** Fetched and made the first time; `say` is told of what takes long. */
export async function guestParts(say: (what: string) => void): Promise<GuestParts> {
  const packages = await qemuPackages(CACHE, say);
  say("making the guest's initramfs");
  return { packages, image: await guestImage(packages, CACHE) };
}

export async function startQemuCluster(
  names: readonly string[],
  { packages, image }: GuestParts,
  { acceleration, extraArguments = false }: { acceleration: "tcg" | "kvm"; extraArguments?: boolean },
): Promise<Cluster> {
  const cluster = await Cluster.start({
    names,
    config: { qemu: { executable: packages.executable, acceleration, extraArguments } },
    env: { SOJOURN_LOG: process.env.SOJOURN_LOG ?? "info" },
  });
  for (const { dataDir } of cluster.hosts) await linkKernel(join(dataDir, "kernels"), image);
  return cluster;
}

/** A folder of kernels as `qemu.kernelFolder` names it. */
export async function linkKernel(folder: string, image: GuestImage): Promise<void> {
  await mkdir(folder, { recursive: true });
  await symlink(image.kernel, join(folder, "vmlinuz"));
  await symlink(image.initrd, join(folder, "initrd.img"));
}
