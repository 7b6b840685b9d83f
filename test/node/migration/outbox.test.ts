import { describe, expect, it } from "vitest";
import { Outbox } from "../../../node/migration/outbox.ts";
import { MemoryHub } from "../../../node/network/memory-network.ts";
import type { Channel } from "../../../node/network/network.ts";

async function channelPair(): Promise<{ here: Channel; there: Channel }> {
  const hub = new MemoryHub();
  const [a, b] = [hub.join("a"), hub.join("b")];
  await a.start();
  await b.start();
  const there = Promise.withResolvers<Channel>();
  await b.handle("/x/1", (channel) => there.resolve(channel));
  const connection = await a.dial(b.addresses()[0]!);
  return { here: await connection.open("/x/1"), there: await there.promise };
}

async function received(channel: Channel, count: number): Promise<string[]> {
  const texts: string[] = [];
  for await (const frame of channel.frames()) {
    texts.push(new TextDecoder().decode(frame));
    if (texts.length === count) break;
  }
  return texts;
}

const frame = (text: string): Uint8Array[] => [new TextEncoder().encode(text)];

describe("outbox", () => {
  it("sends in order, and what is urgent before everything that waits", async () => {
    const { here, there } = await channelPair();
    const outbox = new Outbox(here, { onError: (error) => expect.fail(String(error)) });
    const gate = Promise.withResolvers<void>();
    outbox.push(async () => {
      await gate.promise;
      return [frame("first")];
    });
    outbox.push(() => [frame("pushed")]);
    outbox.push(() => [frame("pulled")], { urgent: true });
    gate.resolve();
    expect(await received(there, 3)).toEqual(["first", "pulled", "pushed"]);
  });

  it("makes an item only when its turn has come", async () => {
    const { here, there } = await channelPair();
    const outbox = new Outbox(here, { onError: (error) => expect.fail(String(error)) });
    const gate = Promise.withResolvers<void>();
    let content = "old";
    outbox.push(async () => {
      await gate.promise;
      return [frame("first")];
    });
    outbox.push(() => [frame(content)]);
    content = "new";
    gate.resolve();
    expect(await received(there, 2)).toEqual(["first", "new"]);
  });

  it("reports a lost channel once and sends nothing more", async () => {
    const { here } = await channelPair();
    const errors: unknown[] = [];
    const outbox = new Outbox(here, { onError: (error) => errors.push(error) });
    here.abort(new Error("cut"));
    outbox.push(() => [frame("a")]);
    await outbox.drained();
    let made = false;
    outbox.push(() => {
      made = true;
      return [frame("b")];
    });
    await outbox.drained();
    expect(errors).toHaveLength(1);
    expect(made).toBe(false);
  });
});
