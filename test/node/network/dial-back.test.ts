/** Hosts that cannot be dialled, over real networks on loopback. */

import { afterEach, expect, it } from "vitest";
import { DIAL_BACK_PROTOCOL, DialBackNetwork, nowhere } from "../../../node/network/dial-back.ts";
import type { Channel, Network } from "../../../node/network/network.ts";
import { Hosts } from "./hosts.ts";

const ECHO = "/test/echo/1";
const hosts = new Hosts();
afterEach(() => hosts.stop());

type Ask = (nonce: string) => Promise<void>;

/** `ask` is what the control connection does. */
async function pair(ask: (edge: DialBackNetwork, open: Network, nonce: string) => Promise<void> = dialsBack) {
  const edge = new DialBackNetwork({ network: await hosts.create({ announce: [] }), ask: refuse });
  await edge.handle(ECHO, echo);
  await edge.start();
  const asked: { by: Ask } = { by: refuse };
  const open = new DialBackNetwork({ network: await hosts.create(), ask: (_, nonce) => asked.by(nonce) });
  await open.start();
  asked.by = (nonce) => ask(edge, open, nonce);
  return { edge, open };
}

const dialsBack = (edge: DialBackNetwork, open: Network, nonce: string): Promise<void> =>
  edge.dialBack(open.addresses()[0]!, nonce);

function refuse(): Promise<void> {
  return Promise.reject(new Error("it has nobody to ask"));
}

async function echo(channel: Channel): Promise<void> {
  for await (const frame of channel.frames()) await channel.send(frame);
  await channel.close();
}

async function answerOf(channel: Channel, text: string): Promise<string> {
  await channel.send(Buffer.from(text));
  for await (const frame of channel.frames()) return Buffer.from(frame).toString();
  return "nothing";
}

it("a host without an address is reached by asking it, over a connection for each dial", async () => {
  const { edge, open } = await pair();
  expect(edge.addresses()).toEqual([]);
  const [one, other] = await Promise.all([open.dial(nowhere(edge.self)), open.dial(nowhere(edge.self))]);
  expect(one).not.toBe(other);
  for (const [connection, text] of [
    [one, "one"],
    [other, "other"],
  ] as const) {
    expect({ peer: connection.peer, direction: connection.direction }).toEqual({
      peer: edge.self,
      direction: "inbound",
    });
    expect(await answerOf(await connection.open(ECHO), text)).toBe(text);
  }
  await one.close();
  expect(await answerOf(await other.open(ECHO), "still")).toBe("still");
});

it("addresses are tried in their order, and the way back after them", async () => {
  const { edge, open } = await pair();
  const connection = await open.dial(`/ip4/127.0.0.1/tcp/1/p2p/${edge.self},${nowhere(edge.self)}`);
  expect(await answerOf(await connection.open(ECHO), "hello")).toBe("hello");
});

it("a host that is not asked to is not let in as if it were", async () => {
  const { edge, open } = await pair();
  await expect(async () => {
    await edge.dialBack(open.addresses()[0]!, "0".repeat(32));
    // The nonce is on its way; what comes back is the end.
    await edge.connections()[0]?.ping();
  }).rejects.toThrow();
});

it("a nonce is good for one connection of one host", async () => {
  const nonces: string[] = [];
  const { edge, open } = await pair(async (from, to, nonce) => {
    nonces.push(nonce);
    await dialsBack(from, to, nonce);
  });
  await open.dial(nowhere(edge.self));
  const thief = await hosts.start();
  const connection = await thief.dial(open.addresses()[0]!);
  const ended = new Promise((resolve) => connection.onClose(resolve));
  const channel = await connection.open(DIAL_BACK_PROTOCOL);
  await channel.send(Buffer.from(nonces[0]!));
  await ended;
});

it("a host that does not dial back cannot be reached, and the reason is said", async () => {
  const { edge, open } = await pair(() => Promise.reject(new Error("no connection with it here")));
  await expect(open.dial(nowhere(edge.self))).rejects.toMatchObject({
    code: "NETWORK_UNREACHABLE",
    detail: { reason: expect.stringContaining("no connection with it here") },
  });
  const given = new AbortController();
  const { edge: mute, open: waiting } = await pair(() => new Promise(() => {}));
  const dialling = waiting.dial(nowhere(mute.self), given.signal);
  given.abort(new Error("enough"));
  await expect(dialling).rejects.toThrow("enough");
});
