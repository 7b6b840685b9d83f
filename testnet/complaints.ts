/** After a run that failed: what the daemons, the hypervisors and the guests have to say about it. */

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Cluster } from "./cluster.ts";

const LINES_MAX = 20;
const GUEST_LOGS = ["guest.log", "console.log"];

export async function complain({ hosts }: Cluster): Promise<void> {
  for (const { name, logPath, runDir } of hosts) {
    const lines = await linesOf(logPath);
    const complaints = lines.filter((line) => !/"level":"(?:info|debug)"/.test(line));
    for (const line of complaints.slice(-LINES_MAX)) process.stderr.write(`${name}: ${line}\n`);
    for (const folder of await readdir(runDir, { withFileTypes: true }).catch(() => [])) {
      if (!folder.isDirectory()) continue;
      for (const log of GUEST_LOGS) {
        const said = await linesOf(join(runDir, folder.name, log));
        for (const line of said.slice(-LINES_MAX)) process.stderr.write(`${name}, ${log}: ${line}\n`);
      }
    }
  }
}

async function linesOf(path: string): Promise<string[]> {
  const text = await readFile(path, "utf8").catch(() => "");
  return text.split("\n").filter((line) => line !== "");
}
