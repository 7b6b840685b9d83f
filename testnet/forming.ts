/**
 * How a cluster comes to be, by the commands that its operator uses: `init` and `up` on the first host, `invite`
 * there, `join` and `up` on each of the others.
 */

import { writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { readConfigFile } from "../node/config.ts";
import { configFile } from "../node/data-folder.ts";
import { type Build, sojournJson } from "./executable.ts";

export type Ports = { control: number; data: number };

/** A host that is to be. */
export type HostPlan = {
  name: string;
  dataDir: string;
  ip: string;
  ports: Ports;
  /** Ports at the same address that other hosts are told in place of its own. */
  announced: Partial<Ports>;
  /** In front of what runs on this host. */
  within: readonly string[];
  build: Build;
};

/** `init`: a cluster of this host alone. Returns its id. */
export async function initHost(plan: HostPlan): Promise<string> {
  const { host } = await sojournJson(["init", ...optionsOf(plan)], contextOf(plan));
  return host as string;
}

/** A token that lets so many others in. */
export async function invite(plan: HostPlan, { socketPath, uses }: { socketPath: string; uses: number }) {
  const args = ["invite", "--uses", String(uses), "--address", socketPath];
  const { token } = await sojournJson(args, { ...contextOf(plan), within: [] });
  return token as string;
}

/** `join`, before the daemon runs for the first time. Returns the host's id. */
export async function joinHost(plan: HostPlan, token: string): Promise<string> {
  const { host } = await sojournJson(["join", token, ...optionsOf(plan)], contextOf(plan));
  return host as string;
}

/** What no command asks for, as an operator's editor would: before the daemon runs. */
export async function editConfig({ dataDir }: HostPlan, settings: Record<string, unknown>): Promise<void> {
  const file = configFile(dataDir);
  const config = (await readConfigFile(file)) as Record<string, unknown>;
  await writeFile(file, `${JSON.stringify({ ...settings, ...config }, null, 2)}\n`);
}

function optionsOf({ name, dataDir, ip, ports, announced }: HostPlan): string[] {
  const address = (port: number): string => `/ip4/${ip}/tcp/${port}`;
  const announce = announced.control === undefined ? [] : ["--announce", address(announced.control)];
  const dataAnnounce = announced.data === undefined ? [] : ["--data-announce", address(announced.data)];
  return [
    ...["--data-dir", dataDir, "--name", name],
    ...["--listen", `${ip}:${ports.control}`, "--data-listen", `${ip}:${ports.data}`],
    ...[...announce, ...dataAnnounce],
  ];
}

function contextOf({ dataDir, within, build }: HostPlan) {
  return { folder: dirname(dataDir), within, build };
}
