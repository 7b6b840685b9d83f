/**
 * `npm run tour`: daemons of their own keys, folders and ports on this machine, and a domain that travels among
 * them with its memory and its disk while it works. Every hop is checked; see `--help` and testnet/README.md.
 */

import { stat } from "node:fs/promises";
import { formatDuration } from "../node/cli/format.ts";
import { formatProgress } from "../node/cli/progress.ts";
import { formatSize } from "../node/sizes.ts";
import { Cluster, type ClusterHost, removeCluster } from "./cluster.ts";
import { complain } from "./complaints.ts";
import {
  blocksWritten,
  type GuestFigures,
  guestFigures,
  guestIsFilled,
  guestProcesses,
  runningOn,
} from "./guest.ts";
import { StatusLine } from "./status-line.ts";
import { type Check, check, checkHop } from "./tour-checks.ts";
import { type Hop, hopsOf, hostsOf, parseTourOptions, type TourOptions } from "./tour-options.ts";
import { formatFailures, formatTour, type HopResult, type TourSummary } from "./tour-report.ts";
import { type BlockSums, countDiffering, countNonZero, readBlockSums, sha256OfFile } from "./vbd-blocks.ts";

const DOMAIN = "tour";
const IMAGE = "image";

class Tour {
  readonly #cluster: Cluster;
  readonly #options: TourOptions;
  readonly #status: StatusLine;
  /** Per host that the domain has left: its vbds as they were left, in the domain's order. */
  readonly #left = new Map<string, readonly BlockSums[]>();
  /** The guest's, by the host that it left then. */
  readonly #figuresAtLeaving = new Map<string, GuestFigures>();
  readonly hops: HopResult[] = [];

  constructor(cluster: Cluster, { options, status }: { options: TourOptions; status: StatusLine }) {
    this.#cluster = cluster;
    this.#options = options;
    this.#status = status;
  }

  /** Creates the domain on the route's first host, and waits until its guest has filled the vbd. */
  async begin(): Promise<void> {
    const { route, workload, seed, fill, memory, diskSize, image } = this.#options;
    const host = this.#cluster.host(route[0]!);
    this.#status.update(`creating ${DOMAIN} on ${host.name}`);
    await host.call("create", {
      name: DOMAIN,
      hypervisor: "wasm",
      memoryBytes: memory,
      vbds: [{ name: "root", sizeBytes: diskSize }, ...(image === undefined ? [] : [{ name: IMAGE, image }])],
      config: JSON.stringify({
        workload,
        seed,
        fillBytes: fill,
        ...(image === undefined ? {} : { imageVbds: [IMAGE] }),
      }),
    });
    await guestIsFilled(host, {
      domain: DOMAIN,
      onFigures: ({ filledBytes, fillBytes }) =>
        this.#status.update(
          `the guest fills its vbd on ${host.name}`,
          `${formatSize(filledBytes)} of ${formatSize(fillBytes)}`,
        ),
    });
  }

  async hop({ from, to }: Hop): Promise<HopResult> {
    const [source, destination] = [this.#cluster.host(from), this.#cluster.host(to)];
    const hop = this.hops.length + 1;
    const title = `hop ${hop}, ${from} -> ${to}`;
    const before = await guestFigures(source, DOMAIN);
    const linkBefore = this.#linkBytes(to);
    const report = await source.call(
      "migrate",
      { domain: DOMAIN, to },
      {
        onEvent: (progress) =>
          this.#status.update(
            `${title}: ${progress.phase}`,
            formatProgress(progress).replace(/^[^,]*, /, ""),
          ),
      },
    );
    const linkAfter = this.#linkBytes(to);
    this.#status.update(`${title}: the guest verifies its disk and memory`);
    const verify = await destination.call("verify", { domain: DOMAIN });
    const after = await guestFigures(destination, DOMAIN);

    const replica = this.#left.get(to);
    const figuresThen = this.#figuresAtLeaving.get(to);
    const left = await this.#vbdsOf(source);
    this.#left.set(from, left);
    this.#figuresAtLeaving.set(from, before);
    const evidence = {
      report,
      isReturn: replica !== undefined,
      allocatedBlocks: left.reduce((sum, sums) => sum + countNonZero(sums), 0),
      differingBlocks: replica?.reduce((sum, sums, index) => sum + countDiffering(sums, left[index]!), 0),
      writtenBlocksMax: figuresThen === undefined ? undefined : blocksWritten(figuresThen, after),
      verify,
      before,
      after,
      runningOn: await runningOn(this.#cluster, DOMAIN),
      guestProcesses: await guestProcesses(this.#cluster),
      linkBytes: linkBefore === undefined ? undefined : linkAfter! - linkBefore,
    };
    const result: HopResult = {
      hop,
      ...report,
      verified: verify.ok,
      isReturn: evidence.isReturn,
      blocksAllocated: evidence.allocatedBlocks,
      ...(evidence.differingBlocks === undefined ? {} : { blocksDiffering: evidence.differingBlocks }),
      ...(evidence.linkBytes === undefined ? {} : { linkBytes: evidence.linkBytes }),
      verifyMs: verify.durationMs,
      checks: checkHop(evidence),
    };
    this.hops.push(result);
    return result;
  }

  async restartDaemons(): Promise<void> {
    this.#status.update("restarting every daemon; the guest runs on");
    await Promise.all(this.#cluster.hosts.map((host) => host.restart()));
  }

  /** What can be said once the domain is at its last host. */
  async finish(
    last: string,
  ): Promise<{ checks: Check[]; summary: Omit<TourSummary, "ok" | "failed" | "elapsedMs"> }> {
    const { workload, seed, fill, memory, diskSize, image } = this.#options;
    const host = this.#cluster.host(last);
    const { errors, firstErrors, imagePasses } = await guestFigures(host, DOMAIN);
    const checks = [
      check(
        "the guest found no error in its life",
        errors === 0,
        `${errors} errors: ${firstErrors.join("; ")}`,
      ),
    ];
    const summary = {
      checks: this.hops.reduce((sum, hop) => sum + hop.checks.length, 0),
      route: [this.hops[0]!.from, ...this.hops.map(({ to }) => to)],
      workload,
      seed,
      diskSizeBytes: diskSize,
      fillBytes: fill,
      memoryBytes: memory,
      guestErrors: errors,
    };
    if (image === undefined)
      return { checks, summary: { ...summary, checks: summary.checks + checks.length } };
    this.#status.update("comparing the image with its source");
    const [there, here] = await Promise.all([
      sha256OfFile(await this.#pathOf(host, IMAGE)),
      sha256OfFile(image),
    ]);
    checks.push(
      check("the image arrived bit-identical", there === here, `sha256 ${there} on ${last}, ${here} given`),
      check("the guest has read the image whole", imagePasses > 0, `${imagePasses} passes`),
    );
    return {
      checks,
      summary: {
        ...summary,
        checks: summary.checks + checks.length,
        image: { path: image, sizeBytes: (await stat(image)).size, sha256: here, identical: there === here },
      },
    };
  }

  async #pathOf(host: ClusterHost, vbd: string): Promise<string> {
    const { vbdFiles = [] } = await host.call("show", { domain: DOMAIN });
    const file = vbdFiles.find(({ name }) => name === vbd);
    if (file === undefined) throw new Error(`${host.name} knows no vbd ${vbd} of ${DOMAIN}`);
    return file.path;
  }

  /** Of a host that the domain has left: nobody writes to them. */
  async #vbdsOf(host: ClusterHost): Promise<readonly BlockSums[]> {
    const vbds = ["root", ...(this.#options.image === undefined ? [] : [IMAGE])];
    this.#status.update(`reading what was left on ${host.name}`);
    return Promise.all(vbds.map(async (vbd) => readBlockSums(await this.#pathOf(host, vbd))));
  }

  /** Sent to the host by whoever dialled it; no other domain is on the move. */
  #linkBytes(to: string): number | undefined {
    return this.#cluster.links.find(({ host }) => host === to)?.data.bytes().sent;
  }
}

async function main(): Promise<boolean> {
  const options = parseTourOptions(process.argv.slice(2));
  if (options.end !== undefined) {
    removeCluster(options.end);
    return true;
  }
  const startedAtMs = performance.now();
  const isSilent = options.json === true && !process.stderr.isTTY;
  const status = new StatusLine(isSilent ? { write: () => true } : process.stderr);
  const names = hostsOf(options);
  status.update(`starting ${names.length} daemons`);
  const cluster = await Cluster.start({
    names,
    ...(options.links ? { links: "data" } : {}),
    ...(options.folder === undefined ? {} : { within: options.folder }),
  });
  try {
    const tour = new Tour(cluster, { options, status });
    await tour.begin();
    const hops = hopsOf(options);
    for (const [index, hop] of hops.entries()) {
      if (options.restartDaemons && index > 0) await tour.restartDaemons();
      const result = await tour.hop(hop);
      if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    }
    const { checks, summary } = await tour.finish(hops.at(-1)!.to);
    status.end();
    const failures = formatFailures(tour.hops, checks);
    const isOk = failures === "";
    const elapsedMs = Math.round(performance.now() - startedAtMs);
    const whole: TourSummary = { ok: isOk, failed: failures.split("\n").slice(0, -1), ...summary, elapsedMs };
    if (options.json) process.stdout.write(`${JSON.stringify({ summary: whole })}\n`);
    else process.stdout.write(`${formatTour(tour.hops, options)}\n${verdict(whole)}\n`);
    process.stderr.write(failures);
    if (!isOk) await complain(cluster);
    if (options.keep) sayGoodbye(cluster, hops.at(-1)!.to);
    return isOk;
  } catch (error) {
    status.end();
    await complain(cluster);
    if (options.keep) cluster.keep();
    throw error;
  } finally {
    if (!options.keep) await cluster.stop();
  }
}

function verdict({ ok, checks, failed, elapsedMs, seed, image }: TourSummary): string {
  const picture =
    image === undefined ? "" : ` The image is ${image.identical ? "bit-identical" : "NOT the same"}.`;
  const result = ok ? `All ${checks} checks passed` : `${failed.length} of ${checks} checks FAILED`;
  return `${result} in ${formatDuration(elapsedMs)}, seed ${seed}.${picture}`;
}

function sayGoodbye(cluster: Cluster, last: string): void {
  cluster.keep();
  const other = cluster.hosts.find(({ name }) => name !== last)!.name;
  const sojourn = (words: string, host: string): string =>
    `  npm run -s sojourn -- ${words} --address ${cluster.host(host).socketPath}\n`;
  process.stderr.write(
    [
      `\nThe cluster stays: its folder is ${cluster.folder}, with a log per host.\n`,
      ...cluster.hosts.map(({ name }) => sojourn("list", name)),
      sojourn(`show ${DOMAIN}`, last),
      sojourn(`plan ${DOMAIN}`, last),
      sojourn(`migrate ${DOMAIN} ${other}`, last),
      sojourn(`history ${DOMAIN}`, last),
      `End it:\n  npm run tour -- --end ${cluster.folder}\n`,
    ].join(""),
  );
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  process.stderr.write(`tour: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
