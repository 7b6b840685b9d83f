/** A host that announces no address, as behind a NAT: it dials, and is asked to dial back. Real daemons. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Invitation, MemberRow } from "../../node/control/api.ts";
import { Cluster, ClusterHost } from "../../testnet/cluster.ts";
import { freePorts } from "../../testnet/free-ports.ts";
import { until } from "../../testnet/waiting.ts";
import { runSojourn } from "../node/cli/run-sojourn.ts";
import { createDomain, expectUnharmed, sojourn, sojournJson } from "./hosts.ts";

let cluster: Cluster;
let alpha: ClusterHost;
let beta: ClusterHost;
let edge: ClusterHost;

beforeAll(async () => {
  cluster = await Cluster.start({ names: ["alpha", "beta"] });
  alpha = cluster.host("alpha");
  beta = cluster.host("beta");
  const { token } = await sojournJson<Invitation>(alpha, "invite");
  edge = await joinUnannounced("edge", token);
  await edge.start();
  await allAlive();
}, 120_000);

afterAll(async () => {
  await edge?.kill9();
  await cluster?.stop();
});

async function joinUnannounced(name: string, token: string): Promise<ClusterHost> {
  const [control, data] = (await freePorts(2)) as [number, number];
  const dataDir = join(cluster.folder, name);
  const listen = ["--listen", `127.0.0.1:${control}`, "--data-listen", `127.0.0.1:${data}`];
  const announce = ["--announce", "none", "--data-announce", "none"];
  const args = ["join", token, "--data-dir", dataDir, "--name", name, ...listen, ...announce, "--json"];
  const { code, stdout, stderr } = await runSojourn(args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const { host } = JSON.parse(stdout) as { host: string };
  return new ClusterHost({ name, dataDir, hostId: host, ports: { control, data }, env: {} });
}

async function allAlive(): Promise<void> {
  const all = [alpha, beta, edge];
  await until("every host believes every other alive", async () => {
    const rows = await Promise.all(all.map((host) => host.call("members", {})));
    const isAlive = (list: readonly MemberRow[]): boolean =>
      all.every(({ name }) => list.some(({ hostName, state }) => hostName === name && state === "alive"));
    return rows.every(isAlive) || undefined;
  });
}

/** Connections that came to one of the host's ports, as the system has them; the state of an open one is 01. */
function connectionsTo({ ports }: ClusterHost): number {
  const own = new Set(Object.values(ports).map((port) => port.toString(16).toUpperCase().padStart(4, "0")));
  return readFileSync("/proc/net/tcp", "utf8")
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local = "", , state]) => state === "01" && own.has(local.split(":")[1] ?? "")).length;
}

test("it is a member like any other, and nobody is told where it is", async () => {
  const rows = await sojournJson<MemberRow[]>(alpha, "members");
  expect(rows.find(({ hostName }) => hostName === "edge")).toMatchObject({ state: "alive", addresses: [] });
  const { code, stderr } = await sojourn(edge, "invite");
  expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("announces no address") });
});

test("a domain moves to it and back: it dials for either direction", async () => {
  await createDomain(alpha, "web");
  await alpha.call("migrate", { domain: "web", to: "edge" });
  await expectUnharmed(edge, "web");
  await edge.call("migrate", { domain: "web", to: "beta" });
  await expectUnharmed(beta, "web");
  const back = await beta.call("migrate", { domain: "web", to: "edge" });
  expect(back).toMatchObject({ rung: "bitmaps" });
  await expectUnharmed(edge, "web");
  expect(connectionsTo(edge)).toBe(0);
}, 120_000);

test("a member that was restarted is dialled by it, and reaches it again", async () => {
  await beta.kill9();
  await beta.start();
  await allAlive();
  await edge.call("migrate", { domain: "web", to: "beta" });
  await beta.call("migrate", { domain: "web", to: "edge" });
  await expectUnharmed(edge, "web");
  expect(connectionsTo(edge)).toBe(0);
}, 120_000);
