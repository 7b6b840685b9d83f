/** `sojourn revoke`: shuts a host out of the cluster, for ever. */

import type { Command } from "commander";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatCount } from "./format.ts";
import { printable } from "./output.ts";

type RevokeOptions = ApiOptions & { reason?: string; withAdmitted?: boolean };

export function addRevoke(program: Command): void {
  addApiCommand(program, "revoke", {
    summary: "shut a host out of the cluster for ever; it comes back only with a new key",
    example: 'sojourn revoke beta --reason "stolen"',
  })
    .argument("<host>", "name or id")
    .option("--reason <text>", "why, for those who ask later")
    .option("--with-admitted", "also drop the hosts that it had let in; they may be invited again")
    .action((host: string, { reason, withAdmitted, ...options }: RevokeOptions) =>
      withClient(options, async (client) => {
        const done = await client.call("revoke", {
          host,
          ...(reason === undefined ? {} : { reason }),
          ...(withAdmitted === undefined ? {} : { withAdmitted }),
        });
        printResult(
          options,
          done,
          () =>
            `${printable(done.hostName)} (${done.host}) is revoked; the cluster has ${formatCount(done.members, "host")}.\n` +
            "It still knows the cluster's secret, which lets it in nowhere: `sojourn rotate-secret` changes it.\n",
        );
      }),
    );
}
