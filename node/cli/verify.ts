/** `sojourn verify`: the guest checks all of its memory and vbds; exit code 1 when it finds an error. */

import type { Command } from "commander";
import type { VerifyReport } from "../control/api.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatCount, formatDuration } from "./format.ts";
import { formatFields, printable } from "./output.ts";

export function addVerify(program: Command): void {
  addApiCommand(program, "verify", {
    summary: "let a domain's guest check all of its memory and vbds",
    example: "sojourn verify web",
  })
    .argument("<domain>", "name or id")
    .action((domain: string, options: ApiOptions) =>
      withClient(options, async (client) => {
        const report = await client.call("verify", { domain });
        printResult(options, report, formatReport);
        if (!report.ok) process.exitCode = 1;
      }),
    );
}

function formatReport(report: VerifyReport): string {
  const verdict = report.ok ? "is whole" : `has ${formatCount(report.errors, "error")}`;
  const checked = [
    report.blocksChecked === undefined ? [] : [formatCount(report.blocksChecked, "block")],
    report.pagesChecked === undefined ? [] : [formatCount(report.pagesChecked, "page")],
  ].flat();
  const what = checked.length === 0 ? "" : `${checked.join(" and ")} checked in `;
  const head = `${printable(report.name)} ${verdict}: ${what}${formatDuration(report.durationMs)}\n`;
  if (report.ok || report.detail === undefined) return head;
  return (
    head + formatFields(Object.entries(report.detail).map(([name, value]) => [name, JSON.stringify(value)]))
  );
}
