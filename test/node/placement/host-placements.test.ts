/** Where domains are, told over real networks on loopback. */

import { afterEach, expect, it } from "vitest";
import { joinPlacement, type Placement, placementOctets } from "../../../protocol/placement.ts";
import { encodePlacementMessage, PLACEMENT_PROTOCOL } from "../../../protocol/placement-messages.ts";
import { MemoryStore } from "../../../storage/memory-metadata.ts";
import { domainRecord } from "../../contract/metadata-records.ts";
import { type GossipHost, GossipHosts } from "../membership/gossip-hosts.ts";

const all = new GossipHosts();
afterEach(() => all.stop());

async function met(count: number): Promise<GossipHost[]> {
  const hosts = await all.make(count);
  await Promise.all(hosts.map((host) => host.start(hosts)));
  const others = hosts.length - 1;
  await Promise.all(
    hosts.map((host) => host.until(() => host.membership.active().length === others, "all are alive")),
  );
  return hosts;
}

/** The host's journal says so, and the host does. */
async function has(host: GossipHost, id: string, generation: number): Promise<void> {
  await host.metadata.domains.put(domainRecord({ id, name: id, owner: host.id, generation }), {
    sync: false,
  });
  await host.placements.update(id);
}

function hears(host: GossipHost, id: string, from: GossipHost, generation: number): Promise<void> {
  const isSo = (): boolean => {
    const claim = host.placements.view(id)?.claim;
    return claim?.host === from.id && claim.generation === generation;
  };
  return host.until(isSo, `${id} is on ${from.name} under ${generation}`);
}

function signedBy(host: GossipHost, said: Placement): Uint8Array {
  const octets = placementOctets(said);
  return joinPlacement(said, { octets, signature: host.sign(octets) }).octets;
}

it("what a host says reaches all, and a handover's new host outdoes the old", async () => {
  const [alpha, beta, gamma] = (await met(3)) as [GossipHost, GossipHost, GossipHost];
  await has(alpha, "web", 1);
  await Promise.all([hears(beta, "web", alpha, 1), hears(gamma, "web", alpha, 1)]);
  await alpha.metadata.domains.put(
    domainRecord({ id: "web", owner: beta.id, generation: 2, state: "away" }),
    { sync: false },
  );
  await has(beta, "web", 2);
  await Promise.all([hears(alpha, "web", beta, 2), hears(gamma, "web", beta, 2)]);
  expect(gamma.placements.view("web")?.others).toEqual([]);
});

it("a host that was away knows again what it knew, and then all that it missed", async () => {
  const [alpha, beta, gamma] = (await met(3)) as [GossipHost, GossipHost, GossipHost];
  await has(alpha, "kept", 1);
  await has(alpha, "moved", 1);
  await Promise.all([hears(gamma, "kept", alpha, 1), hears(gamma, "moved", alpha, 1)]);
  await gamma.stop();
  await gamma.metadata.close();
  const disk = new MemoryStore(gamma.store.durable());
  await alpha.metadata.domains.put(
    domainRecord({ id: "moved", owner: beta.id, generation: 2, state: "away" }),
    { sync: false },
  );
  await has(beta, "moved", 2);
  for (let index = 0; index < 200; index++) await has(beta, `new-${index}`, 1);
  const again = await all.again(gamma, disk);
  for (const host of [alpha, beta]) host.meet([alpha, beta, again]);
  await again.start([alpha, beta, again]);
  await Promise.all([
    hears(again, "kept", alpha, 1),
    hears(again, "moved", beta, 2),
    hears(again, "new-199", beta, 1),
  ]);
  await again.until(() => again.placements.summary() === beta.placements.summary(), "both know the same");
});

it("two hosts that claim one generation are a conflict everywhere, and it is loud", async () => {
  const [alpha, beta, gamma] = (await met(3)) as [GossipHost, GossipHost, GossipHost];
  await has(alpha, "web", 3);
  await has(beta, "web", 3);
  for (const host of [alpha, beta, gamma]) {
    await host.until(() => host.placements.view("web")?.others.length === 1, "two claim it");
    expect(
      host.lines.some(({ level, message }) => level === "error" && /claim one domain/.test(message)),
    ).toBe(true);
  }
});

it("a member that claims another's domain is disputed by whose journal has it, where all can see", async () => {
  const [alpha, beta, gamma] = (await met(3)) as [GossipHost, GossipHost, GossipHost];
  await has(alpha, "web", 3);
  await hears(gamma, "web", alpha, 3);
  await has(beta, "web", 7);
  await hears(gamma, "web", beta, 7);
  await gamma.until(() => gamma.placements.view("web")?.others[0]?.host === alpha.id, "alpha disputes that");
  expect(
    alpha.lines.some(({ level, message }) => level === "error" && /claims a domain of this/.test(message)),
  ).toBe(true);
  // When its journal gives way, nobody is told of a quarrel any more.
  await alpha.metadata.domains.put(
    domainRecord({ id: "web", owner: beta.id, generation: 7, state: "away" }),
    { sync: false },
  );
  await alpha.placements.update("web");
  for (const host of [alpha, beta, gamma]) {
    await host.until(() => host.placements.view("web")?.others.length === 0, "alpha has given in");
  }
});

it("a host that brings forged words is named, and cut off when it goes on", async () => {
  const [alpha, beta] = (await met(2)) as [GossipHost, GossipHost];
  await has(alpha, "web", 1);
  await hears(beta, "web", alpha, 1);
  const said = beta.placements.view("web")!.claim;
  const forged = signedBy(beta, { ...said, hostName: "not alpha", seq: said.seq + 1 });
  const connection = await beta.links.connect(alpha.id, PLACEMENT_PROTOCOL);
  const channel = await connection.open(PLACEMENT_PROTOCOL);
  await channel.send(
    encodePlacementMessage({ type: "records", records: new Array<Uint8Array>(200).fill(forged) }),
  );
  await expect(channel.frames().next()).rejects.toMatchObject({ code: "NETWORK_LOST" });
  expect(alpha.offences()).toMatchObject([{ about: "placement", offender: beta.id, kind: "forged" }]);
  expect(alpha.placements.view("web")?.claim.hostName).toBe(alpha.name);
});
