/** Joining, revoking and rotating between real networks; what a crash leaves; what hostile members achieve. */

import { chmod, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { MEMBERS_PROTOCOL, SECRETS_PROTOCOL } from "../../../node/cluster/cluster-keys.ts";
import { signStatement } from "../../../node/cluster/signing.ts";
import { parseToken } from "../../../node/cluster/token.ts";
import type { Connection } from "../../../node/network/network.ts";
import { encodeExchange } from "../../../protocol/members/exchange.ts";
import { ClusterNode, changed } from "./hosts.ts";

const nodes: ClusterNode[] = [];
afterEach(async () => {
  ClusterNode.skewMs = 0;
  await Promise.all(nodes.splice(0).map((node) => node.remove()));
});

async function start(name: string): Promise<ClusterNode> {
  const node = await ClusterNode.start(name);
  nodes.push(node);
  return node;
}

async function founded(): Promise<ClusterNode> {
  const founder = await start("alpha");
  await founder.cluster.create(founder.described());
  return founder;
}

async function member(inviter: ClusterNode, name: string): Promise<ClusterNode> {
  const node = await start(name);
  await node.join(await inviter.invite());
  return node;
}

function dial(from: ClusterNode, to: ClusterNode): Promise<Connection> {
  return from.network.dial(to.network.addresses()[0]!);
}

function names(node: ClusterNode): string[] {
  return node.cluster
    .members()
    .map(({ name }) => name)
    .sort();
}

function closed(connection: Connection): Promise<unknown> {
  return new Promise((resolve) => connection.onClose(resolve));
}

test("a token makes a member, once; members compare their lists when they meet", async () => {
  const alpha = await founded();
  const token = await alpha.invite();
  const beta = await start("beta");
  await beta.join(token);
  expect(names(beta)).toEqual(["alpha", "beta"]);
  const late = await start("late");
  await expect(late.join(token)).rejects.toMatchObject({ code: "JOIN_REFUSED" });
  expect(late.cluster.id).toBeUndefined();
  const gamma = await member(beta, "gamma");
  expect(names(alpha)).toEqual(["alpha", "beta"]);
  // Alpha has never heard of gamma: it hears of it from beta, and takes gamma in from then on.
  await expect(dial(gamma, alpha)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  await dial(beta, alpha);
  await changed(alpha, () => names(alpha).includes("gamma"));
  expect((await dial(gamma, alpha)).peer).toBe(alpha.id);
});

test("two hosts with one token of one use: one of them gets in", async () => {
  const alpha = await founded();
  const token = await alpha.invite();
  const both = await Promise.all([start("one"), start("other")]);
  const outcomes = await Promise.allSettled(both.map((node) => node.join(token)));
  expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  expect(alpha.cluster.members()).toHaveLength(2);
});

test("a token is counted before it is answered, and has expired after its time", async () => {
  const alpha = await founded();
  await member(alpha, "beta");
  const kept = JSON.parse(await readFile(join(alpha.folder, "cluster.json"), "utf8")) as {
    invitations: object[];
  };
  expect(kept.invitations).toEqual([]);
  const token = await alpha.invite({ expiresMs: 10_000 });
  ClusterNode.skewMs = 12_000;
  const late = await start("late");
  await expect(late.join(token)).rejects.toMatchObject({ code: "JOIN_REFUSED" });
  expect(alpha.lines.some((line) => line.includes("unknown, expired or used-up key"))).toBe(true);
});

test("whoever has a token may join with it and do nothing else", async () => {
  const alpha = await founded();
  const token = parseToken(await alpha.invite());
  const stranger = await start("stranger");
  stranger.keys.update({
    members: [alpha.id],
    revoked: [],
    secrets: [{ epoch: 1, othersEndAtMs: 0, secret: token.secret }],
    invitations: [],
  });
  // It takes itself for a member, so it gossips and compares at once, and is cut for the first of that which arrives.
  const connection = await dial(stranger, alpha).catch(() => undefined);
  if (connection !== undefined) {
    const end = closed(connection);
    const channel = await connection.open(SECRETS_PROTOCOL).catch(() => undefined);
    await channel
      ?.send(encodeExchange({ type: "summary", summary: new Uint8Array(32) }))
      .catch(() => undefined);
    await end;
  }
  expect(alpha.lines.some((line) => line.includes(stranger.id) && line.includes("does not allow"))).toBe(
    true,
  );
});

test("the cluster's secret alone opens nothing: its holder has to be a member", async () => {
  const alpha = await founded();
  const beta = await member(alpha, "beta");
  const thief = await start("thief");
  thief.keys.update(beta.cluster.admission());
  await expect(dial(thief, alpha)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  expect(alpha.lines.some((line) => line.includes(thief.id) && line.includes("not a member"))).toBe(true);
});

test("a revoked host is cut wherever it is heard of, and neither its key nor a new token brings it back", async () => {
  const alpha = await founded();
  const beta = await member(alpha, "beta");
  const evil = await member(alpha, "evil");
  await dial(alpha, beta);
  await changed(beta, () => names(beta).includes("evil"));
  const [toAlpha, toBeta] = [await dial(evil, alpha), await dial(evil, beta)];
  const cut = Promise.all([closed(toAlpha), closed(toBeta)]);
  await alpha.cluster.revoke(evil.id, { reason: "stolen", withAdmitted: false });
  await cut;
  for (const node of [alpha, beta]) {
    await expect(dial(evil, node)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
    expect(node.lines.some((line) => line.includes(evil.id) && line.includes("stolen"))).toBe(true);
  }
  await expect(evil.join(await alpha.invite())).rejects.toMatchObject({ code: "JOIN_REFUSED" });
  expect(names(alpha)).toEqual(["alpha", "beta"]);
});

test("with a new secret both are good until the overlap ends; who learned it stays", async () => {
  const alpha = await founded();
  const beta = await member(alpha, "beta");
  const away = await member(alpha, "away");
  await dial(alpha, beta);
  await alpha.cluster.rotateSecret(60_000);
  await changed(beta, () => beta.cluster.secrets()!.all().length === 2);
  // It was away: its secret is the old one still.
  expect((await dial(away, alpha)).peer).toBe(alpha.id);
  await changed(away, () => away.cluster.secrets()!.all().length === 2);
  const slept = await member(alpha, "slept");
  await slept.stop();
  await alpha.cluster.rotateSecret(60_000);
  await changed(beta, () => beta.cluster.secrets()!.all().length === 3);
  ClusterNode.skewMs = 120_000;
  expect((await dial(beta, alpha)).peer).toBe(alpha.id);
  const woken = await ClusterNode.start("slept", slept.folder);
  nodes.push(woken);
  await expect(dial(woken, alpha)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  // What helps is another token.
  await woken.join(await alpha.invite());
  expect((await dial(woken, alpha)).peer).toBe(alpha.id);
});

test("a folder that was closed opens as it was: members, secrets, open tokens", async () => {
  const alpha = await founded();
  const beta = await member(alpha, "beta");
  const token = await alpha.invite();
  await alpha.stop();
  const again = await ClusterNode.start("alpha", alpha.folder);
  nodes.push(again);
  expect(names(again)).toEqual(["alpha", "beta"]);
  expect((await dial(beta, again)).peer).toBe(again.id);
  const gamma = await start("gamma");
  const text = token;
  // It listens on another port now, which the token cannot know.
  await expect(gamma.join(text)).rejects.toMatchObject({ code: "PEER_UNREACHABLE" });
  await gamma.join(await again.invite());
  expect(names(gamma)).toEqual(["alpha", "beta", "gamma"]);
});

test("a cluster file that others may read, or that is damaged, stops the daemon and is not quoted", async () => {
  const alpha = await founded();
  await alpha.stop();
  const file = join(alpha.folder, "cluster.json");
  await chmod(file, 0o640);
  await expect(ClusterNode.start("alpha", alpha.folder)).rejects.toMatchObject({
    code: "CLUSTER_FILE_EXPOSED",
  });
  await chmod(file, 0o600);
  const text = await readFile(file, "utf8");
  await writeFile(file, text.replace('"epoch":1', '"epoch":0'));
  const secret = (JSON.parse(text) as { secrets: { secret: string }[] }).secrets[0]!.secret;
  const failure = (await ClusterNode.start("alpha", alpha.folder).catch((error: unknown) => error)) as Error;
  expect(failure).toMatchObject({ code: "CLUSTER_FILE_CORRUPT" });
  expect(`${failure.stack} ${JSON.stringify(failure)}`).not.toContain(secret);
});

test("a member that sends garbage, forgeries and floods is named, and changes nothing", async () => {
  const alpha = await founded();
  const beta = await member(alpha, "beta");
  const hostile = await member(alpha, "hostile");
  const before = alpha.cluster.list()!.ids();
  const forged = await signStatement(hostile.identity.privateKey, {
    ...{
      kind: "revoke",
      cluster: alpha.cluster.id!,
      by: beta.id,
      host: alpha.id,
      reason: "forged",
      keeps: [],
    },
  } as const);
  const connection = await dial(hostile, alpha);
  const send = async (frames: readonly Uint8Array[]): Promise<void> => {
    const channel = await connection.open(MEMBERS_PROTOCOL);
    for (const frame of frames) await channel.send(frame).catch(() => undefined);
    await channel.close().catch(() => undefined);
    // Ends, or is lost: either way alpha is done with it.
    const { done } = await channel
      .frames()
      .next()
      .catch(() => ({ done: true }));
    expect(done).toBe(true);
  };
  await send([Uint8Array.of(99), new Uint8Array(1000).fill(255)]);
  await send([encodeExchange({ type: "items", items: [forged.bytes] })]);
  const noise = Array.from({ length: 150 }, (_, index) => new Uint8Array(100).fill(index));
  await send([encodeExchange({ type: "items", items: noise })]);
  const flood = encodeExchange({ type: "items", items: [] });
  await send(Array.from({ length: 200 }, () => flood));
  expect(alpha.cluster.list()!.ids()).toEqual(before);
  expect(names(alpha)).toEqual(["alpha", "beta", "hostile"]);
  expect(alpha.lines.some((line) => line.includes("statement refused") && line.includes(hostile.id))).toBe(
    true,
  );
  expect(alpha.lines.some((line) => line.includes("pushes too much") && line.includes(hostile.id))).toBe(
    true,
  );
  expect(alpha.lines.join("")).not.toContain("forged");
});
