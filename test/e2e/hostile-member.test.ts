/**
 * A member of a running cluster that turns hostile, and strangers at its door. Real daemons; the hostile member is a
 * network of ours with a member's key and nothing that holds it back.
 */

import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { hostSigner } from "../../node/host-signer.ts";
import { createLog } from "../../node/log.ts";
import { Libp2pNetwork } from "../../node/network/libp2p-network.ts";
import type { Channel, Connection } from "../../node/network/network.ts";
import { certify } from "../../node/recovery/certificates.ts";
import { RECOVERY_PROTOCOL } from "../../node/recovery/questions.ts";
import { MEMBERSHIP_PROTOCOL } from "../../protocol/membership/limits.ts";
import type { MemberRecord } from "../../protocol/membership/messages.ts";
import { encodeMessage, recordOctets } from "../../protocol/membership/wire.ts";
import { joinPlacement, type Placement, placementOctets } from "../../protocol/placement.ts";
import {
  encodePlacementMessage,
  PLACEMENT_PROTOCOL,
  PLACEMENT_TOPIC,
} from "../../protocol/placement-messages.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { until } from "../../testnet/waiting.ts";
import { ClusterNode } from "../node/cluster/hosts.ts";
import { createDomain, expectUnharmed } from "./hosts.ts";

const MIB = 2 ** 20;
/** What the flood may cost: windows and queues of one peer, and the garbage between two collections. */
const GROWTH_MAX = 160 * MIB;

let cluster: Cluster;
let alpha: ClusterHost;
let beta: ClusterHost;
let evil: ClusterNode;
let network: Libp2pNetwork;
let toAlpha: Connection;

beforeAll(async () => {
  cluster = await Cluster.start({ names: ["alpha", "beta"] });
  alpha = cluster.host("alpha");
  beta = cluster.host("beta");
  await createDomain(alpha, "web");
  evil = await ClusterNode.start("evil");
  await evil.join((await alpha.call("invite", {})).token);
  await evil.stop();
  const log = createLog({ level: "error", sink: () => undefined });
  network = new Libp2pNetwork(
    { privateKey: evil.identity.privateKey, log },
    { role: "control", listen: [], keys: evil.keys, gossip: { onOffence: () => undefined } },
  );
  network.gossip.listen(PLACEMENT_TOPIC, () => "ignore");
  await network.start();
  toAlpha = await dial(alpha);
  await dial(beta);
}, 120_000);

afterAll(async () => {
  await network?.stop();
  await evil?.remove();
  await cluster?.stop();
});

function dial({ ports, hostId }: ClusterHost): Promise<Connection> {
  return network.dial(`/ip4/127.0.0.1/tcp/${ports.control}/p2p/${hostId}`);
}

type Line = Record<string, unknown>;

async function linesOf(host: ClusterHost): Promise<Line[]> {
  const text = await readFile(host.logPath, "utf8");
  return text.split("\n").flatMap((line) => {
    try {
      return [JSON.parse(line) as Line];
    } catch {
      return [];
    }
  });
}

/** Does it again and again until the host has named the hostile member for it. */
async function named(host: ClusterHost, what: Line, act: () => unknown): Promise<void> {
  let isDone = false;
  const acting = (async () => {
    while (!isDone) {
      await act();
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const wanted = Object.entries({ offender: evil.id, ...what });
  const look = async (): Promise<Line | undefined> => {
    const lines = await linesOf(host);
    return lines.find((line) => wanted.every(([key, value]) => line[key] === value));
  };
  // As long as it takes this process, which signs each lie, to make up a flood on a loaded machine.
  const timeoutMs = 150_000;
  await until(`${host.name} names it for ${JSON.stringify(what)}`, look, { timeoutMs }).finally(() => {
    isDone = true;
  });
  await acting;
}

function rss({ pid = 0 }: { pid?: number | undefined }): Promise<number> {
  return readFile(`/proc/${pid}/status`, "utf8").then(
    (text) => Number(/VmRSS:\s+(\d+)/.exec(text)?.[1]) * 1024,
  );
}

function word(said: Partial<Placement>): Uint8Array {
  const nowMs = Date.now();
  const placement: Placement = {
    ...{ domain: "lie", name: "lie", host: evil.id, hostName: "evil", generation: 1, state: "running" },
    ...{ memoryBytes: 4096, vbds: [], replicas: [], seq: nowMs, timeMs: nowMs },
    ...said,
  };
  const octets = placementOctets(placement);
  const sign = hostSigner(evil.identity.privateKey);
  return joinPlacement(placement, { octets, signature: sign(octets) }).octets;
}

async function open(protocol: string): Promise<Channel> {
  if (!network.connections().includes(toAlpha)) toAlpha = await dial(alpha);
  return toAlpha.open(protocol);
}

test("claiming another's domain: its host says that it is not so, everywhere, and nobody's data is touched", async () => {
  const { id } = await alpha.call("show", { domain: "web" });
  const claim = word({ domain: id, name: "web", generation: 5 });
  const speaking = setInterval(() => {
    network.gossip.publish(PLACEMENT_TOPIC, encodePlacementMessage({ type: "records", records: [claim] }));
  }, 200);
  await until("beta shows a conflict", async () => {
    const rows = await beta.call("list", {});
    return rows.find((row) => row.id === id && (row.conflict ?? []).length === 2);
  }).finally(() => clearInterval(speaking));
  const lines = await linesOf(alpha);
  expect(lines).toContainEqual(
    expect.objectContaining({
      level: "error",
      message: "another host claims a domain of this one",
      by: evil.id,
    }),
  );
  await expectUnharmed(alpha, "web");
});

test("a testimony and a chain of custody that it made up: their host goes on with its domain, and names the liar", async () => {
  const { id } = await alpha.call("show", { domain: "web" });
  const asked: string[] = [];
  await network.handle(RECOVERY_PROTOCOL, async (channel) => {
    for await (const frame of channel.frames()) {
      const { ask } = JSON.parse(new TextDecoder().decode(frame)) as { ask: string };
      asked.push(ask);
      const answer = ask === "chain" ? [adoption(id)] : { testimony: ownership(), description: null };
      await channel.send(new TextEncoder().encode(JSON.stringify({ answer })));
    }
    await channel.close();
  });
  const question = new TextEncoder().encode(JSON.stringify({ ask: "your-turn", domain: id }));
  const channel = await open(RECOVERY_PROTOCOL);
  await channel.send(question);
  for await (const frame of channel.frames()) {
    expect(JSON.parse(new TextDecoder().decode(frame))).toEqual({ answer: { did: [] } });
    break;
  }
  await channel.close();
  expect(asked).toContain("custody");
  expect(asked).toContain("chain");
  expect(await linesOf(alpha)).toContainEqual(
    expect.objectContaining({
      level: "error",
      message: "a claim of a domain of this host is not believed",
      by: evil.id,
      doubt: expect.stringContaining("never had the domain"),
    }),
  );
  await expectUnharmed(alpha, "web");
}, 60_000);

/** It says that it runs the domain under a generation far above all others. */
function ownership(): object {
  const silence = { isStopped: false, outgoing: null, incoming: null, replica: null };
  return { host: evil.id, claim: { owner: evil.id, generation: 99 }, guest: "running", ...silence };
}

/** Its operator's word, signed as it has to be. */
function adoption(domain: string): object {
  return certify(
    {
      ...{ kind: "adopted", domain, generation: 99, from: alpha.hostId, to: evil.id, timeMs: Date.now() },
      ...{ word: "alpha burnt down", before: undefined, written: undefined },
    },
    { self: evil.id, sign: hostSigner(evil.identity.privateKey) },
  );
}

test("a word in another's name, in gossip and to one host alone", async () => {
  const forged = word({ host: alpha.hostId, seq: Date.now() });
  const records = encodePlacementMessage({ type: "records", records: [forged] });
  await named(beta, { about: "placement", kind: "forged" }, async () => {
    network.gossip.publish(PLACEMENT_TOPIC, records);
    await pause(300);
  });
  const channel = await open(PLACEMENT_PROTOCOL);
  await channel.send(records);
  await named(alpha, { about: "placement", kind: "forged" }, () => pause(100));
}, 60_000);

test("membership: a farewell in another's name, and a future that cannot be", async () => {
  const rows = await alpha.call("members", {});
  const target = rows.find(({ hostName }) => hostName === "beta")!;
  const unsigned = {
    ...{ host: beta.hostId, incarnation: target.incarnation! + 1, state: "left" as const },
    ...{ name: "beta", addresses: [], freeBytes: 0, domainCount: 0 },
  };
  const sign = hostSigner(evil.identity.privateKey, "sojourn membership 1");
  const say = async (record: Omit<MemberRecord, "signature">): Promise<void> => {
    const signed = { ...record, signature: sign(recordOctets(record)) };
    const update = { record: signed, status: record.state, accusations: [] };
    const channel = await open(MEMBERSHIP_PROTOCOL);
    await channel.send(encodeMessage({ type: "gossip", updates: [update] }));
    await channel.close().catch(() => undefined);
    await pause(300);
  };
  await named(alpha, { about: "membership", kind: "forged" }, () => say(unsigned));
  const inTwoDays = Date.now() + 2 * 24 * 60 * 60_000;
  const own = { ...unsigned, host: evil.id, name: "evil", incarnation: inTwoDays, state: "alive" as const };
  await named(alpha, { about: "membership", kind: "future-dated" }, () => say(own));
  const after = await alpha.call("members", {});
  expect(after.find(({ hostName }) => hostName === "beta")).toMatchObject({ state: "alive" });
}, 60_000);

test("a flood: it is named, the daemon's memory stays bounded, and the others hear each other as before", async () => {
  const [pid] = alpha.pids();
  const before = await rss({ pid });
  let most = before;
  let index = 0;
  await named(alpha, { about: "gossip", kind: "flood" }, async () => {
    for (let count = 0; count < 50; count++, index++) {
      const records = [word({ domain: `flood-${index}`, name: "x".repeat(60), seq: Date.now() + index })];
      network.gossip.publish(PLACEMENT_TOPIC, encodePlacementMessage({ type: "records", records }));
    }
    most = Math.max(most, await rss({ pid }));
    await pause(5);
  });
  expect((most - before) / MIB).toBeLessThan(GROWTH_MAX / MIB);
  await beta.call("create", {
    ...{ name: "beside", hypervisor: "wasm", memoryBytes: 8 * MIB },
    ...{ vbds: [{ name: "root", sizeBytes: 4 * MIB }], config: JSON.stringify({ workload: "idle" }) },
  });
  await until("alpha hears of beta's new domain", async () => {
    const rows = await alpha.call("list", {});
    return rows.find(({ name }) => name === "beside");
  });
  const rows = await alpha.call("list", {});
  expect(rows.filter(({ hostName }) => hostName === "evil").length).toBeLessThanOrEqual(1024);
  await expectUnharmed(alpha, "web");
}, 240_000);

test("a message that announces more than it may: the connection is cut", async () => {
  // What is left of the flood is on its way on the other connection.
  toAlpha = await dial(alpha);
  const channel = await open("/meshsub/1.2.0");
  const ended = new Promise((resolve) => toAlpha.onClose(resolve));
  // A channel's frame begins with its length, 0 0 1 44, which gossip reads as three messages; the rest is no length.
  await named(alpha, { about: "gossip", kind: "oversized" }, async () => {
    await channel.send(new Uint8Array(300).fill(0xff)).catch(() => undefined);
    await pause(50);
  });
  await ended;
}, 60_000);

test("strangers: hundreds of them with garbage in their hands leave the daemon as it was", async () => {
  const [pid] = alpha.pids();
  const before = await rss({ pid });
  const garbage = Buffer.alloc(64 << 10, 0x5a);
  const sockets = Array.from({ length: 300 }, () =>
    connect({ port: alpha.ports.control, host: "127.0.0.1" }),
  );
  const ends = sockets.map((socket) => {
    socket.on("error", () => undefined);
    socket.write(garbage);
    return new Promise((resolve) => socket.once("close", resolve));
  });
  await Promise.all(ends);
  expect(((await rss({ pid })) - before) / MIB).toBeLessThan(GROWTH_MAX / MIB);
  await expectUnharmed(alpha, "web");
  const rows = await alpha.call("members", {});
  expect(rows.find(({ hostName }) => hostName === "beta")).toMatchObject({ state: "alive" });
}, 60_000);

/** Between two tries of something that another process answers in its log. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
