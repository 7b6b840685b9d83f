/** `sojourn recover` on real daemons: what it finds, what it does, and that the guest has lost nothing. */

import { existsSync } from "node:fs";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { CustodyReport, DomainDetail, HistoryRow, RecoverReport } from "../../node/control/api.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { guestFigures } from "../../testnet/guest.ts";
import { killQuietly, processesOf } from "../../testnet/processes.ts";
import { until } from "../../testnet/waiting.ts";
import { createDomain, expectUnharmed, sojourn, sojournJson } from "./hosts.ts";

let cluster: Cluster;
let alpha: ClusterHost;
let beta: ClusterHost;

beforeEach(async () => {
  cluster = await Cluster.start({ names: ["alpha", "beta"], config: { faults: true } });
  alpha = cluster.host("alpha");
  beta = cluster.host("beta");
  await createDomain(alpha, "web");
}, 120_000);
afterEach(() => cluster?.stop(), 60_000);

/** Daemon and guests end at once, as when the host loses power. */
async function losePower(host: ClusterHost): Promise<void> {
  await host.kill9();
  for (const pid of processesOf(host.dataDir)) killQuietly(pid);
}

/** Alpha dies right after its record that the domain is beta's, before it has said so. */
async function interruptHandover(): Promise<void> {
  await alpha.call("arm-fault", { point: "source-after-handover-persist", action: "kill" });
  await expect(alpha.call("migrate", { domain: "web", to: "beta" })).rejects.toThrow();
  await alpha.exited();
}

function untilShown(host: ClusterHost, holds: (seen: DomainDetail) => boolean): Promise<DomainDetail> {
  return until(`web on ${host.name} as ${holds}`, async () => {
    const seen = await host.call("show", { domain: "web" }).catch(() => undefined);
    return seen !== undefined && holds(seen) ? seen : undefined;
  });
}

/** Both hosts have signed the generation's certificate, as this host knows it. */
function untilSigned(host: ClusterHost, generation: number): Promise<CustodyReport> {
  return until(`generation ${generation} signed by both, on ${host.name}`, async () => {
    const report = await host.call("custody", { domain: "web" });
    const signers = report.certificates.find((each) => each.generation === generation)?.signedBy ?? [];
    return signers.length === 2 ? report : undefined;
  });
}

test("a destination that lost the memory before it ran there gives the domain back", async () => {
  await interruptHandover();
  await losePower(beta);
  await beta.start();
  await alpha.start();
  const report = await sojournJson<RecoverReport>(alpha, "recover", "web");
  expect(report).toMatchObject({ decision: "nothing", where: "alpha" });
  expect(report.did.join("; ")).toMatch(
    /beta renounced generation 2.*alpha took the domain back under generation 3/,
  );
  expect(await untilShown(alpha, ({ state }) => state === "running")).toMatchObject({ generation: 3 });
  await expectUnharmed(alpha, "web");
  // It is a domain as any other again: the names of its vbds are those that its guest knows.
  await alpha.restart();
  await expectUnharmed(alpha, "web");
  await sojournJson(alpha, "migrate", "web", "beta");
  await expectUnharmed(beta, "web");
  const custody = await untilSigned(beta, 4);
  expect(custody.certificates.map(({ kind, fromName, toName }) => [kind, fromName, toName])).toEqual([
    ["handover", "alpha", "beta"],
    ["taken back", "beta", "alpha"],
    ["handover", "alpha", "beta"],
  ]);
  expect(custody).toMatchObject({ problems: [], incomplete: [] });
  // The source hears of the countersignature, and anybody finds the same chain there.
  expect(await untilSigned(alpha, 4)).toEqual(custody);
}, 240_000);

test("recover at either end finds nothing to do where a handover finishes by itself", async () => {
  await interruptHandover();
  await alpha.start();
  await untilShown(beta, ({ state, hostName }) => state === "running" && hostName === "beta");
  for (const host of [alpha, beta]) {
    const report = await sojournJson<RecoverReport>(host, "recover", "web");
    expect(report).toMatchObject({ did: [], decision: "nothing", where: "beta" });
  }
  await expectUnharmed(beta, "web");
}, 240_000);

test("frozen in the middle of a handover it waits, is adopted with its memory, and the other end gives up", async () => {
  const { uptimeMs } = await guestFigures(alpha, "web");
  await interruptHandover();
  await beta.kill9();
  await alpha.start();
  const frozen = await untilShown(alpha, ({ state }) => state === "undecided");
  expect(frozen.advice).toContain("must not be started by hand");
  const waits = await sojourn(alpha, "recover", "web", "--json");
  expect(waits.code).toBe(4);
  expect(JSON.parse(waits.stdout)).toMatchObject({
    decision: "wait",
    did: [],
    adoption: { from: "frozen guest", generation: 3 },
    advice: expect.stringContaining("--adopt"),
  });
  await sojournJson(alpha, "recover", "web", "--adopt", "--reason", "beta burnt down");
  expect(await untilShown(alpha, ({ state }) => state === "running")).toMatchObject({ generation: 3 });
  // Booted from its disks it would have begun at nothing.
  expect((await guestFigures(alpha, "web")).uptimeMs).toBeGreaterThan(uptimeMs);
  await expectUnharmed(alpha, "web");
  // What beta had promised to keep is worth nothing any more.
  await beta.start();
  const undone = await sojournJson<RecoverReport>(beta, "recover", "web");
  expect(undone).toMatchObject({ where: "alpha" });
  const held = async (): Promise<readonly string[]> =>
    (await sojournJson<RecoverReport>(beta, "recover", "web")).found;
  while ((await held()).some((line) => line.includes("prepared from"))) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await expectUnharmed(alpha, "web");
  await sojournJson(alpha, "migrate", "web", "beta");
  await expectUnharmed(beta, "web");
}, 300_000);

test("without the other end it stays frozen and says what --adopt would do; the old owner fences itself", async () => {
  await sojournJson(alpha, "migrate", "web", "beta");
  await untilShown(beta, ({ state }) => state === "running");
  await beta.kill9();
  const waits = await sojourn(alpha, "recover", "web", "--json");
  expect(waits.code).toBe(4);
  expect(JSON.parse(waits.stdout)).toMatchObject({
    decision: "wait",
    did: [],
    adoption: { from: "replica", generation: 3 },
  });
  const adopted = await sojournJson<RecoverReport>(
    alpha,
    "recover",
    "web",
    "--adopt",
    "--reason",
    "beta burnt down",
  );
  expect(adopted).toMatchObject({ where: "alpha" });
  expect(await untilShown(alpha, ({ state }) => state === "running")).toMatchObject({
    generation: 3,
    hostName: "alpha",
  });
  const [last] = (await sojournJson<HistoryRow[]>(alpha, "history", "web")).reverse();
  expect(last!.recovered).toMatchObject({
    outcome: "adopted",
    facts: { reason: "beta burnt down", from: "replica" },
  });
  // Beta's guest ran on all the time.
  expect(processesOf(beta.dataDir)).not.toEqual([]);
  await beta.start();
  const fenced = await untilShown(
    beta,
    ({ advice, generation }) => advice.startsWith("FENCED") && generation === 3,
  );
  expect(fenced).toMatchObject({ hostName: "alpha", generation: 3 });
  // Last of all, when everything that it wrote is safe aside.
  while (processesOf(beta.dataDir).length > 0) await new Promise((resolve) => setTimeout(resolve, 50));
  const [, aside] = /kept as (\S+)/.exec(fenced.advice)!;
  expect(existsSync(aside!)).toBe(true);
  await expectUnharmed(alpha, "web");
}, 240_000);
