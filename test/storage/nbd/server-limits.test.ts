import { rename, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { encodeOption } from "../../../storage/nbd/client-codec.ts";
import { NBD_CMD, NBD_OPT } from "../../../storage/nbd/constants.ts";
import { ExportRegistry } from "../../../storage/nbd/export-registry.ts";
import { NbdServer } from "../../../storage/nbd/server.ts";
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
  temporaryDirectory,
} from "./fixtures.ts";

const { READ, WRITE, FLUSH } = NBD_CMD;

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
