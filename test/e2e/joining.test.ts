/** A cluster as its operator makes it: init, invite, join, revoke, rotate-secret. Real daemons, real folders. */

import { mkdir, mkdtemp, readFile, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { formatToken, parseToken } from "../../node/cluster/token.ts";
import type { ApiErrorBody, HostRow, Invitation, Joined, Rotation } from "../../node/control/api.ts";
import { ClusterHost, removeCluster } from "../../testnet/cluster.ts";
import { freePorts } from "../../testnet/free-ports.ts";
import { type Outcome, runSojourn } from "../node/cli/run-sojourn.ts";
import { Hosts } from "../node/network/hosts.ts";
import { createDomain, expectUnharmed, sojourn, sojournJson } from "./hosts.ts";

type Made = { name: string; dataDir: string; ports: { control: number; data: number } };

/** Hosts of libp2p that know nothing of keys. */
const strangers = new Hosts();
let folder: string;
let ports: number[];
let alpha: ClusterHost;
let beta: ClusterHost;
let gamma: ClusterHost;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sojourn-joining-"));
  // Marks the folder as one that `removeCluster` may remove, with all that runs in it.
  await writeFile(join(folder, "cluster.json"), "{}");
  ports = await freePorts(32);
  alpha = await initialized("alpha");
  await alpha.start();
  beta = await joined("beta", await invite(alpha));
  await beta.start();
  gamma = await joined("gamma", await invite(beta));
  await gamma.start();
  await Promise.all([alpha, beta, gamma].map((host) => seesMembers(host, ["alpha", "beta", "gamma"])));
}, 240_000);

/** Also when the run is ended from outside: daemons are in groups of their own. */
const leave = (): void => removeCluster(folder);
process.once("exit", leave);

afterAll(async () => {
  process.off("exit", leave);
  await strangers.stop();
  await Promise.all([alpha, beta, gamma].map((host) => host?.kill9()));
  leave();
});

describe("joining", () => {
  test("one command makes a member: its folder is guarded, and every member finds every other", async () => {
    for (const host of [alpha, beta, gamma]) {
      const { mode } = await stat(join(host.dataDir, "cluster.json"));
      expect(mode & 0o777).toBe(0o600);
      const rows = await sojournJson<HostRow[]>(host, "hosts");
      expect(rows.map(({ addresses }) => addresses[0])).toEqual(
        expect.arrayContaining([alpha, beta, gamma].map((each) => expect.stringContaining(each.hostId))),
      );
    }
    const ids = await Promise.all(
      [alpha, beta, gamma].map(async (host) => (await host.call("info", {})).cluster),
    );
    expect(new Set(ids).size).toBe(1);
  });

  test("a domain travels from the founder through both, while the secret is rotated under it", async () => {
    await createDomain(alpha, "web");
    const moving = alpha.call("migrate", { domain: "web", to: "gamma" });
    const { epoch } = await sojournJson<Rotation>(beta, "rotate-secret", "--overlap", "1h");
    expect(epoch).toBe(2);
    await moving;
    await expectUnharmed(gamma, "web");
    await until(async () =>
      (await Promise.all([alpha, beta, gamma].map(epochOf))).every((each) => each === 2),
    );
    await gamma.call("migrate", { domain: "web", to: "beta" });
    await expectUnharmed(beta, "web");
  }, 180_000);

  test("a token that was used lets nobody else in, and the host that offered it is in the log", async () => {
    const token = await invite(alpha);
    const first = await made("delta");
    expect((await join1(first, token)).code).toBe(0);
    expect(await refusedJoin(await made("late"), token)).toMatchObject({ code: "JOIN_REFUSED" });
    await logged(alpha, "unknown, expired or used-up key");
  });

  test("a token expires", async () => {
    const { token, expiresAt } = await sojournJson<Invitation>(alpha, "invite", "--expires", "1s");
    await until(async () => Date.now() > Date.parse(expiresAt));
    const error = await refusedJoin(await made("slow"), token);
    expect(error).toMatchObject({ code: "JOIN_REFUSED" });
    expect(error.message).toContain(expiresAt);
  });

  test("a token of another cluster, with another secret or cut short is refused", async () => {
    const token = await invite(alpha);
    const parsed = parseToken(token);
    const foreign = formatToken({ ...parsed, cluster: "0".repeat(64) });
    const { code } = await refusedJoin(await made("foreign"), foreign);
    expect(code).toBe("JOIN_REFUSED");
    const guess = formatToken({ ...parsed, secret: new Uint8Array(32).fill(9) });
    expect((await refusedJoin(await made("guess"), guess)).code).toBe("JOIN_REFUSED");
    expect((await refusedJoin(await made("cut"), token.slice(0, -3))).code).toBe("TOKEN_INVALID");
  });

  test("a host of a cluster with others does not change sides", async () => {
    const other = await initialized("other");
    await other.start();
    try {
      const token = await invite(other);
      const { code, stderr } = await sojourn(beta, "join", token, "--address", beta.socketPath);
      expect(code).toBe(1);
      expect(stderr).toContain("CLUSTER_ALREADY");
      // Alone in its cluster, and running: it may.
      const done = await sojournJson<Joined>(
        other,
        "join",
        await invite(alpha),
        "--address",
        other.socketPath,
      );
      expect(done.cluster).toBe((await alpha.call("info", {})).cluster);
      await seesMembers(other, ["alpha", "beta", "gamma", "other"]);
      await seesMembers(gamma, ["alpha", "beta", "gamma", "other"]);
    } finally {
      await alpha.call("revoke", { host: "other", reason: "the test is over" }).catch(() => undefined);
      await other.kill9();
    }
  }, 120_000);
});

test("a host without a cluster runs its domains alone, and joins with them", async () => {
  const parts = await made("hermit");
  const { control, data } = parts.ports;
  await mkdir(parts.dataDir, { mode: 0o700 });
  const listens = { control: { listen: `127.0.0.1:${control}` }, data: { listen: `127.0.0.1:${data}` } };
  await writeFile(join(parts.dataDir, "config.json"), JSON.stringify({ name: parts.name, ...listens }));
  const hermit = hostOf(parts, "");
  await hermit.start();
  try {
    const { host: hostId, cluster } = await hermit.call("info", {});
    expect(cluster).toBeUndefined();
    await createDomain(hermit, "cell");
    await expectUnharmed(hermit, "cell");
    for (const [role, port] of [
      ["control", control],
      ["data", data],
    ] as const) {
      const stranger = await strangers.start({ role });
      const dial = stranger.dial(`/ip4/127.0.0.1/tcp/${port}/p2p/${hostId}`);
      await expect(dial, role).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
    }
    const alone = await sojournJson<HostRow[]>(hermit, "hosts");
    expect(alone.map(({ hostName }) => hostName)).toEqual(["hermit"]);
    await sojournJson<Joined>(hermit, "join", await invite(alpha), "--address", hermit.socketPath);
    await seesAlive(alpha, "hermit");
    await hermit.call("migrate", { domain: "cell", to: "alpha" });
    await expectUnharmed(alpha, "cell");
  } finally {
    await alpha.call("revoke", { host: "hermit", reason: "the test is over" }).catch(() => undefined);
    await hermit.kill9();
  }
}, 120_000);

test("members know each other after a restart, without the founder", async () => {
  await alpha.kill9();
  await beta.kill9();
  await gamma.restart();
  await beta.start();
  await Promise.all([seesAlive(gamma, "beta"), seesAlive(beta, "gamma")]);
  await alpha.start();
  await seesAlive(alpha, "gamma");
}, 180_000);

test("a revoked host is cut off, stays out, and everybody hears of it", async () => {
  const token = await invite(alpha);
  const evil = await joined("evil", token);
  await evil.start();
  await seesAlive(gamma, "evil");
  const { host } = await sojournJson<{ host: string }>(beta, "revoke", "evil", "--reason", "stolen");
  expect(host).toBe(evil.hostId);
  await Promise.all([alpha, beta, gamma].map((each) => forgets(each, "evil")));
  await Promise.all(
    [alpha, gamma].map((each) => logged(each, `"reason":"revoked by ${beta.hostId}: stolen"`)),
  );
  const knocks = async (): Promise<number> =>
    (await readFile(alpha.logPath, "utf8")).split(`"peer":"${evil.hostId}","address"`).length;
  const before = await knocks();
  await evil.restart();
  // It knows the others' addresses and the secret still, and tries.
  await until(async () => (await knocks()) > before, "a refusal after the restart");
  const rows = await evil.call("hosts", {});
  expect(rows.filter(({ self, state }) => !self && state === "alive")).toEqual([]);
  await evil.kill9();
  // With its old key it cannot come back either.
  const again = await invite(alpha);
  const { code, stderr } = await runSojourn(["join", again, "--data-dir", evil.dataDir, "--json"]);
  expect(code).toBe(1);
  expect(stderr).toContain("JOIN_REFUSED");
}, 180_000);

// The commands.

async function made(name: string): Promise<Made> {
  return { name, dataDir: join(folder, name), ports: { control: ports.pop()!, data: ports.pop()! } };
}

async function initialized(name: string): Promise<ClusterHost> {
  const parts = await made(name);
  const { code, stdout, stderr } = await runSojourn(["init", ...hostArgs(parts)]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return hostOf(parts, (JSON.parse(stdout) as { host: string }).host);
}

async function joined(name: string, token: string): Promise<ClusterHost> {
  const parts = await made(name);
  const { code, stdout, stderr } = await join1(parts, token);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const done = JSON.parse(stdout) as Joined & { running: boolean };
  expect(done).toMatchObject({ hostName: name, running: false });
  return hostOf(parts, done.host);
}

function join1(parts: Made, token: string): Promise<Outcome> {
  return runSojourn(["join", token, ...hostArgs(parts)]);
}

async function refusedJoin(parts: Made, token: string): Promise<ApiErrorBody> {
  const { code, stdout, stderr } = await join1(parts, token);
  expect({ failed: code !== 0, stdout }, stderr).toEqual({ failed: true, stdout: "" });
  return (JSON.parse(stderr) as { error: ApiErrorBody }).error;
}

function hostArgs({ name, dataDir, ports: { control, data } }: Made): string[] {
  return [
    ...["--data-dir", dataDir, "--name", name, "--json"],
    ...["--listen", `127.0.0.1:${control}`, "--data-listen", `127.0.0.1:${data}`],
  ];
}

function hostOf(parts: Made, hostId: string): ClusterHost {
  return new ClusterHost({ ...parts, hostId, env: {} });
}

async function invite(host: ClusterHost): Promise<string> {
  return (await sojournJson<Invitation>(host, "invite")).token;
}

// What is waited for: the daemons tell each other in their own time.

async function until(holds: () => Promise<boolean>, what = "what was waited for"): Promise<void> {
  for (const deadline = performance.now() + 50_000; !(await holds()); ) {
    if (performance.now() > deadline) throw new Error(`${what} does not come`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function seesMembers(host: ClusterHost, names: readonly string[]): Promise<void> {
  const isThere = async (): Promise<boolean> => {
    const rows = await host.call("hosts", {});
    return names.every((name) => rows.some(({ hostName, state }) => hostName === name && state === "alive"));
  };
  return until(isThere, `${names.join(", ")} on ${host.name}`);
}

function seesAlive(host: ClusterHost, name: string): Promise<void> {
  return seesMembers(host, [name]);
}

function forgets(host: ClusterHost, name: string): Promise<void> {
  return until(
    async () => (await host.call("hosts", {})).every(({ hostName }) => hostName !== name),
    `${host.name} without ${name}`,
  );
}

function logged(host: ClusterHost, text: string): Promise<void> {
  return until(
    async () => (await readFile(host.logPath, "utf8")).includes(text),
    `"${text}" in ${host.name}'s log`,
  );
}

async function epochOf(host: ClusterHost): Promise<number> {
  const text = await readFile(join(host.dataDir, "cluster.json"), "utf8");
  const { secrets } = JSON.parse(text) as { secrets: { epoch: number }[] };
  return Math.max(...secrets.map(({ epoch }) => epoch));
}
