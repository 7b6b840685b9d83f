/** `sojourn history`: the stays of a domain, generation by generation, and the hops between them. */

import type { Command } from "commander";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { CustodyReport, HistoryRow } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatDuration } from "./format.ts";
import { type Column, formatTable, printable } from "./output.ts";

const COLUMNS: readonly Column<HistoryRow>[] = [
  { title: "GEN", align: "right", cell: (row) => row.generation.toString() },
  { title: "HOST", cell: (row) => row.hostName },
  { title: "SINCE", cell: (row) => row.startedAt ?? "-" },
  {
    title: "WRITTEN",
    align: "right",
    cell: (row) => (row.blocksWritten === undefined ? "-" : formatSize(row.blocksWritten * BLOCK_SIZE_BYTES)),
  },
  { title: "RUNG", cell: (row) => row.hop?.rung ?? "-" },
  { title: "DISK SENT", align: "right", cell: (row) => (row.hop ? formatSize(row.hop.diskBytesSent) : "-") },
  { title: "DOWNTIME", align: "right", cell: (row) => (row.hop ? formatDuration(row.hop.downtimeMs) : "-") },
  { title: "TOTAL", align: "right", cell: (row) => (row.hop ? formatDuration(row.hop.totalMs) : "-") },
];

const CERTIFICATES: readonly Column<CustodyReport["certificates"][number]>[] = [
  { title: "GEN", align: "right", cell: (row) => row.generation.toString() },
  { title: "HOW", cell: (row) => row.kind },
  { title: "FROM", cell: (row) => row.fromName },
  { title: "TO", cell: (row) => row.toName },
  { title: "WHEN", cell: (row) => new Date(row.timeMs).toISOString() },
  { title: "SIGNED BY", cell: (row) => row.signedBy.join(", ") },
  { title: "WROTE", cell: (row) => row.digest.slice(0, 16) },
];

function formatCustody({ certificates, problems, incomplete }: CustodyReport): string {
  if (certificates.length === 0) return "no handover yet: the domain is where it was created\n";
  const first = certificates[0]!.generation;
  const verdict =
    problems.length > 0
      ? problems.map((problem) => `NOT SOUND: ${printable(problem)}\n`).join("")
      : `sound from generation ${first} on: every certificate is signed by whom it names and follows the one before it\n`;
  const rest = incomplete.length === 0 ? "" : `not countersigned yet: generation ${incomplete.join(", ")}\n`;
  return `${formatTable(CERTIFICATES, certificates)}${verdict}${rest}`;
}

export function addHistory(program: Command): void {
  addApiCommand(program, "history", {
    summary: "list a domain's stays on hosts, and what each hop cost",
    example: "sojourn history web",
  })
    .argument("<domain>", "name or id")
    .option("--verify", "show and check the certificates of custody, signed by both hosts of each hop")
    .action((domain: string, options: ApiOptions & { verify?: boolean }) =>
      withClient(options, async (client) => {
        if (options.verify) {
          const report = await client.call("custody", { domain });
          printResult(options, report, formatCustody);
          if (report.problems.length > 0) process.exitCode = 1;
          return;
        }
        printResult(options, await client.call("history", { domain }), (rows) => formatTable(COLUMNS, rows));
      }),
    );
}
