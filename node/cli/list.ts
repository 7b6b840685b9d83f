/** `sojourn list`: every domain of the cluster, where it runs, and who could take it back cheaply. */

import type { Command } from "commander";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { DomainRow, ReplicaSummary } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatDuration, formatSeen } from "./format.ts";
import { type Column, formatTable } from "./output.ts";
import { formatShare } from "./progress.ts";

const COLUMNS: readonly Column<DomainRow>[] = [
  { title: "NAME", cell: (row) => row.name },
  { title: "STATE", cell: formatState },
  { title: "HOST", cell: (row) => row.hostName },
  { title: "GEN", align: "right", cell: (row) => row.generation.toString() },
  { title: "MEMORY", align: "right", cell: (row) => formatSize(row.memoryBytes) },
  {
    title: "VBDS",
    cell: (row) => row.vbds.map((vbd) => `${vbd.name}=${formatSize(vbd.sizeBytes)}`).join(", "),
  },
  { title: "REPLICAS", cell: (row) => row.replicas.map(formatReplica).join(", ") || "-" },
  { title: "SEEN BY", cell: formatSeen },
];

export function addList(program: Command): void {
  addApiCommand(program, "list", {
    summary: "list the domains of the cluster",
    example: "sojourn list",
  })
    .alias("ls")
    .action((options: ApiOptions) =>
      withClient(options, async (client) => {
        printResult(options, await client.call("list", {}), (rows) => formatTable(COLUMNS, rows));
      }),
    );
}

function formatState(row: DomainRow): string {
  const { migration, conflict } = row;
  // Loud: nothing else about the domain can be trusted until it is settled.
  if (conflict !== undefined) {
    return `CONFLICT: ${conflict.map(({ hostName, generation }) => `${hostName}:${generation}`).join(" and ")}`;
  }
  if (migration === undefined) return row.state;
  return `${row.state}, ${migration.phase}${formatShare(migration)} to ${migration.toName}`;
}

/** A host's replica as host:age:dirty, the last being what a migration there would have to send. */
export function formatReplica({ hostName, ageSeconds, dirtyBlocks }: ReplicaSummary): string {
  const age = ageSeconds === undefined ? "?" : formatDuration(ageSeconds * 1000).replaceAll(" ", "");
  return `${hostName}:${age}:${dirtyBlocks === undefined ? "?" : formatSize(dirtyBlocks * BLOCK_SIZE_BYTES)}`;
}
