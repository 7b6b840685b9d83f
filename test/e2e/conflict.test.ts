/** Who owned a domain when, over several hosts; and two hosts that each were told that the domain is theirs. */

import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type {
  CustodyReport,
  DomainDetail,
  DomainRow,
  HistoryRow,
  MemberRow,
  RecoverReport,
} from "../../node/control/api.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { until } from "../../testnet/waiting.ts";
import { spawnSojourn } from "../node/cli/run-sojourn.ts";
import { createDomain, expectUnharmed, sojourn, sojournJson, vbdPath } from "./hosts.ts";

let cluster: Cluster;
let alpha: ClusterHost;
let beta: ClusterHost;
let gamma: ClusterHost;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sj-custody-"));
  cluster = await Cluster.start({ names: ["alpha", "beta", "gamma"] });
  [alpha, beta, gamma] = [cluster.host("alpha"), cluster.host("beta"), cluster.host("gamma")];
  await createDomain(alpha, "web");
}, 240_000);
afterAll(async () => {
  await cluster?.stop();
  await rm(folder, { recursive: true, force: true });
}, 60_000);

function untilSeen<T>(look: () => Promise<T>, holds: (seen: T) => boolean): Promise<T> {
  return until(`seen as ${holds}`, async () => {
    const seen = await look().catch(() => undefined);
    return seen !== undefined && holds(seen) ? seen : undefined;
  });
}

function show(host: ClusterHost): Promise<DomainDetail> {
  return host.call("show", { domain: "web" });
}

function custody(host: ClusterHost): Promise<CustodyReport> {
  return host.call("custody", { domain: "web" });
}

async function adopt(host: ClusterHost, reason: string): Promise<RecoverReport> {
  return sojournJson<RecoverReport>(host, "recover", "web", "--adopt", "--reason", reason);
}

/** What was set aside on a host; nothing ever is while two hosts quarrel. */
async function asideOn(host: ClusterHost): Promise<string[]> {
  const names = await readdir(dirname(await vbdPath(host, "web")));
  return names.filter((name) => name.includes(".aside-"));
}

test("every host shows and checks the same chain of custody, and a copy of it is checked without any", async () => {
  await sojournJson(alpha, "migrate", "web", "beta");
  await sojournJson(beta, "migrate", "web", "gamma");
  const whole = await untilSeen(
    () => custody(gamma),
    ({ certificates, incomplete }) => certificates.length === 2 && incomplete.length === 0,
  );
  expect(whole).toMatchObject({ problems: [], gaps: [], cutOff: [] });
  expect(whole.certificates.map(({ kind, fromName, toName }) => `${kind} ${fromName} ${toName}`)).toEqual([
    "handover alpha beta",
    "handover beta gamma",
  ]);
  for (const host of [alpha, beta]) {
    const seen = await untilSeen(
      () => custody(host),
      ({ certificates }) => certificates.length === 2,
    );
    expect(seen, host.name).toMatchObject({ problems: [], seenBy: "gamma" });
    expect(seen.certificates.map(({ digest }) => digest)).toEqual(
      whole.certificates.map(({ digest }) => digest),
    );
  }
  // How far each replica is behind is the domain's host's to say, and anybody passes it on.
  const listed = await untilSeen(
    async () => (await sojournJson<DomainRow[]>(alpha, "list"))[0]!,
    ({ replicas }) => replicas.length === 2 && replicas.every(({ dirtyBlocks }) => dirtyBlocks !== undefined),
  );
  expect(listed).toMatchObject({ hostName: "gamma", seenBy: "gamma" });
  expect(listed.replicas.every(({ ageSeconds }) => ageSeconds !== undefined)).toBe(true);
  const stays = await sojournJson<HistoryRow[]>(alpha, "history", "web");
  expect(stays.map(({ generation, hostName }) => `${generation} ${hostName}`)).toEqual([
    "1 alpha",
    "2 beta",
    "3 gamma",
  ]);

  const file = join(folder, "chain.json");
  const { stdout } = await sojourn(gamma, "history", "web", "--verify", "--json");
  await writeFile(file, stdout);
  const checked = await sojourn(alpha, "history", "--chain", file);
  expect(checked.code, checked.stdout).toBe(0);
  expect(checked.stdout).toContain("sound from generation 2 on");
  const forged = (await readFile(file, "utf8")).replace(
    /"to": "[^"]+"/,
    `"to": "${whole.certificates[1]!.to}"`,
  );
  await writeFile(file, forged);
  const refused = await sojourn(alpha, "history", "--chain", file);
  expect(refused.code).toBe(1);
  expect(refused.stdout).toMatch(/NOT SOUND: generation 2: the signature is not/);
  expect(refused.stdout).toMatch(/NOT SOUND: generation 3: it does not follow generation 2/);
}, 240_000);

test("recover on a host without the domain asks the one that has it", async () => {
  const report = await sojournJson<RecoverReport>(beta, "recover", "web");
  expect(report).toMatchObject({ decision: "nothing", did: [], where: "gamma" });
}, 60_000);

test("two hosts that claim one generation are loud about it and touch nothing; a word settles it", async () => {
  // Alpha and beta adopt one after the other, and neither can hear of the other.
  await beta.stop();
  await gamma.kill9();
  expect(await adopt(alpha, "gamma burnt down")).toMatchObject({ where: "alpha" });
  expect(
    await untilSeen(
      () => show(alpha),
      ({ state }) => state === "running",
    ),
  ).toMatchObject({ generation: 4 });
  await alpha.stop();
  await beta.start();
  expect(await adopt(beta, "alpha and gamma burnt down")).toMatchObject({ where: "beta" });
  expect(
    await untilSeen(
      () => show(beta),
      ({ state }) => state === "running",
    ),
  ).toMatchObject({ generation: 4 });
  await alpha.start();

  for (const host of [alpha, beta]) {
    const detail = await untilSeen(
      () => show(host),
      ({ conflict }) => conflict?.length === 2,
    );
    expect(detail.advice).toMatch(/^CONFLICT: .*generation 4/);
    const [row] = await sojournJson<DomainRow[]>(host, "list");
    expect(row!.conflict!.map(({ hostName }) => hostName).sort()).toEqual(["alpha", "beta"]);
    expect((await sojourn(host, "list")).stdout).toContain("CONFLICT: ");
    const members = await sojournJson<MemberRow[]>(host, "members");
    const quarrelling = members.filter(({ conflicts }) => conflicts !== undefined);
    expect(quarrelling.map(({ hostName, conflicts }) => [hostName, conflicts]).sort()).toEqual([
      ["alpha", ["web"]],
      ["beta", ["web"]],
    ]);
    const { code, stdout } = await sojourn(host, "recover", "web", "--json");
    expect({ code, ...JSON.parse(stdout) }).toMatchObject({ code: 4, decision: "conflict", did: [] });
    expect(await asideOn(host)).toEqual([]);
    expect((await show(host)).guest).toMatchObject({ errors: 0 });
    await untilLogged(host, "several hosts claim one domain");
  }
  const watching = spawnSojourn(["watch"], { socketPath: beta.socketPath });
  let said = "";
  for await (const chunk of watching.stdout) {
    said += String(chunk);
    if (said.includes("CONFLICT: ")) break;
  }
  watching.kill("SIGKILL");

  const settled = await adopt(beta, "beta's copy is the one that its users wrote to");
  expect(settled).toMatchObject({ where: "beta" });
  const fenced = await untilSeen(
    () => show(alpha),
    ({ advice }) => advice.startsWith("FENCED"),
  );
  expect(fenced).toMatchObject({ hostName: "beta", generation: 5 });
  expect((await asideOn(alpha)).length).toBe(1);
  const { conflict } = await untilSeen(
    () => show(beta),
    (seen) => seen.conflict === undefined && seen.state === "running",
  );
  expect(conflict).toBeUndefined();
  await expectUnharmed(beta, "web");
  expect(await custody(beta)).toMatchObject({ problems: [] });
  // The host that was believed lost comes back last, and is fenced, too.
  await gamma.start();
  await untilSeen(
    () => show(gamma),
    ({ advice, hostName }) => advice.startsWith("FENCED") && hostName === "beta",
  );
  // Whatever it had said meanwhile is taken back everywhere.
  for (const host of [alpha, beta, gamma]) {
    await untilSeen(
      () => show(host),
      (seen) => seen.conflict === undefined,
    );
  }
  await expectUnharmed(beta, "web");
}, 400_000);

async function untilLogged(host: ClusterHost, message: string): Promise<void> {
  await untilSeen(
    () => readFile(host.logPath, "utf8"),
    (text) => text.includes(message),
  );
}
