/** `sojourn watch`: what becomes known to this host, a line each, until it is interrupted. */

import type { Command } from "commander";
import type { WatchEvent } from "../control/api.ts";
import { type ApiOptions, addApiCommand, withClient } from "./command.ts";
import { printable } from "./output.ts";

export function addWatch(program: Command): void {
  addApiCommand(program, "watch", {
    summary: "print what changes in the cluster, as this host hears of it, until interrupted",
    example: "sojourn watch",
  }).action((options: ApiOptions) =>
    withClient(options, async (client) => {
      const onEvent = (event: WatchEvent): void => {
        process.stdout.write(options.json ? `${JSON.stringify(event)}\n` : formatEvent(event));
      };
      const { hostName } = await client.call("info", {});
      if (!options.json) process.stdout.write(`as ${printable(hostName)} hears of it:\n`);
      await client.call("watch", {}, { onEvent });
    }),
  );
}

function formatEvent(event: WatchEvent): string {
  return `${event.at.slice(11, 23)}  ${printable(event.kind === "member" ? memberText(event) : domainText(event))}\n`;
}

function memberText({ hostName, from, to }: Extract<WatchEvent, { kind: "member" }>): string {
  if (to === undefined) return `host ${hostName} was forgotten`;
  return `host ${hostName} is ${to}${from === undefined ? ", and new" : ` (was ${from})`}`;
}

function domainText(event: Extract<WatchEvent, { kind: "domain" }>): string {
  const { domain, name, hostName, generation, state, conflict } = event;
  if (name === undefined) return `domain ${domain} is gone`;
  const claims = conflict === undefined ? "" : `; CONFLICT: ${conflict.join(" and ")} claim it, too`;
  return `domain ${name} is ${state} on ${hostName}, generation ${generation}${claims}`;
}
