/** `sojourn leave`: this host says farewell, so that nobody takes its end for a failure. */

import type { Command } from "commander";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatCount } from "./format.ts";

export function addLeave(program: Command): void {
  addApiCommand(program, "leave", {
    summary: "tell the cluster that this host goes, and stop its daemon; it stays a member and may come back",
    example: "sojourn leave",
  }).action((options: ApiOptions) =>
    withClient(options, async (client) => {
      printResult(options, await client.call("leave", {}), ({ hostName, domains }) => {
        const left = `${hostName} has left; \`sojourn up\` brings it back\n`;
        if (domains === 0) return left;
        return `${left}${formatCount(domains, "domain")} stays here, out of reach of the cluster until then\n`;
      });
    }),
  );
}
