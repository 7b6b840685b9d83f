/** `sojourn history`: the stays of a domain, generation by generation, and the hops between them. */

import type { Command } from "commander";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { HistoryRow } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatDuration } from "./format.ts";
import { type Column, formatTable } from "./output.ts";

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

export function addHistory(program: Command): void {
  addApiCommand(program, "history", {
    summary: "list a domain's stays on hosts, and what each hop cost",
    example: "sojourn history web",
  })
    .argument("<domain>", "name or id")
    .action((domain: string, options: ApiOptions) =>
      withClient(options, async (client) => {
        printResult(options, await client.call("history", { domain }), (rows) => formatTable(COLUMNS, rows));
      }),
    );
}
