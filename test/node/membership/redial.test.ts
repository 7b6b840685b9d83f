/** How hosts find each other again, and reach those that nobody can dial: over real networks on loopback. */

import { afterEach, expect, it } from "vitest";
import { systemClock } from "../../../node/clock.ts";
import { NO_LOG } from "../../../node/log.ts";
import { Links } from "../../../node/membership/links.ts";
import { Redial } from "../../../node/membership/redial.ts";
import type { Libp2pNetwork } from "../../../node/network/libp2p-network.ts";
import { HostDialBack } from "../../../node/peers/dial-back.ts";
import { answerQuestions } from "../../../node/peers/host-questions.ts";
import { Peers } from "../../../node/peers/peers.ts";
import { HOSTS_PROTOCOL } from "../../../protocol/limits.ts";
import { Hosts } from "../network/hosts.ts";

const hosts = new Hosts();
const redials: Redial[] = [];
afterEach(async () => {
  for (const redial of redials.splice(0)) redial.stop();
  await hosts.stop();
});

class Host {
  readonly network: Libp2pNetwork;
  readonly links: Links;
  readonly peers: Peers;
  /** Members that are alive, this one left out. */
  others: string[] = [];

  constructor(network: Libp2pNetwork) {
    this.network = network;
    const clock = systemClock;
    this.links = new Links({ network, clock }, { dialTimeoutMs: 2000 });
    this.peers = new Peers({ links: this.links, clock, log: NO_LOG });
  }

  static async start(options: { announce?: string[] } = {}): Promise<Host> {
    const host = new Host(await hosts.create({ role: "control", ...options }));
    const dialBack = new HostDialBack({
      ...{ self: host.id, peers: host.peers, links: host.links },
      active: () => host.others,
      dialBulk: () => Promise.reject(new Error("no bulk network here")),
    });
    host.links.summonBy(dialBack.summon);
    const unasked = () => Promise.reject(new Error("not asked here"));
    await answerQuestions(host.network, { facts: unasked, probe: unasked, dialBack: dialBack.answer });
    await host.network.start();
    return host;
  }

  get id(): string {
    return this.network.self;
  }

  /** The others are members, at the addresses that they announce. */
  meet(...others: Host[]): void {
    this.others = others.map(({ id }) => id);
    this.peers.setMembers(
      others.map(({ id, network }) => ({
        host: id,
        name: id.slice(-4),
        addresses: { control: network.addresses().map((address) => address.split("/p2p/")[0]!), data: [] },
      })),
    );
  }

  redial(seeds: readonly string[] = []): Redial {
    const { network, links } = this;
    const members = (): string[] => this.others;
    const redial = new Redial(
      { network, links, active: members, members, isMember: (host) => this.others.includes(host) },
      { seeds },
    );
    redials.push(redial);
    redial.start();
    return redial;
  }

  /** Resolves when somebody of that id connects, or is connected. */
  connectedWith(other: Host): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (this.network.connections().some(({ peer }) => peer === other.id)) resolve();
      };
      this.network.onConnection(look);
      look();
    });
  }
}

it("a seed is dialled at the start, and again when no member is reached", async () => {
  const [alpha, beta] = [await Host.start(), await Host.start()];
  // The list knows it as a member, and not where it is.
  alpha.others = [beta.id];
  alpha.redial([beta.network.addresses()[0]!]);
  await alpha.connectedWith(beta);
  const [connection] = alpha.network.connections();
  const lost = new Promise((resolve) => connection!.onClose(resolve));
  await connection!.close();
  await lost;
  await alpha.connectedWith(beta);
}, 20_000);

it("a seed that is no member is not dialled", async () => {
  const [alpha, stranger, beta] = [await Host.start(), await Host.start(), await Host.start()];
  alpha.others = [beta.id];
  alpha.redial([stranger.network.addresses()[0]!, beta.network.addresses()[0]!]);
  await alpha.connectedWith(beta);
  expect(alpha.network.connections().map(({ peer }) => peer)).toEqual([beta.id]);
});

it("who says by mDNS that it is near is dialled if it is a member", async () => {
  const [alpha, beta, stranger] = [await Host.start(), await Host.start(), await Host.start()];
  alpha.others = [beta.id];
  const redial = alpha.redial();
  redial.found(stranger.id, stranger.network.addresses());
  redial.found(beta.id, [beta.network.addresses()[0]!.split("/p2p/")[0]!]);
  await alpha.connectedWith(beta);
  expect(alpha.links.addressesOf(stranger.id)).toEqual([]);
});

it("a host that announces no address connects with every member itself", async () => {
  const [edge, alpha, beta] = [await Host.start({ announce: [] }), await Host.start(), await Host.start()];
  for (const host of [alpha, beta]) host.meet(edge);
  edge.meet(alpha, beta);
  edge.redial();
  await Promise.all([alpha.connectedWith(edge), beta.connectedWith(edge)]);
  expect(alpha.links.addressesOf(edge.id)).toEqual([]);
});

it("a host without an address is reached by way of one that has a connection with it", async () => {
  const [edge, alpha, beta] = [await Host.start({ announce: [] }), await Host.start(), await Host.start()];
  edge.meet(alpha, beta);
  alpha.meet(edge, beta);
  beta.meet(edge, alpha);
  await edge.links.connect(alpha.id, HOSTS_PROTOCOL);
  const connection = await beta.links.connect(edge.id, HOSTS_PROTOCOL);
  expect({ peer: connection.peer, direction: connection.direction }).toEqual({
    peer: edge.id,
    direction: "inbound",
  });
  // It is an answer that counts, not a socket.
  await connection.ping();
});

it("of two hosts without an address neither reaches the other, and both know why", async () => {
  const [edge, other, alpha] = [
    await Host.start({ announce: [] }),
    await Host.start({ announce: [] }),
    await Host.start(),
  ];
  edge.meet(other, alpha);
  other.meet(edge, alpha);
  alpha.meet(edge, other);
  await Promise.all([edge, other].map((host) => host.links.connect(alpha.id, HOSTS_PROTOCOL)));
  await expect(edge.links.connect(other.id, HOSTS_PROTOCOL)).rejects.toThrow(/announces an address/);
});

it("nobody can have a host dial for a third, or dial a host that it does not know", async () => {
  const [edge, alpha, evil] = [await Host.start({ announce: [] }), await Host.start(), await Host.start()];
  edge.meet(alpha, evil);
  alpha.meet(edge, evil);
  evil.meet(edge, alpha);
  for (const host of [alpha, evil]) await edge.links.connect(host.id, HOSTS_PROTOCOL);
  await evil.links.connect(alpha.id, HOSTS_PROTOCOL);
  const signal = AbortSignal.timeout(5_000);
  const wish = { ask: "dial-back", from: edge.id, to: alpha.id } as const;
  // By way of alpha only alpha's own wishes go, and evil is not alpha.
  await expect(
    evil.peers.askToDial({ ...wish, to: evil.id.slice(0, -1) }, [alpha.id], signal),
  ).rejects.toThrow();
  await expect(evil.peers.askToDial({ ...wish, to: "nobody" }, [edge.id], signal)).rejects.toThrow(
    /announces/,
  );
});
