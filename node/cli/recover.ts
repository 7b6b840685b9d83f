/** `sojourn recover`: asks both ends of an interrupted handover and does the one right thing. */

import { userInfo } from "node:os";
import { type Command, InvalidArgumentError } from "commander";
import type { RecoverReport } from "../control/api.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { printable } from "./output.ts";

type RecoverOptions = ApiOptions & { adopt?: boolean; reason?: string };

const EXIT_UNDECIDED = 4;

export function addRecover(program: Command): void {
  addApiCommand(program, "recover", {
    summary: "finish or undo an interrupted handover, whichever is right",
    example: "sojourn recover web",
  })
    .argument("<domain>", "name or id")
    .option("--adopt", "your word that the other host is fenced: run the domain here regardless")
    .option("--reason <text>", "why you are certain; recorded with your name and the time")
    .action((domain: string, options: RecoverOptions) => recover(domain, options));
}

async function recover(domain: string, options: RecoverOptions): Promise<void> {
  const { adopt = false, reason } = options;
  if (adopt !== (reason !== undefined))
    throw new InvalidArgumentError("--adopt and --reason belong together");
  const user = userInfo().username;
  await withClient(options, async (client) => {
    const params = reason === undefined ? { domain } : { domain, adopt: { reason, user } };
    const report = await client.call("recover", params);
    printResult(options, report, formatReport);
    if (report.decision === "wait" || report.decision === "conflict") process.exitCode = EXIT_UNDECIDED;
  });
}

function formatReport({ name, found, did, where, advice }: RecoverReport): string {
  const lines = [
    ...found.map((line) => `found  ${line}`),
    ...(did.length === 0 ? ["did    nothing"] : did.map((line) => `did    ${line}`)),
    `now    ${name} is ${where === "unknown" || where === "conflict" ? where : `on ${where}`}`,
    ...(advice === undefined ? [] : [`       ${advice}`]),
  ];
  return `${lines.map(printable).join("\n")}\n`;
}
