/** Who is let in, what a refused dial says, and what the sockets carry. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { pipe } from "it-pipe";
import { afterEach, expect, test } from "vitest";
import { Hosts } from "./hosts.ts";

const PROTOCOL = "/test/frames/1.0.0";
const hosts = new Hosts();
const servers: Server[] = [];
afterEach(async () => {
  await hosts.stop();
  for (const server of servers.splice(0)) server.close();
});

test("a host that is not on the allow list is refused, by the one it dials and by its own", async () => {
  const members = new Set<string>();
  const allowPeers = (peer: string): boolean => members.has(peer);
  const host = await hosts.start({ allowPeers });
  const stranger = await hosts.start();
  const [address] = host.addresses();
  await expect(stranger.dial(address!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  await expect(host.dial(stranger.addresses()[0]!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  expect([host.connections(), stranger.connections()]).toEqual([[], []]);
  members.add(stranger.self);
  expect((await stranger.dial(address!)).peer).toBe(host.self);
});

test("a member that was revoked opens no more channels on the connection it has", async () => {
  const members = new Set<string>();
  const host = await hosts.start({ allowPeers: (peer) => members.has(peer) });
  let handled = 0;
  await host.handle(PROTOCOL, () => {
    handled += 1;
  });
  const member = await hosts.start();
  members.add(member.self);
  const connection = await member.dial(host.addresses()[0]!);
  const closed = Promise.withResolvers<void>();
  connection.onClose(() => closed.resolve());
  members.delete(member.self);
  const channel = await connection.open(PROTOCOL).catch(() => undefined);
  await closed.promise;
  await expect(channel?.send(Uint8Array.of(1)) ?? Promise.reject(new Error("refused"))).rejects.toThrow();
  expect(handled).toBe(0);
});

test("hosts of another cluster secret are refused in the handshake", async () => {
  const prologueBytes = new Uint8Array(32).fill(7);
  const host = await hosts.start({ prologueBytes });
  const [address] = host.addresses();
  const other = await hosts.start({ prologueBytes: new Uint8Array(32).fill(8) });
  const none = await hosts.start();
  const member = await hosts.start({ prologueBytes });
  await expect(other.dial(address!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  await expect(none.dial(address!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  expect((await member.dial(address!)).peer).toBe(host.self);
});

test("a server that speaks something else is a refusal that names the address", async () => {
  const address = await serverAt((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
  const host = await hosts.start();
  await expect(host.dial(address)).rejects.toMatchObject({ detail: { code: "NETWORK_REFUSED", address } });
});

test("a server that says nothing is unreachable after the dial timeout, and the next dial is served", async () => {
  const address = await serverAt(() => {});
  const host = await hosts.start({ dialTimeoutMs: 300 });
  const both = await Promise.allSettled([host.dial(address), host.dial(address)]);
  const reason = "no answer within 300 ms";
  const error = { code: "NETWORK_UNREACHABLE", detail: { address, reason } };
  expect(both).toMatchObject([{ reason: error }, { reason: error }]);
});

test("a dial that is given up rejects with the reason", async () => {
  const address = await serverAt(() => {});
  const host = await hosts.start();
  const controller = new AbortController();
  const reason = new Error("enough");
  const dialled = host.dial(address, controller.signal);
  const queued = host.dial(address, controller.signal);
  controller.abort(reason);
  await expect(dialled).rejects.toBe(reason);
  await expect(queued).rejects.toBe(reason);
});

test("a port that is taken is named at the start", async () => {
  const host = await hosts.start();
  const [taken] = host.addresses()[0]!.split("/p2p/");
  const second = await hosts.create({ listen: [taken!] });
  await expect(second.start()).rejects.toMatchObject({ code: "NETWORK_LISTEN_FAILED" });
});

test("addresses can be announced in place of the ones listened on", async () => {
  const host = await hosts.start({ announce: ["/ip4/192.0.2.7/tcp/4701"] });
  expect(host.addresses()).toEqual([`/ip4/192.0.2.7/tcp/4701/p2p/${host.self}`]);
});

test("the bytes of a connection are those that a relay between the hosts sees", async () => {
  const host = await hosts.start();
  await host.handle(PROTOCOL, (channel) => pipe(channel.frames(), channel.sink));
  const relay = await hosts.relay(host);
  const connection = await (await hosts.start()).dial(relay.address);
  const [inbound] = host.connections();
  const channel = await connection.open(PROTOCOL);
  const payload = 4 << 20;
  const piped = pipe(
    Array.from({ length: 16 }, () => new Uint8Array(payload / 16)),
    channel.sink,
  );
  for await (const _ of channel.frames()) {
  }
  await piped;
  await connection.close();
  expect(connection.bytesSent()).toBeGreaterThan(payload);
  expect(connection.bytesSent()).toBeLessThan(payload * 1.02);
  expect(connection.bytesSent()).toBe(relay.bytesIn);
  expect(inbound!.bytesReceived()).toBe(relay.bytesIn);
  expect(connection.bytesReceived()).toBe(relay.bytesBack);
  expect(inbound!.bytesSent()).toBe(relay.bytesBack);
});

test("a process that starts, serves and stops a network ends by itself", async () => {
  const program = `
    import { generateKeyPair } from "@libp2p/crypto/keys";
    import { Libp2pNetwork } from ${JSON.stringify(new URL("../../../node/network/libp2p-network.ts", import.meta.url).href)};
    const log = { debug() {}, info() {}, warn() {} };
    const start = async () => {
      const privateKey = await generateKeyPair("Ed25519");
      const host = new Libp2pNetwork({ privateKey, log }, { listen: ["/ip4/127.0.0.1/tcp/0"], role: "control" });
      await host.handle("${PROTOCOL}", async (channel) => { for await (const _ of channel.frames()); });
      await host.start();
      return host;
    };
    const [a, b] = await Promise.all([start(), start()]);
    const connection = await a.dial(b.addresses()[0]);
    await (await connection.open("${PROTOCOL}")).send(new Uint8Array(100));
    await a.stop();
    await b.stop();
    console.log("stopped");
  `;
  const child = spawn(process.execPath, ["--input-type=module-typescript", "--eval", program], {
    stdio: ["ignore", "pipe", "inherit"],
    cwd: new URL("../../..", import.meta.url).pathname,
    timeout: 30_000,
  });
  let output = "";
  let stoppedAt = 0;
  child.stdout.setEncoding("utf8").on("data", (text) => {
    output += text;
    stoppedAt = performance.now();
  });
  const [code] = await once(child, "close");
  expect({ code, output }).toEqual({ code: 0, output: "stopped\n" });
  expect(performance.now() - stoppedAt).toBeLessThan(3000);
});

async function serverAt(onSocket: (socket: Socket) => void): Promise<string> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    onSocket(socket);
  }).listen(0, "127.0.0.1");
  servers.push(server);
  await once(server, "listening");
  return `/ip4/127.0.0.1/tcp/${(server.address() as AddressInfo).port}`;
}
