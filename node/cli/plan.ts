/** `sojourn plan`: what a migration to each host would cost, before anything is touched. */

import type { Command } from "commander";
import type { PlanRow, PlanVbd } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { type Column, formatTable } from "./output.ts";

type PlanLine = { row: PlanRow; vbd?: PlanVbd; first: boolean };

const COLUMNS: readonly Column<PlanLine>[] = [
  { title: "TO", cell: ({ row, first }) => (first ? row.hostName : "") },
  {
    title: "TOTAL",
    align: "right",
    cell: ({ row, vbd, first }) => (first && vbd ? formatSize(row.bytes) : ""),
  },
  { title: "VBD", cell: ({ vbd }) => vbd?.name ?? "-" },
  { title: "RUNG", cell: ({ vbd }) => vbd?.rung ?? "-" },
  { title: "BLOCKS", align: "right", cell: ({ vbd }) => vbd?.blocks.toString() ?? "-" },
  { title: "BYTES", align: "right", cell: ({ vbd }) => (vbd === undefined ? "-" : formatSize(vbd.bytes)) },
  {
    title: "WHY",
    cell: ({ row, vbd }) => row.refusal ?? vbd?.reason ?? (row.reachable ? "-" : "not reachable"),
  },
];

export function addPlan(program: Command): void {
  addApiCommand(program, "plan", {
    summary: "say what a migration of a domain to each host would send, and why",
    example: "sojourn plan web",
  })
    .argument("<domain>", "name or id")
    .action((domain: string, options: ApiOptions) =>
      withClient(options, async (client) => {
        printResult(options, await client.call("plan", { domain }), (rows) =>
          formatTable(COLUMNS, rows.flatMap(linesOf)),
        );
      }),
    );
}

/** One line per vbd; a host that would refuse, or does not answer, has one line with the reason. */
function linesOf(row: PlanRow): PlanLine[] {
  if (!row.reachable || row.refusal !== undefined || row.vbds.length === 0) return [{ row, first: true }];
  return row.vbds.map((vbd, index) => ({ row, vbd, first: index === 0 }));
}
