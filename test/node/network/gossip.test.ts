/** Gossip over real networks on loopback, with the settings that gossipsub needs among few hosts. */

import { afterEach, expect, it } from "vitest";
import type { GossipMessage, GossipVerdict } from "../../../node/network/gossip.ts";
import type { Libp2pNetwork } from "../../../node/network/libp2p-network.ts";
import { Hosts } from "./hosts.ts";

const TOPIC = "/test/1";
const hosts = new Hosts();
afterEach(() => hosts.stop());

type Offence = { peer: string; kind: string };

class Gossiper {
  readonly network: Libp2pNetwork;
  readonly heard: string[] = [];
  readonly messages: GossipMessage[] = [];
  readonly offences: Offence[] = [];
  verdict: (text: string) => GossipVerdict = () => "accept";
  #wake = (): void => {};

  constructor(make: (onOffence: (peer: string, kind: string) => void) => Libp2pNetwork) {
    this.network = make((peer, kind) => {
      this.offences.push({ peer, kind });
      this.#wake();
    });
  }

  static async start(): Promise<Gossiper> {
    let onOffence = (_peer: string, _kind: string): void => {};
    const network = await hosts.create({
      role: "control",
      gossip: { onOffence: (peer, kind) => onOffence(peer, kind) },
    });
    const gossiper = new Gossiper((told) => {
      onOffence = told;
      return network;
    });
    network.gossip.listen(TOPIC, (message) => {
      gossiper.messages.push(message);
      gossiper.heard.push(Buffer.from(message.data).toString());
      gossiper.#wake();
      return gossiper.verdict(gossiper.heard.at(-1)!);
    });
    await network.start();
    return gossiper;
  }

  say(text: string): void {
    this.network.gossip.publish(TOPIC, Buffer.from(text));
  }

  async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  hears(text: string): Promise<void> {
    return this.until(() => this.heard.includes(text));
  }
}

/** Says it again and again until everybody has heard it: who was attached late has not heard the first. */
async function reaches(from: Gossiper, others: readonly Gossiper[]): Promise<void> {
  let round = 0;
  const speaking = setInterval(() => from.say(`are you there ${round++}`), 50);
  await Promise.all(others.map((other) => other.until(() => other.messages.some(isFrom(from)))));
  clearInterval(speaking);
}

function isFrom({ network }: Gossiper): (message: GossipMessage) => boolean {
  return ({ author }) => author === network.self;
}

async function met(count: number): Promise<Gossiper[]> {
  const all: Gossiper[] = [];
  for (let index = 0; index < count; index++) all.push(await Gossiper.start());
  for (const [index, one] of all.entries()) {
    await Promise.all(all.slice(index + 1).map((other) => dial(one, other)));
  }
  return all;
}

function dial(one: Gossiper, other: Gossiper) {
  return one.network.dial(other.network.addresses()[0]!);
}

it("one message reaches fifteen hosts behind one address, and each judges it once", async () => {
  const all = await met(16);
  const [first, ...others] = all as [Gossiper, ...Gossiper[]];
  await reaches(first, others);
  first.say("news");
  await Promise.all(others.map((other) => other.hears("news")));
  expect(others.map(({ heard }) => heard.filter((text) => text === "news").length)).toEqual(
    others.map(() => 1),
  );
  expect(others[0]!.messages.at(-1)).toMatchObject({ author: first.network.self });
}, 30_000);

it("two hosts hear each other, and publishing while alone is no error", async () => {
  const [one, other] = (await met(1)).concat(await Gossiper.start()) as [Gossiper, Gossiper];
  one.say("nobody is there");
  await dial(one, other);
  await Promise.all([reaches(one, [other]), reaches(other, [one])]);
  expect(other.heard).not.toContain("nobody is there");
});

it("what a host rejects or ignores goes no further", async () => {
  const [one, middle, last] = [await Gossiper.start(), await Gossiper.start(), await Gossiper.start()];
  middle.verdict = (text) =>
    text.startsWith("reject") ? "reject" : text.startsWith("ignore") ? "ignore" : "accept";
  await dial(one, middle);
  await dial(middle, last);
  await reaches(one, [last]);
  for (const text of ["reject this", "ignore this", "pass this"]) one.say(text);
  await last.hears("pass this");
  expect(middle.heard).toEqual(expect.arrayContaining(["reject this", "ignore this"]));
  expect(last.heard).not.toEqual(expect.arrayContaining([expect.stringMatching(/^(reject|ignore)/)]));
});

it("a host that brings what no honest host passes on is named, and not listened to any more", async () => {
  const [one, other] = (await met(2)) as [Gossiper, Gossiper];
  await reaches(one, [other]);
  other.verdict = (text) => (text.startsWith("bad") ? "reject" : "accept");
  for (let index = 0; index < 20; index++) {
    one.say(`bad ${index}`);
    await other.until(() => other.heard.includes(`bad ${index}`) || other.offences.length > 0);
  }
  await other.until(() => other.offences.length > 0);
  expect(other.offences[0]).toEqual({ peer: one.network.self, kind: "ignored" });
  const before = other.heard.length;
  one.say("good");
  const [connection] = other.network.connections();
  for (let round = 0; round < 3; round++) await connection!.ping();
  expect(other.heard.length).toBe(before);
}, 20_000);

it("gossip goes on over the other connection when one of two is lost", async () => {
  const [one, other] = [await Gossiper.start(), await Gossiper.start()];
  const first = await dial(one, other);
  await Promise.all([reaches(one, [other]), reaches(other, [one])]);
  await dial(other, one);
  await first.close();
  one.messages.length = 0;
  other.messages.length = 0;
  await Promise.all([reaches(one, [other]), reaches(other, [one])]);
}, 20_000);

it("gossip is back when a cut link is back", async () => {
  const [one, other] = [await Gossiper.start(), await Gossiper.start()];
  const relay = await hosts.relay(other.network);
  await one.network.dial(relay.address);
  await Promise.all([reaches(one, [other]), reaches(other, [one])]);
  relay.sever();
  one.messages.length = 0;
  other.messages.length = 0;
  await one.network.dial(relay.address);
  await Promise.all([reaches(one, [other]), reaches(other, [one])]);
}, 20_000);

it("gossip goes on however connections come and go", async () => {
  const [one, other] = [await Gossiper.start(), await Gossiper.start()];
  const [first, second] = [await hosts.relay(other.network), await hosts.relay(one.network)];
  await one.network.dial(first.address);
  for (let round = 0; round < 5; round++) {
    await other.network.dial(second.address);
    first.reset();
    await one.network.dial(first.address);
    second.reset();
  }
  one.messages.length = 0;
  other.messages.length = 0;
  await Promise.all([reaches(one, [other]), reaches(other, [one])]);
}, 30_000);
