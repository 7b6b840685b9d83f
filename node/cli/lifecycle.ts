/** `sojourn start`, `stop`, `destroy` and `cancel`: one word to the daemon, one line back. */

import type { Command } from "commander";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { printable } from "./output.ts";

const VERBS = [
  { verb: "start", summary: "boot a domain on this host, which must be its owner", past: "started" },
  { verb: "stop", summary: "end a domain in order: its guest finishes its I/O and flushes", past: "stopped" },
  {
    verb: "destroy",
    summary: "end a domain at once, as if its power were cut; its vbds stay",
    past: "destroyed",
  },
] as const;

export function addLifecycle(program: Command): void {
  for (const { verb, summary, past } of VERBS) {
    addApiCommand(program, verb, { summary, example: `sojourn ${verb} web` })
      .argument("<domain>", "name or id")
      .action((domain: string, options: ApiOptions) =>
        withClient(options, async (client) => {
          printResult(
            options,
            await client.call(verb, { domain }),
            (done) => `${past} ${printable(done.name)}\n`,
          );
        }),
      );
  }
  addApiCommand(program, "cancel", {
    summary: "cancel a domain's migration, as long as the domain has not been handed over",
    example: "sojourn cancel web",
  })
    .argument("<domain>", "name or id")
    .action((domain: string, options: ApiOptions) =>
      withClient(options, async (client) => {
        const done = await client.call("cancel", { domain });
        printResult(
          options,
          done,
          () => `cancelled the migration of ${printable(done.name)}: it stays where it is\n`,
        );
      }),
    );
}
