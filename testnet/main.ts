/** `npm run testnet -- SCENARIO [options]`: whole clusters on this machine, put to trouble. */

import { runClusterScenario } from "./cluster-scenario.ts";
import { runPartitionScenario } from "./partition-scenario.ts";

const SCENARIOS: Record<string, (args: readonly string[]) => Promise<void>> = {
  cluster: runClusterScenario,
  partition: runPartitionScenario,
};

const [name = "", ...args] = process.argv.slice(2);
const scenario = Object.hasOwn(SCENARIOS, name) ? SCENARIOS[name] : undefined;
if (scenario === undefined) {
  process.stderr.write(`usage: npm run testnet -- ${Object.keys(SCENARIOS).join("|")} [options]\n`);
  process.exitCode = 2;
} else {
  await scenario(args);
}
