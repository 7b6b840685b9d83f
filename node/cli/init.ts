import type { Command } from "commander";
import { addCommand } from "./command.ts";

export function addInit(program: Command): void {
  addCommand(program, "init", { summary: "x", example: "sojourn init" });
}
