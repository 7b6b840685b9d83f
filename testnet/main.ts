/** `npm run testnet -- SCENARIO [options]`: whole clusters on this machine, put to trouble. */

import { runClusterScenario } from "./cluster-scenario.ts";
import { runPartitionScenario } from "./partition-scenario.ts";

type Scenario = { options: string; run(args: readonly string[]): Promise<void> };

const SCENARIOS: Record<string, Scenario> = {
  cluster: {
    options: "[--hosts 20] [--slack 1] [--rest 60] [--changes 40] [--json]",
    run: runClusterScenario,
  },
  partition: {
    options: "[--hosts 20] [--seconds 120] [--shape halves|three-way|one-way] [--json]",
    run: runPartitionScenario,
  },
};

const [name = "", ...args] = process.argv.slice(2);
const scenario = Object.hasOwn(SCENARIOS, name) ? SCENARIOS[name] : undefined;
const usage = Object.entries(SCENARIOS)
  .map(([each, { options }]) => `usage: npm run testnet -- ${each} ${options}\n`)
  .join("");
if (process.argv.includes("--help")) process.stdout.write(usage);
else if (scenario !== undefined) await scenario.run(args);
else {
  process.stderr.write(usage);
  process.exitCode = 2;
}
