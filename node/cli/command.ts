/**
 * What all commands share: --address and --json, one connection to the daemon, and the form of their
 * help. A command's own file holds its options, its help and its handler.
 */

import type { Command } from "commander";
import { ControlClient } from "../control/client.ts";
import { findSocketPath } from "../control/socket-path.ts";
import { printJson } from "./output.ts";

/** Every command that speaks to a daemon has these. */
export type ApiOptions = { address?: string; json?: boolean };

type CommandText = { summary: string; example: string };

export function addCommand(program: Command, usage: string, text: CommandText): Command {
  return program
    .command(usage)
    .description(text.summary)
    .addHelpText("after", `\nExample:\n  ${text.example}`);
}

export function addApiCommand(program: Command, usage: string, text: CommandText): Command {
  return addCommand(program, usage, text)
    .option(
      "--address <socket>",
      "the daemon's control socket (default: SOJOURN_ADDR, or the data directory's)",
    )
    .option("--json", "print JSON");
}

/** Connects, runs `work`, and leaves whatever happens. */
export async function withClient<T>(
  options: ApiOptions,
  work: (client: ControlClient) => Promise<T>,
): Promise<T> {
  const socketPath = findSocketPath({
    ...(options.address === undefined ? {} : { address: options.address }),
  });
  const client = await ControlClient.connect({ socketPath });
  try {
    return await work(client);
  } finally {
    await client.close();
  }
}

/** JSON as the daemon gave it, or text made of it. */
export function printResult<T>(options: ApiOptions, result: T, toText: (result: T) => string): void {
  if (options.json) printJson(result);
  else process.stdout.write(toText(result));
}
