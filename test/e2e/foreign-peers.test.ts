/** Members that speak another version of the protocol: refused by name, on both sides, and nothing changed. */

import { afterAll, beforeAll, expect, test } from "vitest";
import type { PlanRow } from "../../node/control/api.ts";
import { codec } from "../../node/migration/session.ts";
import type { Network } from "../../node/network/network.ts";
import { HOSTS_PROTOCOL, MIGRATION_PROTOCOL, PROTOCOL_VERSION } from "../../protocol/limits.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { ClusterNode } from "../node/cluster/hosts.ts";
import { Hosts } from "../node/network/hosts.ts";
import { createDomain, expectUnharmed, refusal, sojournJson } from "./hosts.ts";

const OTHER_VERSION = PROTOCOL_VERSION + 1;
const OLDER_PROTOCOL = "/sojourn/migrate/0.9.0";

type Peer = { member: ClusterNode; data: Network };

const hosts = new Hosts();
let cluster: Cluster;
let alpha: ClusterHost;
/** Speaks an older protocol only. */
let older: Peer;
/** Speaks ours by name, and another version of it. */
let newer: Peer;

beforeAll(async () => {
  cluster = await Cluster.start({ names: ["alpha"] });
  alpha = cluster.host("alpha");
  older = await join("older");
  newer = await join("newer");
  await older.data.handle(OLDER_PROTOCOL, (channel) => channel.close());
  await answerAccept(newer);
  for (const peer of [older, newer]) await answerFacts(peer);
  await createDomain(alpha, "web");
}, 120_000);

afterAll(async () => {
  await hosts.stop();
  await Promise.all([older, newer].map((peer) => peer?.member.remove()));
  await cluster?.stop();
});

test("a peer that speaks an older protocol only", async () => {
  const error = await refusal(alpha, ["migrate", "web", "older"], "MIGRATION_REFUSED");
  expect(error.detail).toMatchObject({ cause: "PEER_VERSION", to: "older" });
  expect(error.message).toContain("another version");
  await expectUnharmed(alpha, "web");
});

test("a peer that accepts with another version", async () => {
  const error = await refusal(alpha, ["migrate", "web", "newer"], "MIGRATION_REFUSED");
  expect(error.detail).toMatchObject({ cause: "PEER_VERSION", to: "newer" });
  await expectUnharmed(alpha, "web");
});

test("a peer that says so when it is asked: no plan, and why", async () => {
  const rows = await sojournJson<PlanRow[]>(alpha, "plan", "web");
  const { refusal: reason, vbds } = rows.find(({ hostName }) => hostName === "newer")!;
  expect(vbds).toEqual([]);
  expect(reason).toContain(`protocol version ${OTHER_VERSION}`);
});

test("a source of another version is told which, and leaves nothing behind", async () => {
  const before = await alpha.call("list", {});
  const connection = await newer.data.dial(alphaData());
  const channel = await connection.open(MIGRATION_PROTOCOL);
  const begin = codec.encode({
    type: "begin",
    version: OTHER_VERSION,
    migration: "another-version",
    generation: 1,
    domain: {
      id: "11111111-2222-3333-4444-555555555555",
      name: "foreign",
      hypervisor: "wasm",
      memoryBytes: 8 * 2 ** 20,
      config: "",
      vbds: [{ name: "root", sizeBytes: 4096 }],
    },
    dataBytes: 4096,
  });
  for (const frame of begin) await channel.send(frame);
  const decoder = codec.decodeDestination();
  const answers = [];
  for await (const frame of channel.frames()) answers.push(decoder.decode(frame));
  expect(answers).toEqual([
    { type: "refuse", code: "PEER_VERSION", reason: expect.stringContaining(String(PROTOCOL_VERSION)) },
  ]);
  await connection.close();
  expect(await alpha.call("list", {})).toHaveLength(before.length);
  await expectUnharmed(alpha, "web");
});

async function join(name: string): Promise<Peer> {
  const member = await ClusterNode.start(name);
  const data = await hosts.create({ role: "data", keys: member.keys }, member.identity.privateKey);
  await data.start();
  member.dataAddresses = data.addresses().map((address) => address.split("/p2p/")[0]!);
  await member.join((await alpha.call("invite", {})).token);
  return { member, data };
}

async function answerAccept({ data }: Peer): Promise<void> {
  await data.handle(MIGRATION_PROTOCOL, async (channel) => {
    for await (const _begin of channel.frames()) {
      const accept = {
        type: "accept",
        version: OTHER_VERSION,
        session: "s",
        copies: [{ kind: "none" }],
        memoryTaken: 0,
      } as const;
      for (const frame of codec.encode(accept)) await channel.send(frame);
    }
  });
}

async function answerFacts({ member, data }: Peer): Promise<void> {
  await member.network.handle(HOSTS_PROTOCOL, async (channel) => {
    for await (const _question of channel.frames()) {
      const answer = {
        host: member.id,
        hostName: member.name,
        version: "9.9.9",
        protocolVersion: OTHER_VERSION,
        dataAddresses: [...data.addresses()],
        domains: 0,
        freeBytes: 2 ** 40,
      };
      await channel.send(new TextEncoder().encode(JSON.stringify({ answer })));
    }
    await channel.close();
  });
}

function alphaData(): string {
  return `/ip4/127.0.0.1/tcp/${alpha.ports.data}/p2p/${alpha.hostId}`;
}
