import { afterEach, expect, test } from "vitest";
import { STREAM_WINDOW_SIZE } from "../../../node/network/libp2p-network.ts";
import { Hosts } from "./hosts.ts";

const PROTOCOL = "/test/thrift/1.0.0";
const hosts = new Hosts();
afterEach(() => hosts.stop());

test("small frames are read without a word back, and the window is renewed in time", async () => {
  const host = await hosts.start({ role: "control" });
  let received = 0;
  let onFrame = (): void => {};
  await host.handle(PROTOCOL, async (channel) => {
    for await (const frame of channel.frames()) {
      received += frame.byteLength;
      onFrame();
    }
    await channel.close();
  });
  const relay = await hosts.relay(host);
  const dialler = await hosts.start({ role: "control" });
  const connection = await dialler.dial(relay.address);
  const channel = await connection.open(PROTOCOL);
  const deliver = async (size: number): Promise<void> => {
    const arrived = new Promise<void>((resolve) => {
      onFrame = resolve;
    });
    await channel.send(new Uint8Array(size));
    await arrived;
  };
  await deliver(100);
  const before = relay.bytesBack;
  for (let count = 0; count < 200; count++) await deliver(100);
  expect(relay.bytesBack - before).toBeLessThan(200);

  const wanted = 3 * STREAM_WINDOW_SIZE;
  for (received = 0; received < wanted; ) await deliver(64 << 10);
  expect(received).toBeGreaterThanOrEqual(wanted);
  await channel.close();
});
