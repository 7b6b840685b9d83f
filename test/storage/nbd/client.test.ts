import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { NbdClient } from "../../../storage/nbd/client.ts";
import type { NbdAddress } from "../../../storage/nbd/server.ts";
import { exportOf, GatedStore, octets, serve, temporaryDirectory } from "./fixtures.ts";

const GREETING = "4e42444d41474943 49484156454f5054 0003";
const ACK = (option: string) => `0003e889045565a9 ${option} 00000001 00000000`;
const EXPORT = "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 00ff";

/** A server that agrees to everything and then answers the first request with these octets. */
async function misbehaving(answer: string, negotiation?: string): Promise<NbdAddress> {
  const unixPath = join(await temporaryDirectory(), "bad.sock");
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.write(octets(GREETING + (negotiation ?? ACK("00000008") + EXPORT + ACK("00000007"))));
    let received = 0;
    let answered = false;
    // Flags, STRUCTURED_REPLY and GO of an empty name make 42 octets.
    socket.on("data", (bytes) => {
      received += bytes.length;
      if (received <= 42 || answered) return;
      answered = true;
      socket.write(octets(answer));
    });
  });
  await new Promise<void>((resolve) => server.listen(unixPath, resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { unixPath };
}

const CHUNK = (flags: string, type: string, payload: string) =>
  `668e33ef ${flags} ${type} 0000000000000002 ${octets(payload).length.toString(16).padStart(8, "0")} ${payload}`;

it.each([
  ["a magic of nothing", "00000000".repeat(5)],
  ["a reply that nobody waits for", "67446698 00000000 0000000000000099"],
  ["a simple reply to a read", "67446698 00000000 0000000000000002 00"],
  ["data before the request", CHUNK("0001", "0001", "0000000000000000 00000000")],
  ["data beyond the request", CHUNK("0001", "0001", `0000000000001000 ${"00".repeat(4097)}`)],
  ["data of no length", CHUNK("0001", "0001", "0000000000001000")],
  ["the same data twice", CHUNK("0000", "0001", `0000000000001000 ${"00".repeat(4096)}`).repeat(2)],
  ["a read that ends short", CHUNK("0001", "0001", `0000000000001000 ${"00".repeat(4095)}`)],
  ["a hole beyond the request", CHUNK("0001", "0002", "0000000000001000 ffffffff")],
  ["a block status of a read", CHUNK("0001", "0005", "00000001 00001000 00000000")],
  ["a chunk of four gigabytes", "668e33ef 0001 8001 0000000000000002 ffffffff"],
  ["an error without a number", CHUNK("0001", "8001", "0000")],
  ["a chunk of nothing without an end", "668e33ef 0000 0000 0000000000000002 00000000"],
])("a server that sends %s loses its client, with a typed error", async (_, answer) => {
  const client = await NbdClient.connect(await misbehaving(answer), { exportName: "" });
  const lost = new Promise((resolve) => client.onLost(resolve));
  await expect(client.read(4096, 4096)).rejects.toMatchObject({ code: "NBD_PROTOCOL" });
  await expect(lost).resolves.toMatchObject({ code: "NBD_PROTOCOL" });
  await expect(client.flush()).rejects.toMatchObject({ code: "NBD_PROTOCOL" });
});

it.each([
  ["an error", CHUNK("0001", "8002", "0000001c 0003 616263 0000000000001000"), 28],
  ["an error of number zero", CHUNK("0001", "8001", "00000000 0000"), 5],
])("a read that ends in %s is rejected with a number", async (_, answer, errno) => {
  const client = await NbdClient.connect(await misbehaving(answer), { exportName: "" });
  await expect(client.read(4096, 4096)).rejects.toMatchObject({ code: "NBD_REPLY_ERROR", detail: { errno } });
  client.destroy();
});

it("holes of a read are zeroes, and chunks come in any order", async () => {
  const answer =
    CHUNK("0000", "0001", `0000000000001800 ${"ab".repeat(2048)}`) +
    CHUNK("0001", "0002", "0000000000001000 00000800");
  const client = await NbdClient.connect(await misbehaving(answer), { exportName: "" });
  const expected = Buffer.concat([Buffer.alloc(2048), Buffer.alloc(2048, 0xab)]);
  expect((await client.read(4096, 4096)).equals(expected)).toBe(true);
  client.destroy();
});

it.each([
  ["answers with another magic", "00".repeat(20), "NBD_PROTOCOL"],
  ["answers another option", ACK("00000009"), "NBD_PROTOCOL"],
  ["announces a reply of gigabytes", "0003e889045565a9 00000008 00000001 ffffffff", "NBD_PROTOCOL"],
  ["tells no size", ACK("00000008") + ACK("00000007"), "NBD_PROTOCOL"],
  ["wants TLS", `${ACK("00000008")} 0003e889045565a9 00000007 80000005 00000000`, "NBD_OPTION_REFUSED"],
])("a peer that %s is refused in the negotiation", async (_, negotiation, code) => {
  const address = await misbehaving("", negotiation);
  await expect(NbdClient.connect(address, { exportName: "" })).rejects.toMatchObject({ code });
});

it("connecting fails with a code where nobody listens, and where the export is not", async () => {
  const unixPath = join(await temporaryDirectory(), "nobody.sock");
  await expect(NbdClient.connect({ unixPath }, { exportName: "" })).rejects.toMatchObject({
    code: "NBD_CONNECTION_LOST",
    detail: { reason: "ENOENT" },
  });
  const { address } = await serve([exportOf(new MemoryBlockStore({ sizeBytes: 4096 }))]);
  await expect(NbdClient.connect(address, { exportName: "other" })).rejects.toMatchObject({
    code: "NBD_EXPORT_UNKNOWN",
  });
});

it("a signal ends the wait for a server that says nothing", async () => {
  const unixPath = join(await temporaryDirectory(), "mute.sock");
  const accepted: Socket[] = [];
  const server = createServer((socket) => accepted.push(socket));
  await new Promise<void>((resolve) => server.listen(unixPath, resolve));
  onTestFinished(() => {
    for (const socket of accepted) socket.destroy();
    server.close();
  });
  const controller = new AbortController();
  const connection = NbdClient.connect({ unixPath }, { exportName: "", signal: controller.signal });
  server.once("connection", () => controller.abort(new Error("enough")));
  await expect(connection).rejects.toThrow("enough");
});

it("what is unanswered when the connection is lost is rejected, all of it", async () => {
  const store = new GatedStore({ sizeBytes: 1 << 20 });
  store.gated = () => true;
  const { address, server } = await serve([exportOf(store)]);
  const client = await NbdClient.connect(address, { exportName: "disk" });
  const requests = [client.read(0, 1), client.read(4096, 1), client.flush()];
  await store.untilWaiting(3);
  client.destroy();
  for (const request of requests) await expect(request).rejects.toMatchObject({ code: "NBD_CLOSED" });
  store.release();
  await server.stop();
});
