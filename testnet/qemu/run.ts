/**
 * `npm run qemu`: three daemons, and a real Linux that travels among them with its memory and its disks while it
 * works and checks itself. See `--help` and testnet/README.md.
 */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { formatDuration } from "../../node/cli/format.ts";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import type { Cluster } from "../cluster.ts";
import { complain } from "../complaints.ts";
import { GrowthWatch } from "../growth.ts";
import { StatusLine } from "../status-line.ts";
import { hostsOf } from "../tour-options.ts";
import { BeatListener } from "./beat-listener.ts";
import { makeFileSystem } from "./guest-disk.ts";
import { GuestJourney, guestConfig } from "./guest-journey.ts";
import { type MemoryHop, PlainGuest } from "./plain-guest.ts";
import { guestParts, startQemuCluster } from "./qemu-cluster.ts";
import { parseQemuOptions, type QemuRunOptions, qemuHopsOf } from "./qemu-options.ts";
import { formatQemuRun, type QemuHop, summaryOf } from "./qemu-report.ts";

type Travels = {
  hops: readonly QemuHop[];
  baseline: readonly MemoryHop[] | undefined;
  end: Awaited<ReturnType<GuestJourney["finish"]>>;
};

/** A guest's life: its boot, its route, its end. Beside it another one's, whose memory QEMU migrates alone. */
async function travel(
  options: QemuRunOptions,
  parts: { cluster: Cluster; status: StatusLine; beats: BeatListener; beatPath: string; plain: PlainParts },
): Promise<Travels> {
  const journey = new GuestJourney(parts.cluster, { ...parts, options });
  const hops = qemuHopsOf(options);
  const growth = new GrowthWatch(parts.cluster.hosts);
  const ring = options.route.length - 1;
  let plain: PlainGuest | undefined;
  const baseline: MemoryHop[] = [];
  try {
    if (options.baseline) {
      parts.status.update("the guest without us boots");
      plain = await bootPlain(options, parts.plain);
      plain.rest();
    }
    await journey.begin(parts.beatPath);
    for (const hop of hops) {
      const result = await journey.hop(hop);
      if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
      if (result.hop % ring === 0) growth.look();
      if (plain === undefined) continue;
      // One at a time: neither takes the processors from the other.
      journey.rest();
      parts.status.update(`QEMU alone migrates a guest's memory, ${baseline.length + 1} of ${hops.length}`);
      plain.wake();
      await plain.awaitStatus();
      baseline.push(await plain.migrateMemory());
      await plain.awaitStatus();
      plain.rest();
      journey.wake();
    }
    const end = await journey.finish(hops.at(-1)!.to);
    end.checks.push(...growth.checks());
    return { hops: journey.hops, baseline: plain && baseline, end };
  } finally {
    journey.close();
    await plain?.end();
  }
}

type PlainParts = { folder: string; beatPath: string; executable: string; kernelFolder: string };

async function bootPlain(
  options: QemuRunOptions,
  { folder, beatPath, executable, kernelFolder }: PlainParts,
): Promise<PlainGuest> {
  await mkdir(folder);
  const vbds = ["root", "second"].map((name) => ({ name, path: join(folder, `${name}.img`) }));
  await makeFileSystem(vbds[0]!.path, options.diskSize);
  await FileBlockStore.create(vbds[1]!.path, { sizeBytes: options.secondSize }).close();
  return PlainGuest.boot({
    ...{ folder, executable, kernelFolder, vbds },
    acceleration: options.accel,
    memoryBytes: options.memory,
    config: guestConfig(options, beatPath),
  });
}

async function main(): Promise<boolean> {
  const options = parseQemuOptions(process.argv.slice(2));
  const startedAtMs = performance.now();
  const isSilent = options.json === true && !process.stderr.isTTY;
  const status = new StatusLine(isSilent ? { write: () => true } : process.stderr);
  const parts = await guestParts((what) => status.update(what));
  const { packages } = parts;
  status.update("starting the daemons");
  const cluster = await startQemuCluster(hostsOf(options), parts, { acceleration: options.accel });
  const beatPath = join(cluster.folder, "net");
  const beats = await BeatListener.listen(beatPath);
  const plainBeatPath = join(cluster.folder, "plain-net");
  const plainBeats = await BeatListener.listen(plainBeatPath);
  try {
    const plain: PlainParts = {
      folder: join(cluster.folder, "plain"),
      beatPath: plainBeatPath,
      executable: packages.executable,
      kernelFolder: join(cluster.hosts[0]!.dataDir, "kernels"),
    };
    const { hops, baseline, end } = await travel(options, { cluster, status, beats, beatPath, plain });
    status.end();
    const elapsedMs = Math.round(performance.now() - startedAtMs);
    const summary = summaryOf(hops, {
      ...end,
      elapsedMs,
      qemuVersion: packages.version,
      ...(baseline && { baseline }),
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
    await plainBeats.stop();
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
