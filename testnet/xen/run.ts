/**
 * `npm run xen`: nested Xen hosts, and a PVH domain that travels among them with its memory and its disks while it
 * works and checks itself. `--help` says more; testnet/xen/README.md what it shows and what is not there yet.
 */

import { join } from "node:path";
import { formatDuration } from "../../node/cli/format.ts";
import { StatusLine } from "../status-line.ts";
import type { Check } from "../tour-checks.ts";
import { hopsOf, hostsOf } from "../tour-options.ts";
import { xenImages } from "./dom0-image.ts";
import { xenPackages } from "./packages.ts";
import { daemonLog, XenCluster } from "./xen-cluster.ts";
import { parseXenOptions, type XenRunOptions } from "./xen-options.ts";
import { formatXenRun, summaryOf } from "./xen-report.ts";
import { CONSOLES, XenRun } from "./xen-run.ts";

const CACHE = join(import.meta.dirname, "..", "..", ".cache", "xen");
const QEMU = "qemu-system-x86_64";

async function main(): Promise<boolean> {
  const options = parseXenOptions(process.argv.slice(2));
  const startedAtMs = performance.now();
  const status = new StatusLine(process.stderr);
  const say = (what: string): void => status.update(what);
  const packages = await xenPackages(CACHE, say);
  const images = await xenImages(packages, { cacheDir: CACHE, say });
  let started: XenCluster | undefined;
  const end = async (): Promise<void> => {
    await started?.stop();
    process.exit(130);
  };
  process.once("SIGINT", () => void end());
  process.once("SIGTERM", () => void end());
  const cluster = await XenCluster.start(hostsOf(options), { images, qemu: QEMU, say });
  started = cluster;
  const run = new XenRun(cluster, options, say);
  try {
    await run.begin();
    const isJourney = options.fast === true || options.break.length === 0;
    const start = isJourney ? await journey(run, options) : options.route[0]!;
    const { at, checks } = await breakAll(run, { steps: options.break, start });
    const finished = await run.finish(at);
    const last = { ...finished, checks: [...checks, ...finished.checks] };
    status.end();
    const elapsedMs = Math.round(performance.now() - startedAtMs);
    const summary = summaryOf(run.hops, { ...last, elapsedMs, xenVersion: packages.xenVersion });
    if (options.json) process.stdout.write(`${JSON.stringify({ summary })}\n`);
    else process.stdout.write(formatXenRun(run.hops, summary));
    for (const failure of summary.failed) process.stderr.write(`FAILED ${failure}\n`);
    if (!summary.ok) await complain(cluster);
    else if (!options.json) process.stdout.write(`All checks passed in ${formatDuration(elapsedMs)}.\n`);
    if (options.keep) await new Promise(() => {});
    return summary.ok;
  } catch (error) {
    status.end();
    await complain(cluster);
    if (options.keep) {
      process.stderr.write(`${(error as Error).stack}\n`);
      await new Promise(() => {});
    }
    throw error;
  } finally {
    await cluster.stop();
  }
}

/** Returns where it ends. */
async function journey(run: XenRun, options: XenRunOptions): Promise<string> {
  const hops = hopsOf(options);
  for (const hop of hops) {
    const result = await run.hop(hop);
    if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
  }
  return hops.at(-1)!.to;
}

/** One after the other, each from where the one before has left the domain. */
async function breakAll(
  run: XenRun,
  { steps, start }: { steps: readonly string[]; start: string },
): Promise<{ at: string; checks: Check[] }> {
  const checks: Check[] = [];
  let at = start;
  for (const step of steps) {
    const result = await run.break(step, at);
    process.stdout.write(`${JSON.stringify(result)}\n`);
    at = result.runsOn;
    checks.push(...result.checks);
  }
  return { at, checks };
}

/** What the daemons and Xen have to say about it. */
async function complain(cluster: XenCluster): Promise<void> {
  for (const host of cluster.hosts) {
    const said = await daemonLog(host, 25).catch((error: unknown) => String(error));
    const { output = "" } = await host
      .run(
        `xl list; tail -n 8 ${CONSOLES} /var/lib/sojourn/data/run/*/guest.log /var/log/xen/xen-hotplug.log`,
      )
      .catch(() => ({ output: "" }));
    process.stderr.write(`--- ${host.name}\n${said}\n${output}\n`);
  }
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  process.stderr.write(`xen: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
