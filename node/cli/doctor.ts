/** `sojourn doctor`: what this host can do, and what it lacks. Changes nothing; needs no daemon. */

import { resolve } from "node:path";
import type { Command } from "commander";
import { defaultDataDir } from "../control/socket-path.ts";
import type { Finding } from "../doctor/finding.ts";
import { addCommand, printResult } from "./command.ts";
import { printable } from "./output.ts";

type DoctorOptions = { dataDir?: string; json?: boolean };

export function addDoctor(program: Command): void {
  addCommand(program, "doctor", {
    summary: "what this host can do and what it lacks, with what that costs and the remedy",
    example: "sojourn doctor",
  })
    .option("--data-dir <folder>", "the host's data folder", defaultDataDir())
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Exit codes:
  0  a daemon can run here
  1  it cannot: see the lines that say "missing" and "needed"`,
    )
    .action(async ({ dataDir = defaultDataDir(), ...options }: DoctorOptions) => {
      const { examineHost } = await import("../doctor/host.ts");
      const findings = await examineHost(resolve(dataDir));
      printResult(options, { findings }, () => formatFindings(findings));
      if (findings.some(({ state, isNeeded = false }) => state === "missing" && isNeeded))
        process.exitCode = 1;
    });
}

export function formatFindings(findings: readonly Finding[]): string {
  const whatWidth = Math.max(...findings.map(({ what }) => what.length));
  const stateWidth = "limited".length;
  const indent = " ".repeat(stateWidth + whatWidth + 4);
  const lines = findings.flatMap(({ what, state, found, costs, remedy, isNeeded = false }) => [
    `${state.padEnd(stateWidth)}  ${what.padEnd(whatWidth)}  ${found}${isNeeded && state === "missing" ? " (needed)" : ""}`,
    ...(costs === undefined ? [] : [`${indent}costs   ${costs}`]),
    ...(remedy === undefined ? [] : [`${indent}remedy  ${remedy}`]),
  ]);
  return `${lines.map(printable).join("\n")}\n`;
}
