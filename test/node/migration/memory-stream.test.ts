import { describe, expect, it } from "vitest";
import type { IncomingMemory, OutgoingMemory } from "../../../node/hypervisor/hypervisor.ts";
import { IncomingStream } from "../../../node/migration/incoming-stream.ts";
import { MemoryRelay } from "../../../node/migration/outgoing-memory.ts";
import { RateLimiter } from "../../../node/migration/rate-limiter.ts";
import { MemoryHub } from "../../../node/network/memory-network.ts";
import type { Channel } from "../../../node/network/network.ts";

const limiter = new RateLimiter({ nowMs: () => 0, wallMs: () => 0 }, { bytesPerSecond: undefined });

/** A hypervisor's stream of `bytes`, cut at odd places. */
function outgoing(bytes: Uint8Array): OutgoingMemory {
  async function* stream(): AsyncGenerator<Uint8Array> {
    for (let from = 0, step = 1; from < bytes.length; from += step, step = (step * 7 + 13) % 300_000) {
      yield bytes.subarray(from, Math.min(bytes.length, from + step));
    }
  }
  return {
    stream: stream(),
    onRound: () => undefined,
    freeze: async () => undefined,
    ended: async () => bytes.length,
    thaw: async () => undefined,
    cancel: async () => undefined,
  };
}

function incoming(): {
  memory: IncomingMemory;
  taken: Uint8Array[];
  whenLong(length: number): Promise<void>;
} {
  const taken: Uint8Array[] = [];
  let waiting: { length: number; resolve(): void } | undefined;
  const length = (): number => taken.reduce((sum, part) => sum + part.length, 0);
  return {
    taken,
    whenLong: (wanted) =>
      new Promise((resolve) => {
        if (length() >= wanted) resolve();
        else waiting = { length: wanted, resolve };
      }),
    memory: {
      write: async (data) => {
        taken.push(data.slice());
        if (waiting !== undefined && length() >= waiting.length) waiting.resolve();
      },
      loaded: async () => undefined,
      discard: async () => undefined,
    },
  };
}

let links = 0;

/** A channel of its own protocol: a host has one handler for each. */
async function link(hub: MemoryHub): Promise<{ here: Channel; there: Channel }> {
  const protocol = `/m/${++links}`;
  const there = Promise.withResolvers<Channel>();
  await hub.at("b")!.handle(protocol, (channel) => there.resolve(channel));
  const connection = await hub.at("a")!.dial(hub.at("b")!.addresses()[0]!);
  return { here: await connection.open(protocol), there: await there.promise };
}

async function hosts(): Promise<MemoryHub> {
  const hub = new MemoryHub();
  for (const name of ["a", "b"]) await hub.join(name).start();
  return hub;
}

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + (index >> 8)) & 255);
}

describe("memory stream", () => {
  it("arrives whole, across a link that is lost and opened again", async () => {
    const hub = await hosts();
    const bytes = pattern(3_000_000);
    const { memory, taken, whenLong } = incoming();
    const stream = new IncomingStream({ attempt: 1, memory }, { onTaken: (offset) => relay.forget(offset) });
    const relay: MemoryRelay = new MemoryRelay(outgoing(bytes), { onLost: () => undefined, limiter });
    const produced = relay.produce();

    const first = await link(hub);
    void relay.sendOn(first.here, 0);
    const read = stream.read(first.there.frames());
    await whenLong(700_000);
    first.here.abort(new Error("cut"));
    await expect(read).rejects.toThrow();

    const second = await link(hub);
    void relay.sendOn(second.here, stream.taken);
    void stream.read(second.there.frames()).catch(() => undefined);
    await whenLong(bytes.length);
    await produced;
    relay.stop();
    expect(Buffer.concat(taken).equals(bytes)).toBe(true);
  });

  it("keeps the hypervisor waiting while the destination takes nothing", async () => {
    const bytes = pattern(24 << 20);
    const relay = new MemoryRelay(outgoing(bytes), { onLost: () => undefined, limiter });
    let done = false;
    const produced = relay.produce().then(() => {
      done = true;
    });
    // Every chunk is one turn of the event loop at most: more turns than chunks, and it still waits.
    for (let turn = 0; turn < 10_000; turn++) await Promise.resolve();
    expect(done).toBe(false);
    relay.forget(20 << 20);
    await produced;
    expect(done).toBe(true);
  });

  it("has little on its way ahead of a freeze, and as much as before after a thaw", async () => {
    const bytes = pattern(8 << 20);
    const relay = new MemoryRelay(outgoing(bytes), { onLost: () => undefined, limiter });
    const narrow = relay.narrow(new AbortController().signal);
    let done = false;
    const produced = relay.produce().then(() => {
      done = true;
    });
    for (let turn = 0; turn < 10_000; turn++) await Promise.resolve();
    // The way was never seen to be fast, so its window is a mebibyte: the hypervisor waits with the rest.
    relay.forget(6 << 20);
    await narrow;
    for (let turn = 0; turn < 10_000; turn++) await Promise.resolve();
    expect(done).toBe(false);
    relay.widen();
    await produced;
    expect(done).toBe(true);
  });

  it("is acknowledged as soon as nothing follows, however little it was", async () => {
    const hub = await hosts();
    const { memory } = incoming();
    const told = Promise.withResolvers<number>();
    const stream = new IncomingStream({ attempt: 1, memory }, { onTaken: told.resolve });
    const { here, there } = await link(hub);
    void stream.read(there.frames()).catch(() => undefined);
    const relay = new MemoryRelay(outgoing(pattern(1000)), { onLost: () => undefined, limiter });
    void relay.sendOn(here, 0);
    await relay.produce();
    expect(await told.promise).toBe(1000);
    relay.stop();
    here.abort(new Error("over"));
  });

  it("refuses a gap and skips what was taken already", async () => {
    const hub = await hosts();
    const { memory, taken, whenLong } = incoming();
    const stream = new IncomingStream({ attempt: 1, memory }, { onTaken: () => undefined });
    const bytes = pattern(100_000);

    const first = await link(hub);
    const relay = new MemoryRelay(outgoing(bytes), { onLost: () => undefined, limiter });
    void relay.produce();
    void relay.sendOn(first.here, 0);
    void stream.read(first.there.frames()).catch(() => undefined);
    await whenLong(bytes.length);

    // A source that begins at the start again: everything is known.
    const second = await link(hub);
    const again = new MemoryRelay(outgoing(bytes), { onLost: () => undefined, limiter });
    await again.produce();
    void again.sendOn(second.here, 0);
    const reread = stream.read(second.there.frames());
    await second.here.close();
    again.stop();
    await reread.catch(() => undefined);
    expect(Buffer.concat(taken).equals(bytes)).toBe(true);

    const { memory: empty } = incoming();
    const gap = new IncomingStream({ attempt: 1, memory: empty }, { onTaken: () => undefined });
    const third = await link(hub);
    const late = new MemoryRelay(outgoing(bytes), { onLost: () => undefined, limiter });
    await late.produce();
    late.forget(50_000);
    void late.sendOn(third.here, 50_000);
    await expect(gap.read(third.there.frames())).rejects.toThrow("PROTOCOL_BAD_FIELD");
    late.stop();
    relay.stop();
  });
});
