/**
 * `npm run qemu`: three daemons, and a real Linux that travels among them with its memory and its disks while it
 * works and checks itself. See `--help` and testnet/README.md.
 */

import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { formatDuration } from "../../node/cli/format.ts";
import { Cluster } from "../cluster.ts";
import { complain } from "../complaints.ts";
import { StatusLine } from "../status-line.ts";
import { hopsOf, hostsOf } from "../tour-options.ts";
import { BeatListener } from "./beat-listener.ts";
import { type GuestImage, guestImage } from "./guest-image.ts";
import { GuestJourney } from "./guest-journey.ts";
import { type QemuPackages, qemuPackages } from "./packages.ts";
import { parseQemuOptions, type QemuRunOptions } from "./qemu-options.ts";
import { formatQemuRun, type QemuHop, summaryOf } from "./qemu-report.ts";

const CACHE = join(import.meta.dirname, "..", "..", ".cache", "qemu");

async function startCluster(
  options: QemuRunOptions,
  { packages, image }: { packages: QemuPackages; image: GuestImage },
): Promise<Cluster> {
  const cluster = await Cluster.start({
    names: hostsOf(options),
    config: { qemu: { executable: packages.executable, acceleration: options.accel } },
    env: { SOJOURN_LOG: process.env.SOJOURN_LOG ?? "info" },
  });
  for (const { dataDir } of cluster.hosts) {
    await mkdir(join(dataDir, "kernels"), { recursive: true });
    await symlink(image.kernel, join(dataDir, "kernels", "vmlinuz"));
    await symlink(image.initrd, join(dataDir, "kernels", "initrd.img"));
  }
  return cluster;
}

/** A guest's life: its boot, its route, its end. */
async function travelWith(
  options: QemuRunOptions,
  { beatPath, ...parts }: { cluster: Cluster; status: StatusLine; beats: BeatListener; beatPath: string },
): Promise<{ hops: QemuHop[]; end: Awaited<ReturnType<GuestJourney["finish"]>> }> {
  const journey = new GuestJourney(parts.cluster, { ...parts, options });
  try {
    await journey.begin(beatPath);
    const hops = hopsOf(options);
    for (const hop of hops) {
      const result = await journey.hop(hop);
      if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    }
    return { hops: journey.hops, end: await journey.finish(hops.at(-1)!.to) };
  } finally {
    journey.close();
  }
}

async function main(): Promise<boolean> {
  const options = parseQemuOptions(process.argv.slice(2));
  const startedAtMs = performance.now();
  const isSilent = options.json === true && !process.stderr.isTTY;
  const status = new StatusLine(isSilent ? { write: () => true } : process.stderr);
  const packages = await qemuPackages(CACHE, (what) => status.update(what));
  status.update("making the guest's initramfs");
  const image = await guestImage(packages, CACHE);
  status.update("starting the daemons");
  const cluster = await startCluster(options, { packages, image });
  const beatPath = join(cluster.folder, "net");
  const beats = await BeatListener.listen(beatPath);
  const travel = (guest: QemuRunOptions): ReturnType<typeof travelWith> =>
    travelWith(guest, { cluster, status, beats, beatPath });
  try {
    const baseline = options.baseline ? await travel({ ...options, diskless: true }) : undefined;
    const { hops, end } = await travel(options);
    status.end();
    const elapsedMs = Math.round(performance.now() - startedAtMs);
    const summary = summaryOf(hops, {
      ...end,
      elapsedMs,
      qemuVersion: packages.version,
      ...(baseline && { baseline: baseline.hops }),
    });
    if (options.json) process.stdout.write(`${JSON.stringify({ summary })}\n`);
    else process.stdout.write(formatQemuRun(hops, summary));
    for (const failure of summary.failed) process.stderr.write(`FAILED ${failure}\n`);
    if (!summary.ok) await complain(cluster);
    else if (!options.json) process.stdout.write(`All checks passed in ${formatDuration(elapsedMs)}.\n`);
    return summary.ok;
  } catch (error) {
    status.end();
    await complain(cluster);
    throw error;
  } finally {
    await beats.stop();
    if (options.keep) cluster.keep();
    else await cluster.stop();
  }
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  process.stderr.write(`qemu: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
