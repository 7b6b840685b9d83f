import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { afterEach, expect, test } from "vitest";
import { sendBytes } from "../../../node/network/byte-stream.ts";
import { MemoryHub, type MemoryNetwork } from "../../../node/network/memory-network.ts";
import type { Channel } from "../../../node/network/network.ts";

const PROTOCOL = "/test/bytes/1.0.0";
const started: MemoryNetwork[] = [];
afterEach(() => Promise.all(started.splice(0).map((host) => host.stop())));

test("a stream of bytes arrives whole, in frames of a bounded size", async () => {
  const { here, there } = await channels();
  const bytes = new Uint8Array(1_000_003).map((_, index) => (index * 31) & 255);
  const pieces = [bytes.subarray(0, 1), bytes.subarray(1, 700_000), bytes.subarray(700_000)];
  const sent = sendBytes(Readable.from(pieces), here, { chunkSizeMax: 65_536 });
  const hash = createHash("sha256");
  let longest = 0;
  for await (const frame of there.frames()) {
    longest = Math.max(longest, frame.byteLength);
    hash.update(frame);
  }
  await sent;
  expect(hash.digest("hex")).toBe(createHash("sha256").update(bytes).digest("hex"));
  expect(longest).toBe(65_536);
});

test("a stream that breaks off is a loss for the peer", async () => {
  const { here, there } = await channels();
  const failure = new Error("the hypervisor died");
  const source = async function* (): AsyncGenerator<Uint8Array> {
    yield Uint8Array.of(1);
    throw failure;
  };
  await expect(sendBytes(source(), here)).rejects.toBe(failure);
  const reading = async (): Promise<void> => {
    for await (const _ of there.frames()) {
    }
  };
  await expect(reading()).rejects.toMatchObject({ code: "NETWORK_LOST" });
});

async function channels(): Promise<{ here: Channel; there: Channel }> {
  const hub = new MemoryHub();
  const [a, b] = [hub.join("a"), hub.join("b")];
  started.push(a, b);
  await Promise.all([a.start(), b.start()]);
  const arrived = Promise.withResolvers<Channel>();
  await b.handle(PROTOCOL, (channel) => arrived.resolve(channel));
  const here = await (await a.dial(b.addresses()[0]!)).open(PROTOCOL);
  return { here, there: await arrived.promise };
}
