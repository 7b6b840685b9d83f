import { rename, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { NbdClient } from "../../../storage/nbd/client.ts";
import { encodeGo, encodeOption, encodeRequest } from "../../../storage/nbd/client-codec.ts";
import { NBD_CMD, NBD_CMD_FLAG, NBD_ERRNO, NBD_FLAG, NBD_OPT } from "../../../storage/nbd/constants.ts";
import { ExportRegistry } from "../../../storage/nbd/export-registry.ts";
import { type NbdAddress, NbdServer } from "../../../storage/nbd/server.ts";
import { pattern } from "../../contract/block-store.contract.ts";
import { forSeeds } from "../random.ts";
import { exportOf, GatedStore, octets, RawClient, serve, temporaryDirectory } from "./fixtures.ts";

const SIZE_BYTES = 64 << 20;
const { READ, WRITE, FLUSH, DISC } = NBD_CMD;

async function connected(address: NbdAddress, options: { exportName?: string; contexts?: string[] } = {}) {
  const client = await NbdClient.connect(address, { exportName: "disk", ...options });
  onTestFinished(() => client.destroy());
  return client;
}

/** A client in its transmission phase that has agreed on nothing but the name. */
async function rawConnected(address: NbdAddress, { structured = false } = {}): Promise<RawClient> {
  const raw = new RawClient(address);
  raw.send("00000003");
  let expected = 18 + 32 + 34 + 20;
  if (structured) {
    raw.send(encodeOption(NBD_OPT.STRUCTURED_REPLY));
    expected += 20;
  }
  raw.send(encodeOption(NBD_OPT.GO, encodeGo("disk")));
  await raw.take(expected);
  return raw;
}

function raw(
  command: number,
  fields: { cookie?: number; offset?: number; length?: number; flags?: number } = {},
) {
  return encodeRequest({ command, flags: 0, cookie: 1, offset: 0, length: 0, ...fields });
}

function simpleReply(cookie: number, errno = 0): Buffer {
  const bytes = octets("67446698 00000000 00000000 00000000");
  bytes.writeUInt32BE(errno, 4);
  bytes.writeUInt32BE(cookie, 12);
  return bytes;
}

describe("nbd server: requests", () => {
  /** Which operations complete later; receive buffer; so that every path of the data is taken. */
  const ways: [string, (turn: number) => boolean, number][] = [
    ["a store that completes at once", () => false, 1 << 20],
    ["a store that completes later", () => true, 1 << 20],
    ["a store that does now this, now that", (turn) => turn % 3 === 0, 1 << 20],
    ["plain data events", (turn) => turn % 5 === 0, 0],
    ["a receive buffer of an odd size", (turn) => turn % 2 === 0, 10_007],
  ];

  it.each(ways)("read, write, zero and trim like memory: %s", async (_, isLate, receiveBufferSizeBytes) => {
    await forSeeds(3, async (random) => {
      const store = new GatedStore({ sizeBytes: 8 << 20 });
      let turn = 0;
      store.gated = () => {
        const late = isLate(turn++);
        if (late) setImmediate(() => store.release(1));
        return late;
      };
      const { address, exports, server } = await serve([exportOf(store)], { receiveBufferSizeBytes });
      const client = await connected(address);
      const model = Buffer.alloc(store.sizeBytes);
      for (let round = 0; round < 30; round++) {
        // Requests of one round are on their way together and touch disjoint parts.
        const part = store.sizeBytes / 8;
        const requests = Array.from({ length: 8 }, async (_, index) => {
          const length = random.pick([1, 512, 4095, 4096, 65_536, 300_000, part]);
          const aligned = random.chance(0.5) ? 4096 : 1;
          const start = random.below(part - length + 1);
          const offset = index * part + start - (start % aligned);
          const flags = { fua: random.chance(0.2) };
          switch (random.below(5)) {
            case 0:
            case 1: {
              const data = Buffer.from(pattern(length, random.below(1e6)));
              data.copy(model, offset);
              return client.write(offset, data, flags);
            }
            case 2:
              model.fill(0, offset, offset + length);
              return client.writeZeroes(offset, length, { ...flags, noHole: random.chance(0.5) });
            case 3:
              model.fill(0, offset, offset + length);
              return client.trim(offset, length, flags);
            default: {
              const expected = Buffer.from(model.subarray(offset, offset + length));
              expect((await client.read(offset, length)).equals(expected)).toBe(true);
            }
          }
        });
        await Promise.all(requests);
      }
      await client.flush();
      expect((await client.read(0, store.sizeBytes)).equals(model)).toBe(true);
      await client.disconnect();
      await exports.remove("disk");
      await server.stop();
      expect(server.heldBytes).toBe(0);
    });
  });

  it("answers in the order in which the store completes", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = (operation) => operation === "write";
    const { address } = await serve([exportOf(store)]);
    const client = await connected(address);
    const order: string[] = [];
    const written = client.write(0, pattern(4096, 1)).then(() => order.push("write"));
    await store.untilWaiting(1);
    // The first late write pins the receive buffer; it is answered before anything else is looked at.
    store.release();
    await written;
    const second = client.write(0, pattern(4096, 2)).then(() => order.push("write"));
    await store.untilWaiting(1);
    await client.read(4096, 4096).then(() => order.push("read"));
    store.release();
    await second;
    expect(order).toEqual(["write", "read", "write"]);
  });

  it("hands the store whole blocks, whatever the pieces in which a write arrives", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    const { address } = await serve([exportOf(store)]);
    const client = await rawConnected(address);
    const data = pattern(40_000, 3);
    client.send(raw(WRITE, { offset: 4096, length: data.length }), Buffer.from(data.subarray(0, 5000)));
    await store.untilCalled(1);
    expect(store.calls).toEqual(["write 4096+4096"]);
    client.send(Buffer.from(data.subarray(5000)));
    expect(await client.take(16)).toEqual(simpleReply(1));
    const pieces = store.calls.map((call) => call.split(" ")[1]!.split("+").map(Number));
    expect(pieces.every(([offset]) => offset! % 4096 === 0)).toBe(true);
    expect(pieces.slice(0, -1).every(([, length]) => length! % 4096 === 0)).toBe(true);
    const read = new Uint8Array(40_000);
    store.memory.read(4096, read);
    expect(Buffer.compare(read, data)).toBe(0);
  });

  it("flushes after a FUA write and before its answer", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = (operation) => operation === "flush";
    const { address } = await serve([exportOf(store)]);
    const client = await connected(address);
    let answered = false;
    const written = client.write(0, pattern(4096, 1), { fua: true }).then(() => {
      answered = true;
    });
    await store.untilWaiting(1);
    await client.read(0, 1);
    expect(store.calls).toEqual(["write 0+4096", "flush", "read 0+1"]);
    expect(answered).toBe(false);
    store.release();
    await written;
  });

  it("passes on whether a hole may be made", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    const { address } = await serve([exportOf(store)]);
    const client = await connected(address);
    await client.writeZeroes(0, 4096);
    await client.writeZeroes(0, 4096, { noHole: true });
    expect(store.calls).toEqual(["zero 0+4096", "zero-keep 0+4096"]);
  });

  it("zeroes gigabytes in pieces between which others are served", async () => {
    const store = new GatedStore({ sizeBytes: 2 ** 40 });
    const { address } = await serve([exportOf(store)]);
    const client = await connected(address);
    await client.writeZeroes(0, 0xfffff000);
    expect(store.calls).toHaveLength(128);
    expect(store.calls.at(-1)).toBe(`zero ${127 * (32 << 20)}+${(32 << 20) - 4096}`);
  });

  it("answers a failure with its number, and goes on", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    const { address } = await serve([exportOf(store)]);
    const client = await connected(address);
    const failure = (command: number, errno: number) => ({
      code: "NBD_REPLY_ERROR",
      detail: { command, errno },
    });
    await store.close();
    await expect(client.read(0, 4096)).rejects.toMatchObject(failure(READ, NBD_ERRNO.ESHUTDOWN));
    await expect(client.read(0, 4 << 20)).rejects.toMatchObject(failure(READ, NBD_ERRNO.ESHUTDOWN));
    await expect(client.write(0, pattern(8 << 20, 1))).rejects.toMatchObject(
      failure(WRITE, NBD_ERRNO.ESHUTDOWN),
    );
    await expect(client.write(0, new Uint8Array(33 << 20))).rejects.toMatchObject(
      failure(WRITE, NBD_ERRNO.EINVAL),
    );
    await expect(client.read(SIZE_BYTES, 1)).rejects.toMatchObject(failure(READ, NBD_ERRNO.EINVAL));
    await expect(client.flush()).rejects.toMatchObject(failure(FLUSH, NBD_ERRNO.ESHUTDOWN));
  });

  it("answers a read of simple replies and one that must not be split in one piece", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const data = pattern(32 << 20, 4);
    store.write(0, data);
    const { address } = await serve([exportOf(store)]);
    const plain = await rawConnected(address);
    plain.send(raw(READ, { length: 32 << 20 }));
    expect(await plain.take(16)).toEqual(simpleReply(1));
    expect(Buffer.compare(await plain.take(32 << 20), data)).toBe(0);
    const structured = await rawConnected(address, { structured: true });
    structured.send(raw(READ, { length: 32 << 20, flags: NBD_CMD_FLAG.DF }));
    const header = await structured.take(28);
    expect(header).toEqual(octets("668e33ef 0001 0001 0000000000000001 02000008 0000000000000000"));
    expect(Buffer.compare(await structured.take(32 << 20), data)).toBe(0);
  });

  it("answers what came before the end of a half-closed connection", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const { address } = await serve([exportOf(store)]);
    const client = await rawConnected(address);
    client.send(raw(FLUSH, { cookie: 5 }));
    client.socket.end();
    expect(await client.closed()).toEqual(simpleReply(5));
  });

  it("closes after DISC, once everything before is answered", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = () => true;
    const { address } = await serve([exportOf(store)]);
    const client = await rawConnected(address);
    client.send(raw(FLUSH, { cookie: 5 }), raw(DISC), raw(FLUSH, { cookie: 6 }));
    await store.untilWaiting(1);
    store.release();
    expect(await client.closed()).toEqual(simpleReply(5));
    expect(store.calls).toEqual(["flush"]);
  });

  it("closes the connection of a bad magic, and no other", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const { address } = await serve([exportOf(store)]);
    const good = await connected(address);
    const bad = await rawConnected(address);
    bad.send(Buffer.alloc(28, 0x41));
    await bad.closed();
    expect(await good.read(0, 512)).toHaveLength(512);
  });
});

describe("nbd server: block status", () => {
  it("tells holes, and what was written since a generation", async () => {
    const store = new MemoryBlockStore({ sizeBytes: 1 << 20 });
    store.write(8192, pattern(4096, 1));
    const extentsOf = (offset: number, length: number) => [
      { length: 4096, flags: offset === 0 ? 1 : 0 },
      { length: length - 4096, flags: 0 },
    ];
    const contexts = () => [{ name: "x-sojourn:generation/7", extentsOf }];
    const { address } = await serve([exportOf(store, { contexts })]);
    const wanted = ["base:allocation", "x-sojourn:generation/7", "x-sojourn:generation/8"];
    const client = await connected(address, { contexts: wanted });
    expect([...client.info.contexts.values()]).toEqual(wanted.slice(0, 2));
    const status = await client.blockStatus(0, 65_536);
    expect(status.get("base:allocation")).toEqual([
      { length: 8192, flags: 3 },
      { length: 4096, flags: 0 },
      { length: 53_248, flags: 3 },
    ]);
    expect(status.get("x-sojourn:generation/7")).toEqual([
      { length: 4096, flags: 1 },
      { length: 61_440, flags: 0 },
    ]);
    const one = await client.blockStatus(4096, 65_536, { requestOne: true });
    expect(one.get("base:allocation")).toEqual([{ length: 4096, flags: 3 }]);
  });

  it("is refused to a client that selected no context", async () => {
    const { address } = await serve([exportOf(new MemoryBlockStore({ sizeBytes: 1 << 20 }))]);
    const client = await connected(address);
    await expect(client.blockStatus(0, 4096)).rejects.toMatchObject({ detail: { errno: NBD_ERRNO.EINVAL } });
  });
});

describe("nbd server: exports", () => {
  it("a removed export refuses new requests, completes those in flight, and closes", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = (operation) => operation === "write";
    const { address, exports } = await serve([exportOf(store)]);
    const client = await rawConnected(address);
    client.send(raw(WRITE, { cookie: 1, length: 1 }), "aa");
    await store.untilWaiting(1);
    store.release();
    await client.take(16);
    // This one does not keep the connection from being read.
    client.send(raw(WRITE, { cookie: 1, length: 1 }), "aa");
    await store.untilWaiting(1);
    let removed = false;
    const removal = exports.remove("disk").then(() => {
      removed = true;
    });
    const again = exports.remove("disk");
    client.send(raw(WRITE, { cookie: 2, length: 1 }), "bb", raw(FLUSH, { cookie: 3 }));
    await expect(connected(address)).rejects.toMatchObject({ code: "NBD_EXPORT_UNKNOWN" });
    expect(await client.take(16)).toEqual(simpleReply(2, NBD_ERRNO.ESHUTDOWN));
    expect(await client.take(16)).toEqual(simpleReply(3, NBD_ERRNO.ESHUTDOWN));
    expect(removed).toBe(false);
    store.release();
    await removal;
    await again;
    expect(await client.closed()).toEqual(simpleReply(1));
    expect(store.calls).toEqual(["write 0+1", "write 0+1"]);
  });

  it("a connection never reaches what is added later under its name", async () => {
    const old = new GatedStore({ sizeBytes: SIZE_BYTES });
    old.gated = () => true;
    const { address, exports } = await serve([exportOf(old)]);
    const client = await rawConnected(address);
    client.send(raw(FLUSH, { cookie: 1 }));
    await old.untilWaiting(1);
    const removal = exports.remove("disk");
    const young = new GatedStore({ sizeBytes: SIZE_BYTES });
    exports.add(exportOf(young));
    client.send(raw(FLUSH, { cookie: 2 }));
    old.release();
    await removal;
    await client.closed();
    expect(young.calls).toEqual([]);
  });

  it("waits at removal for a write whose client is gone", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = () => true;
    const { address, exports, server } = await serve([exportOf(store)]);
    const client = await rawConnected(address);
    client.send(raw(WRITE, { length: 8192 }), Buffer.alloc(8192));
    await store.untilWaiting(1);
    client.socket.destroy();
    const other = await connected(address);
    const events: string[] = [];
    const removal = exports.remove("disk").then(() => events.push("removed"));
    await expect(other.read(0, 1)).rejects.toMatchObject({ detail: { errno: NBD_ERRNO.ESHUTDOWN } });
    events.push("released");
    store.release();
    await removal;
    expect(events).toEqual(["released", "removed"]);
    await server.stop();
    expect(server.heldBytes).toBe(0);
  });

  it("drops what a client had sent of a payload when its export is removed", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    const { address, exports } = await serve([exportOf(store)]);
    const client = await rawConnected(address);
    client.send(raw(WRITE, { length: 8192 }), Buffer.alloc(5000));
    await store.untilCalled(1);
    await exports.remove("disk");
    client.send(Buffer.alloc(3192));
    await client.closed();
    expect(store.calls).toEqual(["write 0+4096"]);
  });

  it("a suspended export leaves requests unanswered, and answers them when it is resumed", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = (operation) => operation === "write";
    const { address, exports } = await serve([exportOf(store), exportOf(store, { name: "other" })]);
    const client = await connected(address);
    const other = await connected(address, { exportName: "other" });
    const written = client.write(0, pattern(4096, 1));
    await store.untilWaiting(1);
    let idle = false;
    const suspended = exports.suspend("disk").then(() => {
      idle = true;
    });
    let answered = false;
    const read = client.read(0, 4096).then((data) => {
      answered = true;
      return data;
    });
    await other.read(0, 512);
    expect([idle, answered]).toEqual([false, false]);
    store.release();
    await Promise.all([suspended, written]);
    await other.read(0, 512);
    expect(answered).toBe(false);
    exports.resume("disk");
    expect(Buffer.compare(await read, pattern(4096, 1))).toBe(0);
  });

  it("requests held by a suspended export are refused when it is removed", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    const { address, exports } = await serve([exportOf(store)]);
    const client = await connected(address);
    await exports.suspend("disk");
    const read = client.read(0, 4096).catch((error) => error);
    const probe = new RawClient(address);
    await probe.take(18);
    await exports.remove("disk");
    // Whether the request or the removal came first, it is not served.
    expect(["NBD_REPLY_ERROR", "NBD_CONNECTION_LOST"]).toContain((await read).code);
    expect(store.calls).toEqual([]);
  });

  it("says multi-conn only of an export that can", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const { address } = await serve([
      exportOf(store),
      exportOf(store, { name: "single", canMultiConn: false }),
    ]);
    const many = await connected(address);
    const single = await connected(address, { exportName: "single" });
    expect(many.info.transmissionFlags & NBD_FLAG.CAN_MULTI_CONN).not.toBe(0);
    expect(single.info.transmissionFlags & NBD_FLAG.CAN_MULTI_CONN).toBe(0);
  });
});

describe("nbd server: limits", () => {
  it("reads no further from a client that does not take its replies", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    const other = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const { address, server } = await serve([exportOf(store), exportOf(other, { name: "other" })]);
    const slow = await rawConnected(address, { structured: true });
    slow.socket.pause();
    const good = await connected(address, { exportName: "other" });
    const requests = Array.from({ length: 500 }, (_, cookie) => raw(READ, { cookie, length: 1 << 20 }));
    slow.send(...requests);
    let calls = -1;
    while (calls !== store.calls.length) {
      calls = store.calls.length;
      await good.read(0, 1);
    }
    expect(server.heldBytes).toBeLessThan(4 << 20);
    // And goes on when it does.
    slow.socket.resume();
    for (let i = 0; i < 500; i++) await slow.take((1 << 20) + 4 * 28);
  });

  it("holds no more than its share for a store that never completes", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = (operation) => operation === "write";
    const { address, server } = await serve([exportOf(store)], { inFlightBytesMax: 4 << 20 });
    const greedy = await rawConnected(address);
    greedy.send(raw(WRITE, { length: 4096 }), Buffer.alloc(4096));
    await store.untilWaiting(1);
    store.release();
    for (let i = 0; i < 64; i++)
      greedy.send(raw(WRITE, { cookie: i, length: 1 << 20 }), Buffer.alloc(1 << 20));
    await store.untilWaiting(3);
    const good = await connected(address);
    await good.read(0, 1);
    expect(server.heldBytes).toBeLessThan(8 << 20);
    store.gated = () => false;
    store.release();
    const replies = await greedy.take(16 * 65);
    expect(replies).toHaveLength(16 * 65);
  });

  it("gives room to the next client by closing the oldest that only negotiates", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const { address, server } = await serve([exportOf(store)], { connectionsMax: 8 });
    const first = await connected(address);
    const crowd = Array.from({ length: 40 }, () => new RawClient(address));
    await crowd[0]!.closed();
    await Promise.all(crowd.slice(1, 30).map((each) => each.closed()));
    const late = await connected(address);
    expect(await late.read(0, 512)).toHaveLength(512);
    expect(await first.read(0, 512)).toHaveLength(512);
    expect(server.connectionCount).toBeLessThanOrEqual(8);
  });

  it("closes a negotiation that does not end in time", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const { address } = await serve([exportOf(store)], { handshakeTimeoutMs: 30 });
    const idle = new RawClient(address);
    idle.send("00000003");
    expect(await idle.closed()).toHaveLength(18);
  });

  it("stops answering options of a client that reads no replies", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const description = "d".repeat(4000);
    const listed = Array.from({ length: 200 }, (_, i) =>
      exportOf(store, { name: `e${i}`, listed: true, description }),
    );
    const { address } = await serve([...listed, exportOf(store)]);
    const slow = new RawClient(address);
    slow.socket.pause();
    slow.send("00000003", ...Array.from({ length: 200 }, () => encodeOption(NBD_OPT.LIST)));
    const before = process.memoryUsage().rss;
    const good = await connected(address);
    await good.read(0, 512);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 << 20);
    slow.socket.resume();
    await slow.take(18);
    const replySize = 200 * (20 + 4 + 4000) + 10 * 2 + 90 * 3 + 100 * 4 + 20;
    for (let i = 0; i < 200; i++) await slow.take(replySize);
  });
});

describe("nbd server: sockets", () => {
  it("serves TCP and unix sockets at once, and says which port it got", async () => {
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    const { address, server } = await serve([exportOf(store)]);
    const tcp = await server.listen({ host: "127.0.0.1", port: 0 });
    const [one, two] = await Promise.all([connected(address), connected(tcp)]);
    await one.write(0, pattern(4096, 5));
    expect(Buffer.compare(await two.read(0, 4096), pattern(4096, 5))).toBe(0);
  });

  it("replaces the socket of a server that was killed, and not that of one that lives", async () => {
    const directory = await temporaryDirectory();
    const unixPath = join(directory, "nbd.sock");
    const exports = new ExportRegistry();
    exports.add(exportOf(new MemoryBlockStore({ sizeBytes: SIZE_BYTES })));
    const living = new NbdServer({ exports });
    await living.listen({ unixPath });
    const second = new NbdServer({ exports });
    await expect(second.listen({ unixPath })).rejects.toMatchObject({ code: "NBD_SOCKET_IN_USE" });
    await living.stop();
    await leaveStaleSocket(unixPath);
    await second.listen({ unixPath });
    expect(await (await connected({ unixPath })).read(0, 1)).toHaveLength(1);
    await second.stop();
  });

  it("leaves alone a file that is no socket", async () => {
    const unixPath = join(await temporaryDirectory(), "precious");
    await writeFile(unixPath, "precious");
    const server = new NbdServer({ exports: new ExportRegistry() });
    await expect(server.listen({ unixPath })).rejects.toThrow(/EADDRINUSE/);
  });

  it("stops after what is in flight, and twice is once", async () => {
    const store = new GatedStore({ sizeBytes: SIZE_BYTES });
    store.gated = () => true;
    const { address, server } = await serve([exportOf(store)]);
    const client = await rawConnected(address);
    client.send(raw(FLUSH, { cookie: 9 }));
    await store.untilWaiting(1);
    let stopped = false;
    const stops = Promise.all([server.stop(), server.stop()]).then(() => {
      stopped = true;
    });
    await expect(connected(address)).rejects.toMatchObject({ code: "NBD_CONNECTION_LOST" });
    expect(stopped).toBe(false);
    store.release();
    await stops;
    expect(await client.closed()).toEqual(simpleReply(9));
  });
});

/** A socket file that nobody listens on. Closing would unlink it, so its name is moved away and back. */
async function leaveStaleSocket(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await rename(path, `${path}.kept`);
  await new Promise<void>((resolve) => server.close(() => resolve()));
  await rename(`${path}.kept`, path);
}
