/** `sojourn rotate-secret`: a new secret for the cluster; the old one is good for a while. */

import type { Command } from "commander";
import { duration } from "./arguments.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";

type RotateOptions = ApiOptions & { overlap?: number };

export function addRotateSecret(program: Command): void {
  addApiCommand(program, "rotate-secret", {
    summary: "give the cluster a new secret; a host that is away longer than the overlap must join again",
    example: "sojourn rotate-secret --overlap 24h",
  })
    .option("--overlap <duration>", "how long the old one is accepted beside it (default: 24h)", duration)
    .action(({ overlap, ...options }: RotateOptions) =>
      withClient(options, async (client) => {
        const params = overlap === undefined ? {} : { overlapMs: overlap };
        const done = await client.call("rotate-secret", params);
        printResult(
          options,
          done,
          ({ epoch, othersEndAt }) =>
            `secret ${epoch} is in use; older ones are accepted until ${othersEndAt}\n`,
        );
      }),
    );
}
