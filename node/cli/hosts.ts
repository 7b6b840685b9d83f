/** `sojourn hosts`: the cluster as this host sees it. */

import type { Command } from "commander";
import type { HostRow } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatDuration, formatSeen } from "./format.ts";
import { type Column, formatTable } from "./output.ts";

const COLUMNS: readonly Column<HostRow>[] = [
  { title: "HOST", cell: (row) => `${row.hostName}${row.self ? " (this host)" : ""}` },
  { title: "STATE", cell: (row) => row.state },
  { title: "DOMAINS", align: "right", cell: (row) => row.domains?.toString() ?? "-" },
  {
    title: "FREE",
    align: "right",
    cell: (row) => (row.freeBytes === undefined ? "-" : formatSize(row.freeBytes)),
  },
  {
    title: "RTT",
    align: "right",
    cell: (row) => (row.roundTripMs === undefined ? "-" : formatDuration(row.roundTripMs)),
  },
  { title: "SEEN BY", cell: formatSeen },
  { title: "ADDRESS", cell: (row) => row.addresses[0] ?? "-" },
];

export function addHosts(program: Command): void {
  addApiCommand(program, "hosts", {
    summary: "list the hosts of the cluster, as this one sees them",
    example: "sojourn hosts",
  }).action((options: ApiOptions) =>
    withClient(options, async (client) => {
      printResult(options, await client.call("hosts", {}), (rows) => formatTable(COLUMNS, rows));
    }),
  );
}
