/** `sojourn migrate`: moves a running domain, shows how it goes, and says what it cost. */

import type { Command } from "commander";
import type { Api, HopReport } from "../control/api.ts";
import type { ControlClient } from "../control/client.ts";
import { formatSize } from "../sizes.ts";
import { integer, size } from "./arguments.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatCount, formatDuration } from "./format.ts";
import { formatFields, printable } from "./output.ts";
import { type ProgressPrinter, progressPrinter } from "./progress.ts";

type MigrateCliOptions = ApiOptions & {
  detach?: boolean;
  iterations?: number;
  hotSends?: number;
  slowWrites?: number;
  bandwidth?: number;
};

const EXIT_FAILED_AT_DESTINATION = 3;

/** As a shell reports a program that its user interrupted. */
const EXIT_INTERRUPTED = 130;

export function addMigrate(program: Command): void {
  addApiCommand(program, "migrate", {
    summary: "move a running domain with its vbds to another host",
    example: "sojourn migrate web beta",
  })
    .argument("<domain>", "name or id")
    .argument("<host>", "name or id")
    .option("--detach", "return as soon as the migration is under way")
    .option(
      "--iterations <n>",
      "pre-copy iterations before the domain is frozen regardless",
      integer({ min: 1 }),
    )
    .option(
      "--hot-sends <n>",
      "a block that was sent so often and is dirty again waits for post-copy",
      integer({ min: 1, max: 1000 }),
    )
    .option(
      "--slow-writes <percent>",
      "the domain's writes may be slowed by so much, if they come faster than they can be sent",
      integer({ min: 0, max: 95 }),
    )
    .option("--bandwidth <size>", "bytes per second that the migration may send", size)
    .option("--live", "accepted and ignored: every migration is live")
    .addHelpText(
      "after",
      `
Exit codes:
  0  done
  1  failed, the domain is safe at the source
  2  usage
  3  failed, the domain is safe at the destination
  4  undecided, run recover
Ctrl-C detaches: the migration goes on.`,
    )
    .action((domain: string, to: string, options: MigrateCliOptions) =>
      withClient(options, (client) => migrate(client, { domain, to, options })),
    );
}

type Wish = { domain: string; to: string; options: MigrateCliOptions };

async function migrate(client: ControlClient, { domain, to, options }: Wish): Promise<void> {
  const printer = printerFor(`${domain} to ${to}`, options);
  const leave = new AbortController();
  // These stay: a second Ctrl-C must not cut off what the first one makes us say.
  process.on("SIGINT", () => leave.abort("interrupted"));
  process.on("SIGTERM", () => leave.abort("interrupted"));
  try {
    const report = await client.call("migrate", paramsOf({ domain, to, options }), {
      signal: leave.signal,
      onEvent(progress) {
        printer.update(progress);
        if (options.detach) leave.abort("detached");
      },
    });
    printer.end();
    printResult(options, report, formatReport);
    // The domain runs at the destination, and what it runs on is not what it had: nobody may overlook that.
    if (report.verified === false) process.exitCode = EXIT_FAILED_AT_DESTINATION;
  } catch (cause) {
    printer.end();
    if (!leave.signal.aborted) throw cause;
    process.stderr.write(
      `detached: the migration of ${printable(domain)} to ${printable(to)} goes on.\n` +
        `Watch it with \`sojourn list\`, cancel it with \`sojourn cancel ${printable(domain)}\`.\n`,
    );
    process.exitCode = leave.signal.reason === "interrupted" ? EXIT_INTERRUPTED : 0;
  }
}

function paramsOf({ domain, to, options }: Wish): Api["migrate"]["params"] {
  const { iterations, hotSends, slowWrites, bandwidth } = options;
  return {
    domain,
    to,
    options: {
      ...(iterations === undefined ? {} : { iterationsMax: iterations }),
      ...(hotSends === undefined ? {} : { hotSendsMax: hotSends }),
      ...(slowWrites === undefined ? {} : { writeSlowdownMax: slowWrites / 100 }),
      ...(bandwidth === undefined ? {} : { bandwidthMaxBytesPerSecond: bandwidth }),
    },
  };
}

/** A program that asked for JSON gets it alone: progress is for terminals and for people's logs. */
function printerFor(title: string, options: MigrateCliOptions): ProgressPrinter {
  if (options.json && !process.stderr.isTTY) return { update() {}, end() {} };
  return progressPrinter(process.stderr, title);
}

export function formatReport(report: HopReport): string {
  const resent = report.blocksResent > 0 ? `, ${formatCount(report.blocksResent, "block")} sent again` : "";
  const head = `${report.domain} moved from ${report.from} to ${report.to}: generation ${report.generation}`;
  return `${printable(head)}\n${formatFields([
    ["rung", `${report.rung}: ${report.reason}`],
    [
      "disk",
      `${formatSize(report.diskBytesSent)} sent for ${formatCount(report.blocksChanged, "changed block")} in ` +
        `${formatCount(report.iterations, "iteration")}${resent}; ${formatSize(report.bytesAllocated)} allocated`,
    ],
    ["writes", report.writeShare < 1 ? `slowed to ${Math.round(report.writeShare * 100)} %` : undefined],
    ["memory", `${formatSize(report.memoryBytesSent)} sent`],
    ["post-copy", `${report.pushed} pushed, ${report.pulled} pulled, ${report.superseded} superseded`],
    ["downtime", formatDuration(report.downtimeMs)],
    ["disruption", formatDuration(report.disruptionMs)],
    ["total", formatDuration(report.totalMs)],
    ["verified", report.verified === undefined ? undefined : report.verified ? "yes" : "NO: the vbds differ"],
  ])}`;
}
