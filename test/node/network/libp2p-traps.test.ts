/** What libp2p's defaults do to hosts that stream for minutes, one test for each that is stepped around. */

import { once } from "node:events";
import { createServer } from "node:net";
import { noise } from "@chainsafe/libp2p-noise";
import { generateKeyPair } from "@libp2p/crypto/keys";
import type { Libp2p, MessageStream, Stream } from "@libp2p/interface";
import { ping } from "@libp2p/ping";
import { tcp } from "@libp2p/tcp";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import { pipe } from "it-pipe";
import { createLibp2p, type Libp2pOptions } from "libp2p";
import { afterEach, expect, test } from "vitest";
import { drained } from "../../../node/network/drained.ts";
import { STREAM_WINDOW_SIZE } from "../../../node/network/libp2p-network.ts";
import type { Channel } from "../../../node/network/network.ts";
import { roundTrip } from "../../../node/network/round-trip.ts";
import { Hosts } from "./hosts.ts";

const PROTOCOL = "/test/frames/1.0.0";
const hosts = new Hosts();
const strangers: Libp2p[] = [];
afterEach(async () => {
  await hosts.stop();
  await Promise.all(strangers.splice(0).map((node) => node.stop()));
});

test("a silent link is kept, where the connection monitor would have cut it", async () => {
  const host = await hosts.start();
  await host.handle(PROTOCOL, (channel) => pipe(channel.frames(), channel.sink));
  const relay = await hosts.relay(host);
  const ours = await hosts.start();
  const connection = await ours.dial(relay.address);
  const channel = await connection.open(PROTOCOL);
  const monitored = await stock({
    connectionMonitor: { pingInterval: 100, pingTimeout: { minTimeout: 200, maxTimeout: 400 } },
    services: { ping: ping() },
  });
  const theirs = await monitored.dial(multiaddr(relay.address));
  const aborted = new Promise((resolve) => theirs.addEventListener("close", resolve, { once: true }));

  relay.freeze();
  await aborted;
  expect(ours.connections()).toEqual([connection]);
  relay.thaw();
  await channel.send(Uint8Array.of(1));
  expect((await channel.frames().next()).value).toEqual(Uint8Array.of(1));
});

test("a second wait for drain really waits", async () => {
  const { sender, receiver } = await stalledPair();
  const first = drained(sender);
  receiver.resume();
  await first;
  receiver.pause();
  await fill(sender);
  expect(await waits(sender)).toBe(true);
});

test("a muxer's drain does not end the wait of a stream whose own window is used up", async () => {
  const { sender } = await stalledPair();
  const queued = sender.writeBufferLength;
  const wait = drained(sender).then(() => "drained");
  for (let turn = 0; turn < 5; turn++) {
    sender.dispatchEvent(new Event("drain"));
    await loopTurns(2);
  }
  expect(await Promise.race([wait, loopTurns(20).then(() => "waiting")])).toBe("waiting");
  expect(sender.writeBufferLength).toBe(queued);
});

test("a ping on a stream that has ended is refused once, and leaves no rejection for later", async () => {
  const { sender } = await stalledPair();
  sender.abort(new Error("the connection was cut"));
  const unheard: unknown[] = [];
  const onUnheard = (reason: unknown): void => void unheard.push(reason);
  process.prependListener("unhandledRejection", onUnheard);
  const limit = new AbortController();
  await expect(roundTrip(sender, limit.signal)).rejects.toThrow();
  limit.abort(new Error("too late"));
  await loopTurns(5);
  process.off("unhandledRejection", onUnheard);
  expect(unheard).toEqual([]);
});

test("pausing does not reset the stream, however often and wherever in a window it happens", async () => {
  const frameSizeMax = 64 << 10;
  const host = await hosts.start({ channel: { frameSizeMax, receiveBufferSizeMax: frameSizeMax + 4 } });
  const sender = await hosts.start();
  const arrived = Promise.withResolvers<Channel>();
  await host.handle(PROTOCOL, (channel) => arrived.resolve(channel));
  const connection = await sender.dial(host.addresses()[0]!);
  const channel = await connection.open(PROTOCOL);
  const count = (6 * STREAM_WINDOW_SIZE) / frameSizeMax;
  const piped = pipe(
    Array.from({ length: count }, (_, index) => new Uint8Array(frameSizeMax).fill(index)),
    channel.sink,
  );
  let received = 0;
  for await (const frame of (await arrived.promise).frames()) {
    expect(frame[frameSizeMax - 1]).toBe(received & 255);
    received += 1;
    if (received % 16 === 0) await loopTurns(1);
  }
  await piped;
  expect(received).toBe(count);
});

test("20 hosts of one address connect at once", async () => {
  const host = await hosts.start();
  const others = await Promise.all(Array.from({ length: 20 }, () => hosts.start({ listen: [] })));
  const connections = await Promise.all(others.map((other) => other.dial(host.addresses()[0]!)));
  expect(connections.map(({ peer }) => peer)).toEqual(others.map(() => host.self));
  expect(new Set(host.connections().map(({ peer }) => peer))).toEqual(
    new Set(others.map(({ self }) => self)),
  );
});

test("a connection carries more channels of one protocol than libp2p's 32", async () => {
  const host = await hosts.start();
  await host.handle(PROTOCOL, (channel) => pipe(channel.frames(), channel.sink));
  const connection = await (await hosts.start()).dial(host.addresses()[0]!);
  const channels = await Promise.all(Array.from({ length: 200 }, () => connection.open(PROTOCOL)));
  const echoes = channels.map(async (channel, index) => {
    await channel.send(Uint8Array.of(index));
    return (await channel.frames().next()).value;
  });
  expect(await Promise.all(echoes)).toEqual(channels.map((_, index) => Uint8Array.of(index)));
});

test("a host that was down for many dials is reached when it is back", async () => {
  const port = await freePort();
  const privateKey = await generateKeyPair("Ed25519");
  const host = await hosts.create({ listen: [`/ip4/127.0.0.1/tcp/${port}`] }, privateKey);
  const address = `/ip4/127.0.0.1/tcp/${port}/p2p/${host.self}`;
  const other = await hosts.start();
  for (let attempt = 0; attempt < 8; attempt++) {
    await expect(other.dial(address)).rejects.toMatchObject({ code: "NETWORK_UNREACHABLE" });
  }
  await host.start();
  expect((await other.dial(address)).peer).toBe(host.self);
});

test("a peer that announces a giant muxer frame is cut off at its header", async () => {
  const host = await hosts.start();
  const giant = new Uint8Array(12);
  new DataView(giant.buffer).setUint32(4, 1);
  new DataView(giant.buffer).setUint32(8, 0xffff_ffff);
  const hostile = await stock({}, (connection) => connection.send(giant));
  const connection = await hostile.dial(multiaddr(host.addresses()[0]!));
  if (connection.status === "open") {
    await new Promise((resolve) => connection.addEventListener("close", resolve, { once: true }));
  }
  expect(host.connections()).toEqual([]);
});

/** A node as libp2p makes it, for what ours is compared with. */
async function stock(
  options: Libp2pOptions<Record<string, unknown>>,
  onMuxer?: (connection: MessageStream) => void,
): Promise<Libp2p> {
  const muxer = yamux()();
  const createStreamMuxer = muxer.createStreamMuxer.bind(muxer);
  muxer.createStreamMuxer = (connection) => {
    const made = createStreamMuxer(connection);
    onMuxer?.(connection);
    return made;
  };
  const node = await createLibp2p({
    addresses: { listen: ["/ip4/127.0.0.1/tcp/0"] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [() => muxer],
    ...options,
  });
  strangers.push(node);
  return node;
}

const WINDOW_SIZE = 256 << 10;

/** A stream whose window is used up, because its far end is paused. */
async function stalledPair(): Promise<{ sender: Stream; receiver: Stream }> {
  const streamOptions = { initialStreamWindowSize: WINDOW_SIZE, maxStreamWindowSize: WINDOW_SIZE };
  const options = { connectionMonitor: { enabled: false }, streamMuxers: [yamux({ streamOptions })] };
  const [a, b] = await Promise.all([stock(options), stock(options)]);
  const arrived = Promise.withResolvers<Stream>();
  await b.handle(PROTOCOL, (stream) => {
    stream.addEventListener("message", () => {});
    stream.pause();
    arrived.resolve(stream);
  });
  const sender = await (await a.dial(b.getMultiaddrs())).newStream(PROTOCOL);
  await fill(sender);
  return { sender, receiver: await arrived.promise };
}

/** Sends as long as the wait for drain ends, which a window that nobody renews bounds. */
async function fill(sender: Stream): Promise<void> {
  const chunk = new Uint8Array(64 << 10);
  for (let sent = 0; !(await waits(sender)); sent += chunk.byteLength) {
    expect(sent).toBeLessThanOrEqual(2 * WINDOW_SIZE);
    sender.send(chunk);
  }
  expect(sender.writeBufferLength).toBeGreaterThan(0);
  expect(sender.writeBufferLength).toBeLessThanOrEqual(chunk.byteLength);
}

async function waits(stream: Stream): Promise<boolean> {
  return Promise.race([drained(stream).then(() => false), loopTurns(50).then(() => true)]);
}

/** Turns of the event loop: sockets of this process are read and written in each. */
async function loopTurns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
