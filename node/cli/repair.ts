/** `sojourn repair`: the last resort for a damaged data folder, while no daemon uses it. */

import { resolve } from "node:path";
import type { Command } from "commander";
import { defaultDataDir } from "../control/socket-path.ts";
import type { RepairReport } from "../recovery/repair.ts";
import { addCommand, printResult } from "./command.ts";
import { printable } from "./output.ts";

type RepairOptions = { dataDir: string; json?: boolean };

export function addRepair(program: Command): void {
  addCommand(program, "repair", {
    summary: "repair a damaged data folder; its host owns no domain afterwards until its operator says so",
    example: "sojourn repair --data-dir /var/lib/sojourn",
  })
    .option("--data-dir <folder>", "the host's data folder", defaultDataDir())
    .option("--json", "print JSON")
    .action(async ({ dataDir, ...options }: RepairOptions) => {
      const { repairHost } = await import("../recovery/repair.ts");
      printResult(options, await repairHost(resolve(dataDir)), formatReport);
    });
}

function formatReport({ copy, domains, unreadable }: RepairReport): string {
  const lines = [
    `repaired; as it was before it is ${copy}`,
    ...unreadable.map((key) => `cannot be read  ${key}`),
    ...domains.map((name) => `nobody's now    ${name}`),
  ];
  if (domains.length > 0) {
    lines.push(
      "What was read back may be older than the truth. After `sojourn up`, `sojourn list` says which of them another",
      "host has. One that is nowhere else runs here again with `sojourn recover DOMAIN --adopt --reason TEXT`.",
    );
  }
  return `${lines.map(printable).join("\n")}\n`;
}
