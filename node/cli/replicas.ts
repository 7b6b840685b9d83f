/** `sojourn replicas`: the kept copies of domains, and how far each is behind. */

import type { Command } from "commander";
import type { ReplicaRow } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatSeen } from "./format.ts";
import { type Column, formatTable } from "./output.ts";

const COLUMNS: readonly Column<ReplicaRow>[] = [
  { title: "DOMAIN", cell: (row) => row.name },
  { title: "HOST", cell: (row) => row.hostName },
  { title: "GEN", align: "right", cell: (row) => `${row.generation} of ${row.ownerGeneration}` },
  { title: "BEHIND", align: "right", cell: (row) => size(row.dirtyBytes) },
  { title: "ALLOCATED", align: "right", cell: (row) => size(row.bytesAllocated) },
  { title: "SEEN BY", cell: formatSeen },
];

export function addReplicas(program: Command): void {
  addApiCommand(program, "replicas", {
    summary: "list the kept copies of a domain, or of all, and how far each is behind",
    example: "sojourn replicas web",
  })
    .argument("[domain]", "name or id")
    .action((domain: string | undefined, options: ApiOptions) =>
      withClient(options, async (client) => {
        const rows = await client.call("replicas", domain === undefined ? {} : { domain });
        printResult(options, rows, () => formatTable(COLUMNS, rows));
      }),
    );
}

function size(bytes: number | undefined): string {
  return bytes === undefined ? "-" : formatSize(bytes);
}
