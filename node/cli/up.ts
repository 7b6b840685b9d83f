/** `sojourn up`: the daemon, in the foreground, until it is told to stop. */

import { resolve } from "node:path";
import type { Command, Option } from "commander";
import { defaultDataDir } from "../control/socket-path.ts";
import { configFile } from "../data-folder.ts";
import { addCommand } from "./command.ts";

type UpOptions = { dataDir?: string } & Record<string, unknown>;

/** The daemon's part of us, loaded by `up` alone. Resolves when the daemon has stopped. */
type DaemonModule = { runDaemon(config: unknown): Promise<void> };

export function addUp(program: Command, configFlags: readonly Option[]): void {
  const command = addCommand(program, "up", {
    summary: "run this host's daemon in the foreground",
    example: "sojourn up",
  });
  for (const flag of configFlags) command.addOption(flag);
  command.action(up);
}

/**
 * The flags of the configuration's schema. Only `up` has them, and loading the schema takes longer than
 * most commands do.
 */
export async function loadConfigFlags(): Promise<readonly Option[]> {
  const [{ NodeConfigSchema }, { flagsOf }] = await Promise.all([
    import("../config.ts"),
    import("../config-flags.ts"),
  ]);
  return flagsOf(NodeConfigSchema);
}

async function up(options: UpOptions): Promise<void> {
  const [{ NodeConfigSchema, parseConfig, readConfigFile }, { applyFlags }] = await Promise.all([
    import("../config.ts"),
    import("../config-flags.ts"),
  ]);
  const dataDir = resolve(options.dataDir ?? defaultDataDir());
  const file = configFile(dataDir);
  // The folder is where the file was found, whatever else the file may say.
  const value = applyFlags(NodeConfigSchema, await readConfigFile(file), { ...options, dataDir });
  const config = parseConfig(value, file);
  const daemon: string = "../daemon.ts";
  const { runDaemon } = (await import(daemon)) as DaemonModule;
  await runDaemon(config);
}
