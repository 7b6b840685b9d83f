/** `sojourn members`: who belongs to the cluster and who of them is alive, as this host believes. */

import type { Command } from "commander";
import type { MemberRow } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatDuration, formatSeen } from "./format.ts";
import { type Column, formatTable } from "./output.ts";

const COLUMNS: readonly Column<MemberRow>[] = [
  { title: "HOST", cell: (row) => `${row.hostName}${row.self ? " (this host)" : ""}` },
  { title: "STATUS", cell: formatStatus },
  { title: "ADDRESS", cell: (row) => row.addresses[0]?.replace(/\/p2p\/.*$/, "") ?? "-" },
  {
    title: "RTT",
    align: "right",
    cell: (row) => (row.roundTripMs === undefined ? "-" : formatDuration(row.roundTripMs)),
  },
  { title: "DOMAINS", align: "right", cell: (row) => row.domains?.toString() ?? "-" },
  {
    title: "FREE",
    align: "right",
    cell: (row) => (row.freeBytes === undefined ? "-" : formatSize(row.freeBytes)),
  },
  {
    title: "SEEN BY",
    cell: (row) => (row.state === "unknown" || row.state === "revoked" ? "-" : formatSeen(row)),
  },
];

export function addMembers(program: Command): void {
  addApiCommand(program, "members", {
    summary: "list the members of the cluster and who of them is alive, as this host sees them",
    example: "sojourn members",
  }).action((options: ApiOptions) =>
    withClient(options, async (client) => {
      printResult(options, await client.call("members", {}), (rows) => formatTable(COLUMNS, rows));
    }),
  );
}

/** "dead for 12 s, says gamma": a host that is well needs no words. */
function formatStatus({ conflicts, ...row }: MemberRow): string {
  const loud = conflicts === undefined ? "" : `; CONFLICT about ${conflicts.join(", ")}`;
  return `${formatState(row)}${loud}`;
}

function formatState({ state, stateSeconds, accusers, revoked }: MemberRow): string {
  if (revoked !== undefined) return `revoked by ${revoked.byName}: ${revoked.reason}`;
  if (state === "alive" || state === "unknown") return state;
  const since = stateSeconds === undefined ? "" : ` for ${formatDuration(stateSeconds * 1000)}`;
  const says = accusers === undefined ? "" : `, says ${accusers.join(" and ")}`;
  return `${state}${since}${says}`;
}
