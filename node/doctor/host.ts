/** The rest of `sojourn doctor`: the process, the clock, the network. Every check ends within seconds. */

import { execFile } from "node:child_process";
import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { promisify } from "node:util";
import { type NodeConfig, parseConfig, readConfigFile } from "../config.ts";
import { ControlClient } from "../control/client.ts";
import { configFile } from "../data-folder.ts";
import { hostPaths } from "../domains/host-paths.ts";
import { NodeError } from "../errors.ts";
import { parseListen } from "../listen.ts";
import type { Finding, Run } from "./finding.ts";
import { examineHypervisors, SYSTEM_PATHS } from "./hypervisors.ts";
import { examineStorage } from "./storage.ts";

const NODE_MAJOR = 24;
const NODE_MAJOR_MIN = 20;
const RUN_TIMEOUT_MS = 5_000;
const MDNS = { group: "224.0.0.251", port: 5353 };

const run: Run = async (command, args) => {
  try {
    return (await promisify(execFile)(command, [...args], { timeout: RUN_TIMEOUT_MS })).stdout;
  } catch {
    return undefined;
  }
};

export async function examineHost(dataDir: string): Promise<Finding[]> {
  const { config, finding } = await readConfig(dataDir);
  const paths = hostPaths(dataDir);
  const isUp = await isDaemonUp(config.api.socketPath);
  const [hypervisors, storage, clock, control, data, mdns] = await Promise.all([
    examineHypervisors(config, { run, paths: SYSTEM_PATHS }),
    examineStorage({ dataDir, metadataFolder: paths.metadata }),
    examineClock(run),
    examinePort("control.listen", config.control.listen, { isUp }),
    examinePort("data.listen", config.data.listen, { isUp }),
    examineMdns({ isOn: config.discovery.mdns }),
  ]);
  const daemon = isUp ? `answers at ${config.api.socketPath}` : "none runs on this data folder";
  return [
    examineNode(process.versions.node),
    finding,
    { what: "daemon", state: "ok", found: daemon },
    ...storage,
    ...hypervisors,
    clock,
    control,
    data,
    mdns,
  ];
}

export function examineNode(version: string): Finding {
  const what = "Node";
  const major = Number.parseInt(version, 10);
  if (major >= NODE_MAJOR) return { what, state: "ok", found: version };
  const remedy = `Node ${NODE_MAJOR}, which comes as the npm package \`node\` with \`npm ci\``;
  const isTooOld = major < NODE_MAJOR_MIN;
  const costs = isTooOld ? "no daemon starts here" : `nobody tests it: the tests run on Node ${NODE_MAJOR}`;
  return { what, state: isTooOld ? "missing" : "limited", found: version, costs, remedy, isNeeded: isTooOld };
}

/** The defaults where there is no configuration, or none that can be read: the other lines are told all the same. */
async function readConfig(dataDir: string): Promise<{ config: NodeConfig; finding: Finding }> {
  const what = "configuration";
  const file = configFile(dataDir);
  try {
    const value = await readConfigFile(file);
    const config = parseConfig({ ...(value as object | undefined), dataDir }, file);
    if (value !== undefined) return { config, finding: { what, state: "ok", found: file } };
    const finding: Finding = { what, state: "ok", found: "none: defaults count", remedy: "sojourn init" };
    return { config, finding };
  } catch (error) {
    const found = error instanceof NodeError ? error.message : String(error);
    const remedy = "correct the file; `sojourn init --reference` explains every option";
    const finding: Finding = {
      what,
      state: "missing",
      found,
      costs: "no daemon starts here",
      remedy,
      isNeeded: true,
    };
    return { config: parseConfig({ dataDir }, "defaults"), finding };
  }
}

async function isDaemonUp(socketPath: string): Promise<boolean> {
  try {
    const client = await ControlClient.connect({ socketPath, signal: AbortSignal.timeout(RUN_TIMEOUT_MS) });
    await client.close();
    return true;
  } catch {
    return false;
  }
}

export async function examineClock(ask: Run): Promise<Finding> {
  const what = "clock";
  const now = new Date().toISOString();
  const systemd = (await ask("timedatectl", ["show", "-p", "NTPSynchronized", "--value"]))?.trim();
  const chrony = systemd === "yes" ? undefined : await ask("chronyc", ["-c", "tracking"]);
  const isSynchronised = systemd === "yes" || (chrony !== undefined && !chrony.includes("Not synchronised"));
  if (isSynchronised) return { what, state: "ok", found: `${now}, kept by the network's time` };
  return {
    what,
    state: "limited",
    found: systemd === "no" ? `${now}, not synchronised` : `${now}; nobody here says whether it is right`,
    costs:
      "invitations expire too early or too late, and the times of `sojourn history` differ from host to host; nothing else goes by it",
    remedy: "timedatectl set-ntp true, or chrony",
  };
}

export async function examinePort(
  option: string,
  listen: string,
  { isUp }: { isUp: boolean },
): Promise<Finding> {
  const what = option;
  const { host, port } = parseListen(listen)!;
  const isLocal = host.startsWith("127.") || host === "::1";
  const reason = isUp ? undefined : await listenError({ host, port });
  const remedy = `set ${option} in config.json to an address of this host and a free port`;
  const costs = "no daemon starts here";
  if (reason === "EADDRINUSE") {
    const found = `${listen} is in use, and not by this folder's daemon`;
    return { what, state: "missing", found, costs, remedy, isNeeded: true };
  }
  if (reason !== undefined) {
    return {
      what,
      state: "missing",
      found: `${listen} cannot be listened on (${reason})`,
      costs,
      remedy,
      isNeeded: true,
    };
  }
  const found = `${listen} ${isUp ? "is the daemon's" : "is free"}`;
  if (!isLocal) return { what, state: "ok", found };
  return { what, state: "limited", found, costs: "only hosts on this machine reach it", remedy };
}

function listenError(address: { host: string; port: number }): Promise<string | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", ({ code }: NodeJS.ErrnoException) => resolve(code ?? "error"));
    server.listen(address, () => server.close(() => resolve(undefined)));
  });
}

async function examineMdns({ isOn }: { isOn: boolean }): Promise<Finding> {
  const what = "mDNS";
  if (!isOn) {
    return { what, state: "ok", found: "off; `sojourn join` names a member, and members tell of each other" };
  }
  const isLinked = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .some(({ internal, family }) => !internal && family === "IPv4");
  const reason = isLinked ? await multicastError() : "no network but this machine's own";
  if (reason === undefined) return { what, state: "ok", found: "on" };
  const costs = "members on the local network are not found by themselves";
  const remedy = "let UDP port 5353 through; or name members with discovery.seeds";
  return { what, state: "missing", found: `on, and it cannot be spoken (${reason})`, costs, remedy };
}

function multicastError(): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket({ type: "udp4", reuseAddr: true });
    const over = (reason: string | undefined): void => {
      socket.close();
      resolve(reason);
    };
    socket.once("error", ({ code }: NodeJS.ErrnoException) => over(code ?? "error"));
    socket.bind(MDNS.port, () => {
      try {
        socket.addMembership(MDNS.group);
        over(undefined);
      } catch (error) {
        over((error as NodeJS.ErrnoException).code ?? "error");
      }
    });
  });
}
