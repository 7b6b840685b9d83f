/** `sojourn up`: the daemon, in the foreground, until it is told to stop. */

import type { Command } from "commander";
import { addCommand } from "./command.ts";

export function addUp(program: Command): void {
  addCommand(program, "up", { summary: "run this host's daemon", example: "sojourn up" });
}
