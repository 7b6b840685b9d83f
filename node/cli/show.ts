/** `sojourn show`: all that is known of one domain, and where it is safe. */

import type { Command } from "commander";
import type { DomainDetail } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatDuration, formatSeen } from "./format.ts";
import { formatReplica } from "./list.ts";
import { formatFields, printable } from "./output.ts";
import { formatProgress } from "./progress.ts";

export function addShow(program: Command): void {
  addApiCommand(program, "show", {
    summary: "show one domain: its vbds, replicas and guest, and where it is safe",
    example: "sojourn show web",
  })
    .argument("<domain>", "name or id")
    .action((domain: string, options: ApiOptions) =>
      withClient(options, async (client) => {
        printResult(options, await client.call("show", { domain }), formatDetail);
      }),
    );
}

function formatDetail(detail: DomainDetail): string {
  const files = new Map(detail.vbdFiles?.map((file) => [file.name, file]));
  const { lastHop, migration, guest } = detail;
  return `${printable(detail.name)} (${printable(detail.id)})\n${formatFields([
    ["state", detail.stateDetail === undefined ? detail.state : `${detail.state}: ${detail.stateDetail}`],
    ["host", detail.hostName],
    ["generation", detail.generation.toString()],
    ["hypervisor", detail.hypervisor],
    ["memory", formatSize(detail.memoryBytes)],
    ...detail.vbds.map((vbd): [string, string] => {
      const file = files.get(vbd.name);
      const allocated =
        file?.bytesAllocated === undefined ? "" : `, ${formatSize(file.bytesAllocated)} allocated`;
      const place = file === undefined ? "" : `, ${file.attachment}, ${file.path}`;
      return [`vbd ${vbd.name}`, `${formatSize(vbd.sizeBytes)}${allocated}${place}`];
    }),
    ["replicas", detail.replicas.map(formatReplica).join(", ") || "none"],
    ["migration", migration && `${migration.fromName} to ${migration.toName}: ${formatProgress(migration)}`],
    [
      "last hop",
      lastHop && `from ${lastHop.from}, ${lastHop.rung}, downtime ${formatDuration(lastHop.downtimeMs)}`,
    ],
    ["created", detail.createdAt],
    ...Object.entries(guest ?? {}).map(([name, value]): [string, string] => [
      `guest ${name}`,
      formatValue(value),
    ]),
    ["seen by", formatSeen(detail)],
  ])}\n${printable(detail.advice)}\n`;
}

function formatValue(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
