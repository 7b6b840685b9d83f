/** What every `Network` does. Run it with a harness; see test/node/network for two of them. */

import { createHash } from "node:crypto";
import { pipe } from "it-pipe";
import { afterEach, describe, expect, test } from "vitest";
import type { Channel, Connection, Network } from "../../node/network/network.ts";

export type NetworkHarness = {
  /** A started host. */
  host(options?: { frameSizeMax?: number }): Promise<Network>;
  /** A way to `host` that can be cut without a word to either end. */
  severable(host: Network): Promise<{ address: string; sever(): void }>;
  /** Bytes a sender may be ahead of a reader that does not read. */
  aheadSizeMax: number;
  stop(): Promise<void>;
};

const PROTOCOL = "/test/frames/1.0.0";
const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);

export function networkContract(name: string, createHarness: () => Promise<NetworkHarness>): void {
  describe(`${name} (SEED=${seed})`, () => {
    let harness: NetworkHarness | undefined;
    const start = async (): Promise<NetworkHarness> => (harness = await createHarness());
    afterEach(async () => {
      await harness?.stop();
      harness = undefined;
    });

    describeFrames(start);
    describeEnds(start);
    describeLimits(start);
    describeConnections(start);
  });
}

type Start = () => Promise<NetworkHarness>;

function describeFrames(start: Start): void {
  test("frames of 1 byte to 1 MiB, in one part or many, arrive whole and in order", async () => {
    const { here, there } = await channelPair(await start());
    const random = prng(seed);
    const sizes = [
      1,
      2,
      3,
      65_507,
      65_536,
      1 << 20,
      ...Array.from({ length: 40 }, () => 1 + (random() % (1 << 20))),
    ];
    const frames = sizes.map((size) => randomBytes(random, size));
    const sent = async (): Promise<void> => {
      for (const frame of frames) await here.send(partsOf(frame, random));
      await here.close();
    };
    const [received] = await Promise.all([collect(there), sent()]);
    expect(received.map(digest)).toEqual(frames.map(digest));
  });

  test("an empty frame is a frame", async () => {
    const { here, there } = await channelPair(await start());
    await here.send(new Uint8Array(0));
    await here.send([]);
    await here.send(Uint8Array.of(7));
    await here.close();
    expect((await collect(there)).map((frame) => [...frame])).toEqual([[], [], [7]]);
  });

  test("many frames travel both ways at once", async () => {
    const { here, there } = await channelPair(await start());
    const echoing = pipe(there.frames(), there.sink);
    const frames = Array.from({ length: 300 }, (_, index) => new Uint8Array(50_000).fill(index));
    const [back] = await Promise.all([collect(here), pipe(frames, here.sink)]);
    await echoing;
    expect(back.map(digest)).toEqual(frames.map(digest));
  });

  test("concurrent sends leave in the order of their calls", async () => {
    const { here, there } = await channelPair(await start());
    const sends = Array.from({ length: 200 }, (_, index) => here.send(new Uint8Array(20_000).fill(index)));
    const closed = here.close();
    const received = await collect(there);
    await Promise.all([...sends, closed]);
    expect(received.map((frame) => frame[0])).toEqual(Array.from({ length: 200 }, (_, index) => index & 255));
  });

  test("a later reader goes on where an earlier one stopped", async () => {
    const { here, there } = await channelPair(await start());
    await pipe(
      Array.from({ length: 10 }, (_, index) => Uint8Array.of(index)),
      here.sink,
    );
    const first: number[] = [];
    for await (const frame of there.frames()) {
      first.push(frame[0]!);
      if (first.length === 4) break;
    }
    expect(first).toEqual([0, 1, 2, 3]);
    expect((await collect(there)).map((frame) => frame[0])).toEqual([4, 5, 6, 7, 8, 9]);
  });

  test("64 channels of one connection carry their own frames", async () => {
    const { a, b } = await pairOf(await start());
    await b.handle(PROTOCOL, (channel) => pipe(channel.frames(), channel.sink));
    const connection = await a.dial(b.addresses()[0]!);
    const echoed = async (index: number): Promise<void> => {
      const channel = await connection.open(PROTOCOL);
      const frames = Array.from({ length: 20 }, (_, turn) => new Uint8Array(10_000 + turn).fill(index));
      const [back] = await Promise.all([collect(channel), pipe(frames, channel.sink)]);
      expect(back.map(digest)).toEqual(frames.map(digest));
    };
    await Promise.all(Array.from({ length: 64 }, (_, index) => echoed(index)));
  });
}

function describeEnds(start: Start): void {
  test("a close ends the peer's frames and leaves the other direction open", async () => {
    const { here, there } = await channelPair(await start());
    await here.send(Uint8Array.of(1));
    await here.close();
    expect(await collect(there)).toHaveLength(1);
    await there.send(Uint8Array.of(2));
    await there.send(Uint8Array.of(3));
    await there.close();
    expect((await collect(here)).map((frame) => frame[0])).toEqual([2, 3]);
  });

  test("a send after our close is refused", async () => {
    const { here } = await channelPair(await start());
    await here.close();
    await expect(here.send(Uint8Array.of(1))).rejects.toMatchObject({ code: "NETWORK_CLOSED" });
    await here.close();
  });

  test("a cut connection is a loss and never an end, after the whole frames that arrived", async () => {
    const harness = await start();
    const { a, b } = await pairOf(harness);
    const { address, sever } = await harness.severable(b);
    const { here, there, connection } = await openPair(a, b, address);
    const closed = Promise.withResolvers<void>();
    connection.onClose(() => closed.resolve());
    await here.send(Uint8Array.of(1));
    await here.send(Uint8Array.of(2));
    await connection.ping();
    sever();
    const frames: number[] = [];
    await expect(collect(there, (frame) => frames.push(frame[0]!))).rejects.toMatchObject({
      code: "NETWORK_LOST",
    });
    expect(frames).toEqual([1, 2]);
    await expect(collect(here)).rejects.toMatchObject({ code: "NETWORK_LOST" });
    await expect(here.send(Uint8Array.of(3))).rejects.toMatchObject({ code: "NETWORK_LOST" });
    await closed.promise;
    expect(a.connections()).toEqual([]);
  });

  test("what a peer ended on purpose is complete, also if the connection is cut before it is read", async () => {
    const harness = await start();
    const { a, b } = await pairOf(harness);
    const { address, sever } = await harness.severable(b);
    const { here, there, connection, inbound } = await openPair(a, b, address);
    await pipe([Uint8Array.of(1), Uint8Array.of(2)], here.sink);
    await connection.ping();
    const closed = Promise.withResolvers<void>();
    inbound.onClose(() => closed.resolve());
    sever();
    await closed.promise;
    expect(await collect(there)).toHaveLength(2);
  });

  test("a sender that waits behind a stalled reader learns of the cut", async () => {
    const harness = await start();
    const { a, b } = await pairOf(harness);
    const { address, sever } = await harness.severable(b);
    const { here, connection } = await openPair(a, b, address);
    const { waiting } = await sendUntilStalled(here, connection);
    sever();
    await expect(waiting).rejects.toMatchObject({ code: "NETWORK_LOST" });
  });

  test("an abort is our own error here and a loss there", async () => {
    const { here, there } = await channelPair(await start());
    const reading = awaited(collect(there));
    const own = new Error("changed my mind");
    here.abort(own);
    await expect(reading).rejects.toMatchObject({ code: "NETWORK_LOST" });
    await expect(collect(here)).rejects.toBe(own);
    await expect(here.send(Uint8Array.of(1))).rejects.toBe(own);
    await expect(there.send(Uint8Array.of(1))).rejects.toMatchObject({ code: "NETWORK_LOST" });
  });

  test("a pipe whose source fails is a loss for the peer, not an end", async () => {
    const { here, there } = await channelPair(await start());
    const failure = new Error("disk error");
    const source = async function* (): AsyncGenerator<Uint8Array> {
      yield Uint8Array.of(1);
      throw failure;
    };
    const reading = awaited(collect(there));
    await expect(pipe(source(), here.sink)).rejects.toBe(failure);
    await expect(reading).rejects.toMatchObject({ code: "NETWORK_LOST" });
  });

  test("a host that stops loses its channels and does not end them", async () => {
    const { a, b, there } = await channelPair(await start());
    const reading = awaited(collect(there));
    await a.stop();
    await expect(reading).rejects.toMatchObject({ code: "NETWORK_LOST" });
    expect(b.addresses()).not.toEqual([]);
  });

  test("a connection that closes delivers closed channels and loses the others", async () => {
    const harness = await start();
    const { a, b } = await pairOf(harness);
    const first = await openPair(a, b);
    const second = await accepted(b, "/test/second/1.0.0", () => first.connection.open("/test/second/1.0.0"));
    const frames = Array.from({ length: 24 }, (_, index) => new Uint8Array(1 << 20).fill(index));
    const reading = [awaited(collect(first.there)), awaited(collect(second.there))];
    const piped = pipe(frames, first.here.sink);
    await second.here.send(Uint8Array.of(1));
    await piped;
    await first.connection.close();
    expect((await reading[0]!).map(digest)).toEqual(frames.map(digest));
    await expect(reading[1]).rejects.toMatchObject({ code: "NETWORK_LOST" });
    await expect(first.connection.open(PROTOCOL)).rejects.toMatchObject({ code: "NETWORK_CLOSED" });
    await first.connection.close();
  });

  test("a handler that throws aborts its channel and no other", async () => {
    const { a, b, here, there, connection } = await channelPair(await start());
    await b.handle("/test/broken/1.0.0", () => {
      throw new Error("broken handler");
    });
    await b.handle("/test/broken-later/1.0.0", async (channel) => {
      for await (const _ of channel.frames()) throw new Error("broken handler");
    });
    const broken = await connection.open("/test/broken/1.0.0");
    await expect(collect(broken)).rejects.toMatchObject({ code: "NETWORK_LOST" });
    const later = await connection.open("/test/broken-later/1.0.0");
    await later.send(Uint8Array.of(1));
    await expect(collect(later)).rejects.toMatchObject({ code: "NETWORK_LOST" });
    await pipe([Uint8Array.of(9)], here.sink);
    expect(await collect(there)).toHaveLength(1);
    expect(a.connections()).toHaveLength(1);
  });
}

function describeLimits(start: Start): void {
  test("a reader that does not read stops the sender, and frees it again", async () => {
    const harness = await start();
    const { here, there, connection } = await channelPair(harness);
    const { acceptedBytes, waiting } = await sendUntilStalled(here, connection);
    expect(acceptedBytes).toBeGreaterThan(0);
    expect(acceptedBytes).toBeLessThanOrEqual(harness.aheadSizeMax);
    const closed = waiting.then(() => here.close());
    let received = 0;
    for await (const frame of there.frames()) received += frame.byteLength;
    await closed;
    expect(received).toBe(acceptedBytes + STALL_FRAME_SIZE);
  });

  test("a reader that reads now and then receives everything", async () => {
    const { here, there } = await channelPair(await start());
    const frames = Array.from({ length: 40 }, (_, index) => new Uint8Array(1 << 20).fill(index));
    const piped = pipe(frames, here.sink);
    const received: string[] = [];
    for await (const frame of there.frames()) {
      received.push(digest(frame));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await piped;
    expect(received).toEqual(frames.map(digest));
  });

  test("a waiting send can be given up", async () => {
    const { here, connection } = await channelPair(await start());
    await sendUntilStalled(here, connection);
    const controller = new AbortController();
    const reason = new Error("enough");
    const given = here.send(Uint8Array.of(1), controller.signal);
    controller.abort(reason);
    await expect(given).rejects.toBe(reason);
  });

  test("a waiting read can be given up, and the channel goes on", async () => {
    const { here, there } = await channelPair(await start());
    const controller = new AbortController();
    const reason = new Error("enough");
    const reading = there.frames(controller.signal).next();
    controller.abort(reason);
    await expect(reading).rejects.toBe(reason);
    await pipe([Uint8Array.of(1)], here.sink);
    expect(await collect(there)).toHaveLength(1);
  });

  test("a frame above the limit is refused at both ends and costs one channel", async () => {
    const harness = await start();
    const a = await harness.host({ frameSizeMax: 4 << 20 });
    const b = await harness.host({ frameSizeMax: 1 << 20 });
    const { here, there, connection } = await openPair(a, b);
    const other = await accepted(b, "/test/second/1.0.0", () => connection.open("/test/second/1.0.0"));
    await here.send(new Uint8Array(1 << 20));
    const reading = awaited(collect(there));
    here.send(new Uint8Array((1 << 20) + 1)).catch(() => undefined);
    await expect(reading).rejects.toMatchObject({ code: "NETWORK_FRAME_TOO_LARGE" });
    await expect(collect(here)).rejects.toMatchObject({ code: "NETWORK_LOST" });
    await expect(other.there.send(new Uint8Array((1 << 20) + 1))).rejects.toMatchObject({
      code: "NETWORK_FRAME_TOO_LARGE",
    });
    await pipe([Uint8Array.of(1)], other.there.sink);
    expect(await collect(other.here)).toHaveLength(1);
  });
}

function describeConnections(start: Start): void {
  test("concurrent dials of one peer give connections of their own", async () => {
    const { a, b } = await pairOf(await start());
    const dialled = await Promise.all(Array.from({ length: 8 }, () => a.dial(b.addresses()[0]!)));
    expect(new Set(dialled).size).toBe(8);
    expect(a.connections()).toHaveLength(8);
    expect(b.connections()).toHaveLength(8);
    expect(dialled.map(({ peer, direction }) => [peer, direction])).toEqual(
      Array.from({ length: 8 }, () => [b.self, "outbound"]),
    );
    expect(b.connections().map(({ peer, direction }) => [peer, direction])).toEqual(
      Array.from({ length: 8 }, () => [a.self, "inbound"]),
    );
  });

  test("either end opens channels on one connection", async () => {
    const { a, b, inbound } = await channelPair(await start());
    const { here, there } = await accepted(a, "/test/back/1.0.0", () => inbound.open("/test/back/1.0.0"));
    await pipe([Uint8Array.of(5)], here.sink);
    expect(await collect(there)).toHaveLength(1);
    expect([here.peer, there.peer]).toEqual([a.self, b.self]);
    expect(there.protocol).toBe("/test/back/1.0.0");
  });

  test("the bytes of a connection are counted at both ends, a few percent above the payload", async () => {
    const { here, there, connection, inbound } = await channelPair(await start());
    const before = connection.bytesSent();
    const payload = 8 << 20;
    const piped = pipe(
      Array.from({ length: 32 }, () => new Uint8Array(payload / 32)),
      here.sink,
    );
    await collect(there);
    await piped;
    const sent = connection.bytesSent() - before;
    expect(sent).toBeGreaterThan(payload);
    expect(sent).toBeLessThan(payload * 1.02);
    await connection.ping();
    // What the ping says last may still be on its way.
    expect(inbound.bytesReceived()).toBeLessThanOrEqual(connection.bytesSent());
    expect(inbound.bytesReceived()).toBeGreaterThan(connection.bytesSent() - 1000);
    const total = connection.bytesSent();
    await connection.close();
    expect(connection.bytesSent()).toBeGreaterThanOrEqual(total);
  });

  test("a ping is a round trip", async () => {
    const { connection } = await channelPair(await start());
    expect(await connection.ping()).toBeGreaterThan(0);
    await connection.close();
    await expect(connection.ping()).rejects.toMatchObject({ code: "NETWORK_CLOSED" });
  });

  test("a protocol that the peer does not speak is named", async () => {
    const { connection } = await channelPair(await start());
    const detail = { code: "NETWORK_NO_PROTOCOL", protocol: "/test/frames/2.0.0" };
    await expect(connection.open("/test/frames/2.0.0")).rejects.toMatchObject({ detail });
  });

  test("an address where nobody listens is unreachable", async () => {
    const { a, b } = await pairOf(await start());
    const [address] = b.addresses();
    await b.stop();
    await expect(a.dial(address!)).rejects.toMatchObject({
      detail: { code: "NETWORK_UNREACHABLE", address },
    });
  });

  test("a host with another identity than the address names is refused", async () => {
    const harness = await start();
    const { a, b } = await pairOf(harness);
    const c = await harness.host();
    const address = b.addresses()[0]!.replace(`/p2p/${b.self}`, `/p2p/${c.self}`);
    await expect(a.dial(address)).rejects.toMatchObject({ code: "NETWORK_WRONG_PEER" });
    expect(a.connections()).toEqual([]);
  });

  test("our own address is refused, and what is no address is named", async () => {
    const { a } = await pairOf(await start());
    await expect(a.dial(a.addresses()[0]!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
    await expect(a.dial("nonsense")).rejects.toMatchObject({ code: "NETWORK_BAD_ADDRESS" });
  });

  test("a stopped host neither dials nor answers", async () => {
    const { a, b } = await pairOf(await start());
    const [address] = b.addresses();
    await a.stop();
    await a.stop();
    await expect(a.dial(address!)).rejects.toMatchObject({ code: "NETWORK_CLOSED" });
  });
}

type Pair = { a: Network; b: Network };
type OpenPair = Pair & { here: Channel; there: Channel; connection: Connection; inbound: Connection };

async function pairOf(harness: NetworkHarness): Promise<Pair> {
  return { a: await harness.host(), b: await harness.host() };
}

async function channelPair(harness: NetworkHarness): Promise<OpenPair> {
  const { a, b } = await pairOf(harness);
  return openPair(a, b);
}

async function openPair(a: Network, b: Network, address = b.addresses()[0]!): Promise<OpenPair> {
  const connection = await a.dial(address);
  const channels = await accepted(b, PROTOCOL, () => connection.open(PROTOCOL));
  return { a, b, connection, ...channels };
}

/** Opens a channel and waits for the handler's end of it. */
async function accepted(
  network: Network,
  protocol: string,
  open: () => Promise<Channel>,
): Promise<{ here: Channel; there: Channel; inbound: Connection }> {
  const arrived = Promise.withResolvers<{ there: Channel; inbound: Connection }>();
  await network.handle(protocol, (there, inbound) => arrived.resolve({ there, inbound }));
  return { here: await open(), ...(await arrived.promise) };
}

async function collect(channel: Channel, onFrame?: (frame: Uint8Array) => void): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  for await (const frame of channel.frames()) {
    onFrame?.(frame);
    frames.push(frame);
  }
  return frames;
}

/** A promise that is looked at later: until then its rejection is nobody's. */
function awaited<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

const STALL_FRAME_SIZE = 256 << 10;

/**
 * Sends until a send stays behind: a ping travels after all that was sent, so when two of them came back and
 * the send still waits, it waits for the reader.
 */
async function sendUntilStalled(
  channel: Channel,
  connection: Connection,
): Promise<{ acceptedBytes: number; waiting: Promise<void> }> {
  const frame = new Uint8Array(STALL_FRAME_SIZE);
  for (let acceptedBytes = 0; ; acceptedBytes += frame.byteLength) {
    const waiting = channel.send(frame);
    const stalled = connection
      .ping()
      .then(() => connection.ping())
      .then(() => true);
    if (await Promise.race([waiting.then(() => false), stalled])) {
      return { acceptedBytes, waiting: awaited(waiting) };
    }
    await stalled;
  }
}

function prng(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

function randomBytes(random: () => number, size: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(size / 4)).map(random);
  return new Uint8Array(words.buffer, 0, size);
}

function partsOf(frame: Uint8Array, random: () => number): Uint8Array | Uint8Array[] {
  if (random() % 3 === 0) return frame;
  const cut = random() % (frame.byteLength + 1);
  return [frame.subarray(0, cut), frame.subarray(cut)];
}

function digest(frame: Uint8Array): string {
  return createHash("sha256").update(frame).digest("hex");
}
