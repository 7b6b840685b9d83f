/** `sojourn invite`: a token that lets another host into the cluster. */

import type { Command } from "commander";
import type { Invitation } from "../control/api.ts";
import { duration, integer } from "./arguments.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatCount } from "./format.ts";

type InviteOptions = ApiOptions & { expires?: number; uses?: number };

export function addInvite(program: Command): void {
  addApiCommand(program, "invite", {
    summary: "print a token with which another host can join the cluster",
    example: "sojourn invite --expires 1h --uses 1",
  })
    .option("--expires <duration>", "how long it is good (default: 1h)", duration)
    .option("--uses <n>", "how many hosts it lets in (default: 1)", integer({ min: 1, max: 1000 }))
    .action(({ expires, uses, ...options }: InviteOptions) =>
      withClient(options, async (client) => {
        const params = {
          ...(expires === undefined ? {} : { expiresMs: expires }),
          ...(uses === undefined ? {} : { uses }),
        };
        const invitation = await client.call("invite", params);
        // The token alone on stdout, so that it can be piped to the other host.
        if (!options.json) process.stderr.write(formatInvitation(invitation));
        printResult(options, invitation, ({ token }) => `${token}\n`);
      }),
    );
}

function formatInvitation({ uses, expiresAt }: Invitation): string {
  return `good for ${formatCount(uses, "host")} until ${expiresAt}; whoever has it can join. There: sojourn join TOKEN\n`;
}
