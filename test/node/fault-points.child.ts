/** Reaches `source-frozen` four times, saying so each time. Usage: fault-points.child.ts [pid to kill along] */
import { writeSync } from "node:fs";
import { FaultPoints } from "../../node/fault-points.ts";

const pids = process.argv.slice(2).map(Number);
const faults = FaultPoints.fromEnvironment(process.env, { enabled: true, pidsToKill: () => pids });
for (let n = 1; n <= 4; n++) {
  writeSync(1, `${n}\n`);
  await faults.point("source-frozen");
}
writeSync(1, "end\n");
