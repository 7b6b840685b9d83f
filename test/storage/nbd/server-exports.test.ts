import { describe, expect, it } from "vitest";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { NBD_CMD, NBD_ERRNO, NBD_FLAG } from "../../../storage/nbd/constants.ts";
import { pattern } from "../../contract/block-store.contract.ts";
import {
  connected,
  exportOf,
  GatedStore,
  RawClient,
  raw,
  rawConnected,
  SIZE_BYTES,
  serve,
  simpleReply,
} from "./fixtures.ts";

const { WRITE, FLUSH } = NBD_CMD;

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
