/**
 * `npm run model`: explores every interleaving of the real state machines, within stated bounds.
 *
 *   --hosts 2|3      only scenarios of so many hosts
 *   --depth N        no trace longer than this
 *   --faults N       so many faults in one trace, instead of the scenario's own bound
 *   --only NAME      one scenario
 *   --states N       give a scenario up after so many states
 *   --mutant NAME    break one rule on purpose: the checker has to find it; `--mutant all` tries each
 *   --json           figures for programs
 */

import { parseArgs } from "node:util";
import { type Exploration, explore } from "./explore.ts";
import { mutants } from "./mutants.ts";
import { startOf } from "./reach.ts";
import { realParts, type Scenario, scenarios } from "./scenarios.ts";
import type { Parts } from "./state.ts";

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    hosts: { type: "string" },
    depth: { type: "string", default: "1000" },
    states: { type: "string", default: "3000000" },
    mutant: { type: "string" },
    only: { type: "string" },
    faults: { type: "string" },
  },
});

const limits = { depthMax: Number(values.depth), statesMax: Number(values.states) };
const all: object[] = [];
let failures = 0;

if (values.mutant === undefined) {
  const chosen = scenarios.filter(({ hosts, name }) => {
    return (values.hosts === undefined || hosts === Number(values.hosts)) && (values.only ?? name) === name;
  });
  for (const bounded of chosen) {
    const faultsMax = values.faults === undefined ? bounded.faultsMax : Number(values.faults);
    const result = run({ ...bounded, faultsMax }, realParts);
    if (result.violation !== undefined) failures += 1;
  }
} else {
  const chosen = mutants.filter(({ name }) => values.mutant === "all" || name === values.mutant);
  if (chosen.length === 0) {
    process.stderr.write(
      `no mutant is called ${values.mutant}: ${mutants.map(({ name }) => name).join(", ")}\n`,
    );
    process.exitCode = 2;
  }
  for (const { name, breaks, parts, scenario } of chosen) {
    if (!values.json) print(`mutant ${name} breaks: ${breaks}`);
    const result = run(scenario, parts, name);
    if (result.violation === undefined) failures += 1;
  }
}
if (values.json) print(JSON.stringify(all));
if (failures > 0) process.exitCode = 1;

function run(scenario: Scenario, parts: Parts, mutant?: string): Exploration {
  const { name, plan, faults, faultsMax, hosts } = scenario;
  const result = explore(startOf(scenario, parts), { parts, plan }, limits);
  all.push({
    ...(mutant === undefined ? {} : { mutant }),
    scenario: name,
    hosts,
    faults,
    faultsMax,
    ...result,
  });
  if (values.json) return result;
  const { states, transitions, depth, cpuSeconds, isComplete, violation, ends } = result;
  const hops = plan.map(({ from, to }) => `${from}→${to}`).join(", then ");
  const bounds = Object.entries(faults).filter(([, count]) => count > 0);
  const what = bounds.map(([kind, count]) => `${kind} ${count}`).join(", ");
  print(`${name}: ${hops}; at most ${faultsMax} faults of ${what || "none"}`);
  const whole = isComplete ? "all" : "not all";
  print(
    `  ${whole}: ${states} states, ${transitions} transitions, depth ${depth}, ${cpuSeconds.toFixed(1)} s of processor time`,
  );
  if (violation === undefined) {
    const shown = Object.entries(ends).map(([end, count]) => `${end} ${count}`);
    print(`  holds; ends: ${shown.join(", ")}`);
    return result;
  }
  print(`  BROKEN: ${violation.rule}`);
  for (const [index, line] of violation.trace.entries()) print(`  ${String(index + 1).padStart(3)}  ${line}`);
  return result;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
