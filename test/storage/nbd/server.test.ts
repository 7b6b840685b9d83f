import { describe, expect, it } from "vitest";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { NBD_CMD, NBD_CMD_FLAG, NBD_ERRNO } from "../../../storage/nbd/constants.ts";
import { pattern } from "../../contract/block-store.contract.ts";
import { forSeeds } from "../random.ts";
import {
  connected,
  exportOf,
  GatedStore,
  octets,
  raw,
  rawConnected,
  SIZE_BYTES,
  serve,
  simpleReply,
} from "./fixtures.ts";

const { READ, WRITE, FLUSH, DISC } = NBD_CMD;

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
