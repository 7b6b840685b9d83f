/** Who is alive, over real networks on loopback. */

import { afterEach, expect, it } from "vitest";
import { MEMBERSHIP_PROTOCOL } from "../../../protocol/membership/limits.ts";
import { MemoryStore } from "../../../storage/memory-metadata.ts";
import { type GossipHost, GossipHosts } from "./gossip-hosts.ts";

const all = new GossipHosts();
afterEach(() => all.stop());

async function met(count: number): Promise<GossipHost[]> {
  const hosts = await all.make(count);
  await Promise.all(hosts.map((host) => host.start(hosts)));
  await Promise.all(
    hosts.flatMap((host) =>
      hosts.filter((other) => other !== host).map((other) => sees(host, other, "alive")),
    ),
  );
  return hosts;
}

function sees(host: GossipHost, other: GossipHost, status: string): Promise<void> {
  return host.until(() => host.membership.statusOf(other.id) === status, `${other.name} is ${status}`);
}

it("hosts that know one another's addresses know who is alive, and what each says of itself", async () => {
  const [alpha, beta, gamma] = await met(3);
  const view = alpha!.membership.view(gamma!.id);
  expect(view).toMatchObject({ name: "host-2", status: "alive", freeBytes: 1 << 30, accusers: [] });
  expect(beta!.membership.active().sort()).toEqual([alpha!.id, gamma!.id].sort());
});

it("a host that ends without a word is dead to all, and alive again when it is back, under a higher incarnation", async () => {
  const [alpha, beta, gamma] = (await met(3)) as [GossipHost, GossipHost, GossipHost];
  const before = alpha.membership.view(gamma.id)?.incarnation ?? 0;
  await gamma.stop();
  await Promise.all([sees(alpha, gamma, "dead"), sees(beta, gamma, "dead")]);
  const again = await all.again(gamma, new MemoryStore());
  for (const host of [alpha, beta]) host.meet([alpha, beta, again]);
  await again.start([alpha, beta, again]);
  await Promise.all([sees(alpha, again, "alive"), sees(beta, again, "alive")]);
  expect(alpha.membership.view(gamma.id)?.incarnation).toBeGreaterThan(before);
});

it("a host that leaves has left, and nobody takes it for dead", async () => {
  const [alpha, beta, gamma] = (await met(3)) as [GossipHost, GossipHost, GossipHost];
  const heard: (string | undefined)[] = [];
  alpha.membership.onChange(({ host, to }) => {
    if (host === gamma.id) heard.push(to);
  });
  await gamma.membership.leave();
  await Promise.all([sees(alpha, gamma, "left"), sees(beta, gamma, "left")]);
  expect(heard).toEqual(["left"]);
});

it("a host that is no member any more is forgotten, and not listened to", async () => {
  const [alpha, beta, gamma] = (await met(3)) as [GossipHost, GossipHost, GossipHost];
  alpha.meet([alpha, beta]);
  expect(alpha.membership.view(gamma.id)).toBeUndefined();
  const connection = await gamma.links.connect(alpha.id, MEMBERSHIP_PROTOCOL);
  const channel = await connection.open(MEMBERSHIP_PROTOCOL);
  await expect(channel.frames().next()).rejects.toMatchObject({ code: "NETWORK_LOST" });
  expect(alpha.membership.view(gamma.id)).toBeUndefined();
});

it("what is no message ends its channel, and its host is named", async () => {
  const [alpha, beta] = (await met(2)) as [GossipHost, GossipHost];
  const connection = await beta.links.connect(alpha.id, MEMBERSHIP_PROTOCOL);
  const channel = await connection.open(MEMBERSHIP_PROTOCOL);
  await channel.send(new Uint8Array([0, 4, 255, 255, 255]));
  await expect(channel.frames().next()).rejects.toMatchObject({ code: "NETWORK_LOST" });
  expect(alpha.offences()).toMatchObject([{ about: "membership", offender: beta.id, kind: "malformed" }]);
  expect(alpha.membership.statusOf(beta.id)).not.toBe("dead");
});
