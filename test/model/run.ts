/**
 * `npm run model`: explores every interleaving of the real state machines, within the bounds that its table states.
 *
 *   --hosts 2|3      only scenarios of so many hosts
 *   --faults N       so many faults in one trace, instead of the scenario's own bound
 *   --only NAME      one scenario
 *   --states N       give a scenario up after so many states
 *   --mutant NAME    break one rule on purpose: the checker has to find it; `--mutant all` tries each
 *   --json           figures for programs
 */

import { parseArgs } from "node:util";
import { type Exploration, explore } from "./explore.ts";
import { type Mutant, mutants } from "./mutants.ts";
import { startOf } from "./reach.ts";
import { realParts, type Scenario, scenarios } from "./scenarios.ts";
import type { Parts } from "./state.ts";

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    hosts: { type: "string" },
    states: { type: "string", default: "20000000" },
    mutant: { type: "string" },
    only: { type: "string" },
    faults: { type: "string" },
  },
});

type Row = Exploration & { scenario: string; hosts: number; faults: readonly string[]; faultsMax: number };

const COLUMNS = ["scenario", "hosts", "hops", "faults", "writes", "states", "transitions", "moves", "CPU s"];
const WIDTHS = [26, 6, 8, 7, 7, 10, 12, 6, 7];

const rows: (Row & { mutant?: string })[] = [];
let failures = 0;
if (values.mutant === undefined) runScenarios();
else runMutants(values.mutant);
if (values.json) print(JSON.stringify(rows));
if (failures > 0) process.exitCode = 1;

function runScenarios(): void {
  const chosen = scenarios.filter(({ hosts, name }) => {
    return (values.hosts === undefined || hosts === Number(values.hosts)) && (values.only ?? name) === name;
  });
  tell(columns(COLUMNS));
  for (const bounded of chosen) {
    const faultsMax = values.faults === undefined ? bounded.faultsMax : Number(values.faults);
    const scenario = { ...bounded, faultsMax };
    const result = run(scenario, realParts);
    const { states, transitions, depth, cpuSeconds, isComplete, violation, ends } = result;
    const hops = scenario.plan.map(({ from, to }) => `${from}${to}`).join(" ");
    const bounds = [scenario.name, scenario.hosts, hops, `≤ ${faultsMax}`, scenario.writes];
    tell(columns([...bounds, states, transitions, depth, cpuSeconds.toFixed(1)]));
    if (faultsMax > 0) tell(`    of ${scenario.faults.join(", ")}`);
    if (violation === undefined) {
      const shown = Object.entries(ends).map(([end, count]) => `${end} ${count}`);
      tell(
        `    ${isComplete ? "all explored, holds" : "NOT ALL EXPLORED, holds so far"}; ends: ${shown.join(", ")}`,
      );
    }
    if (violation !== undefined || !isComplete) failures += 1;
    tellTrace(result);
  }
  const total = (of: (row: Row) => number): number => rows.reduce((sum, row) => sum + of(row), 0);
  const sums = [total((row) => row.states), total((row) => row.transitions)];
  tell(columns(["together", "", "", "", "", ...sums, "", total((row) => row.cpuSeconds).toFixed(1)]));
}

function runMutants(wanted: string): void {
  const chosen = mutants.filter(({ name }) => wanted === "all" || name === wanted);
  if (chosen.length === 0) {
    process.stderr.write(`no mutant is called ${wanted}: ${mutants.map(({ name }) => name).join(", ")}\n`);
    process.exitCode = 2;
  }
  for (const mutant of chosen) tryMutant(mutant);
  tell(`${chosen.length - failures} of ${chosen.length} seeded bugs found`);
}

function tryMutant({ name, breaks, parts, scenario }: Mutant): void {
  const result = run(scenario, parts, name);
  const { violation, states, cpuSeconds } = result;
  const fate = violation === undefined ? "NOT FOUND" : "found";
  tell(`${name}: ${fate} after ${states} states, ${cpuSeconds.toFixed(1)} s; it breaks: ${breaks}`);
  if (violation === undefined) failures += 1;
  tellTrace(result);
}

function run(scenario: Scenario, parts: Parts, mutant?: string): Exploration {
  const { name, plan, faults, faultsMax, hosts } = scenario;
  const result = explore(startOf(scenario, parts), { parts, plan }, { statesMax: Number(values.states) });
  const bounds = { scenario: name, hosts, faults, faultsMax };
  rows.push({ ...(mutant === undefined ? {} : { mutant }), ...bounds, ...result });
  return result;
}

function tellTrace({ violation }: Exploration): void {
  if (violation === undefined) return;
  tell(`    BROKEN: ${violation.rule}`);
  for (const [index, line] of violation.trace.entries())
    tell(`    ${String(index + 1).padStart(3)}  ${line}`);
}

/** The first to the left, figures to the right. */
function columns(cells: readonly (string | number)[]): string {
  const padded = cells.map((cell, index) => {
    const text = String(cell);
    return index === 0 ? text.padEnd(WIDTHS[index]!) : text.padStart(WIDTHS[index]!);
  });
  return padded.join("");
}

function tell(line: string): void {
  if (!values.json) print(line);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
