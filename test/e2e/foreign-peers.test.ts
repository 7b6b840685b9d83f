/** Peers that speak another version of the protocol: refused by name, on both sides, and nothing changed. */

import { readFile, writeFile } from "node:fs/promises";
import { generateKeyPair } from "@libp2p/crypto/keys";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { PlanRow } from "../../node/control/api.ts";
import { configFile } from "../../node/data-folder.ts";
import { codec } from "../../node/migration/session.ts";
import type { Network } from "../../node/network/network.ts";
import { HOSTS_PROTOCOL, MIGRATION_PROTOCOL, PROTOCOL_VERSION } from "../../protocol/limits.ts";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { Hosts } from "../node/network/hosts.ts";
import { createDomain, expectUnharmed, refusal, sojournJson } from "./hosts.ts";

const OTHER_VERSION = PROTOCOL_VERSION + 1;
const OLDER_PROTOCOL = "/sojourn/migrate/0.9.0";

type Peer = { control: Network; data: Network };

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
  older = await peer();
  newer = await peer();
  await older.data.handle(OLDER_PROTOCOL, (channel) => channel.close());
  await answerAccept(newer);
  for (const { control, data } of [older, newer]) await answerFacts(control, data);
  const file = configFile(alpha.dataDir);
  const config = JSON.parse(await readFile(file, "utf8")) as object;
  const peers = Object.entries({ older, newer }).map(([name, { control, data }]) => ({
    name,
    control: control.addresses()[0],
    data: data.addresses()[0],
  }));
  await writeFile(file, JSON.stringify({ ...config, peers }));
  await alpha.restart();
  await createDomain(alpha, "web");
}, 120_000);

afterAll(async () => {
  await hosts.stop();
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

async function peer(): Promise<Peer> {
  const identity = await generateKeyPair("Ed25519");
  const control = await hosts.create({ role: "control" }, identity);
  const data = await hosts.create({ role: "data" }, identity);
  await control.start();
  await data.start();
  return { control, data };
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

async function answerFacts(control: Network, data: Network): Promise<void> {
  await control.handle(HOSTS_PROTOCOL, async (channel) => {
    for await (const _question of channel.frames()) {
      const answer = {
        host: control.self,
        hostName: "foreign",
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
