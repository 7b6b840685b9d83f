/** `npm run bench -- NAME [options]`: what is measured beside something else, in one run on one machine. */

import { runDirtyRate } from "./bench/dirty-rate.ts";
import { runMigrate } from "./bench/migrate.ts";
import { runNbd } from "./bench/nbd.ts";
import { runPivots } from "./bench/pivots.ts";
import { runSteady } from "./bench/steady.ts";

const BENCHES: Record<string, (args: readonly string[]) => Promise<boolean>> = {
  "dirty-rate": runDirtyRate,
  migrate: runMigrate,
  nbd: runNbd,
  pivots: runPivots,
  steady: runSteady,
};

const [name = "", ...args] = process.argv.slice(2);
const bench = Object.hasOwn(BENCHES, name) ? BENCHES[name] : undefined;
if (bench === undefined) {
  process.stderr.write(`usage: npm run bench -- ${Object.keys(BENCHES).join("|")} [options]\n`);
  process.exit(2);
}
process.exit((await bench(args)) ? 0 : 1);
