/**
 * `sojourn join`: makes this host a member of another's cluster. Beside a running daemon it asks that; else it does
 * all there is to do in the folder, and `sojourn up` follows.
 */

import type { Command } from "commander";
import { ControlClient } from "../control/client.ts";
import { findSocketPath } from "../control/socket-path.ts";
import { addCommand } from "./command.ts";
import { formatCount } from "./format.ts";
import { addHostOptions, type HostOptions, prepareHost } from "./init.ts";
import { formatFields, printJson } from "./output.ts";

type JoinOptions = HostOptions & { address?: string; json?: boolean };

type Done = {
  cluster: string;
  host: string;
  hostName: string;
  members: number;
  /** Whether a daemon runs: if not, `sojourn up` is next. */
  running: boolean;
};

export function addJoin(program: Command): void {
  const command = addCommand(program, "join", {
    summary: "make this host a member of the cluster that a token comes from",
    example: "sojourn join TOKEN --name beta --listen 10.0.0.6:4701 --data-listen 10.0.0.6:4702",
  }).argument("<token>", "what `sojourn invite` printed on a member");
  addHostOptions(command)
    .option("--address <socket>", "the daemon's control socket, when one runs")
    .option("--json", "print JSON")
    .action(join);
}

async function join(token: string, options: JoinOptions): Promise<void> {
  const done = (await joinRunning(token, options)) ?? (await joinFolder(token, options));
  if (options.json) {
    printJson(done);
    return;
  }
  process.stdout.write(
    formatFields([
      ["host", `${done.hostName} (${done.host})`],
      ["cluster", `${done.cluster}, now of ${formatCount(done.members, "host")}`],
      ["next", done.running ? "`sojourn hosts` shows the others" : "`sojourn up` runs the daemon"],
    ]),
  );
}

/** Undefined when no daemon runs on the folder. */
async function joinRunning(token: string, options: JoinOptions): Promise<Done | undefined> {
  const { address, dataDir } = options;
  const env = address === undefined ? { SOJOURN_DATA: dataDir } : process.env;
  const socketPath = findSocketPath({ ...(address === undefined ? {} : { address }), env });
  const client = await ControlClient.connect({ socketPath }).catch((error: { code?: string }) => {
    if (error.code === "CONTROL_NO_DAEMON" && address === undefined) return undefined;
    throw error;
  });
  if (client === undefined) return undefined;
  try {
    return { ...(await client.call("join", { token })), running: true };
  } finally {
    await client.close();
  }
}

async function joinFolder(token: string, options: HostOptions): Promise<Done> {
  const { joinLocally, readToken } = await import("../cluster/local.ts");
  // Before anything is written: most mistakes are tokens that were copied in part.
  readToken(token);
  const { config, identity } = await prepareHost(options);
  const joined = await joinLocally({ ...config, identity }, token);
  return { ...joined, host: identity.hostId, hostName: config.name, running: false };
}
