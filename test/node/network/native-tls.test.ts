import { fork } from "node:child_process";
import { once } from "node:events";
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { noise } from "@chainsafe/libp2p-noise";
import { generateKeyPair } from "@libp2p/crypto/keys";
import type { ConnectionEncrypter, Libp2p, PrivateKey } from "@libp2p/interface";
import { ping } from "@libp2p/ping";
import { tls } from "@libp2p/tls";
import { generateCertificate } from "@libp2p/tls/utils";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import { pipe } from "it-pipe";
import { createLibp2p } from "libp2p";
import { afterEach, expect, test, vi } from "vitest";
import { countedTcp } from "../../../node/network/counted-tcp.ts";
import type { Libp2pConnection } from "../../../node/network/libp2p-connection.ts";
import { type NativeTlsComponents, nativeTls } from "../../../node/network/native-tls.ts";
import type { Network } from "../../../node/network/network.ts";
import type { Credentials } from "../../../node/network/tls-handshake.ts";
import { Hosts } from "./hosts.ts";

const hosts = new Hosts();
const strangers: Libp2p[] = [];
afterEach(async () => {
  vi.useRealTimers();
  await hosts.stop();
  await Promise.all(strangers.splice(0).map((node) => node.stop()));
});

test("data hosts speak TLS, and Noise with a host that has none", async () => {
  const data = await hosts.start({ role: "data" });
  const other = await hosts.start({ role: "data" });
  const control = await hosts.start({ role: "control" });
  expect(await encryption(other, data)).toBe("/tls/1.0.0");
  expect(await encryption(control, data)).toBe("/noise");
  expect(await encryption(data, control)).toBe("/noise");
});

test("hosts with a cluster secret speak TLS with a proof of it", async () => {
  const prologueBytes = crypto.getRandomValues(new Uint8Array(32));
  const data = await hosts.start({ prologueBytes });
  const other = await hosts.start({ prologueBytes });
  expect(await encryption(other, data)).toBe("/sojourn/tls/1.0.0");
});

test("a host that knows another secret does not get past the proof", async () => {
  const secrets = [1, 2].map((byte) => new Uint8Array(32).fill(byte));
  const [a, b] = await Promise.all(secrets.map((clusterSecret) => stranger(nativeTls({ clusterSecret }))));
  await expect(a!.dial(b!.getMultiaddrs())).rejects.toThrow(/cluster secret|proved its membership/);
  expect([a!.getConnections(), b!.getConnections()]).toEqual([[], []]);
});

test("any libp2p that speaks TLS is understood, whoever dials", async () => {
  const data = await hosts.start();
  await data.handle("/test/frames/1.0.0", (channel) => pipe(channel.frames(), channel.sink));
  const stock = await stranger(tls());
  const inwards = await stock.dial(multiaddr(data.addresses()[0]!));
  expect([inwards.encryption, inwards.remotePeer.toString()]).toEqual(["/tls/1.0.0", data.self]);
  const outwards = await data.dial(stock.getMultiaddrs()[0]!.toString());
  expect([encryptionOf(outwards), outwards.peer]).toEqual(["/tls/1.0.0", stock.peerId.toString()]);
  expect(await outwards.ping()).toBeGreaterThan(0);
});

test.each([
  ["expired", () => certificateOf("1910-01-01")],
  ["not valid yet", () => certificateOf("2200-01-01")],
  ["changed after it was signed", () => changedCertificate],
  ["of another host", () => async () => generateCertificate(await generateKeyPair("Ed25519"))],
])("a certificate that is %s lets nobody in, on either side", async (_, make) => {
  const good = await hosts.start();
  const bad = await stranger(nativeTls({ credentials: make() }));
  await expect(good.dial(bad.getMultiaddrs()[0]!.toString())).rejects.toMatchObject({
    code: expect.stringMatching(/^NETWORK_(REFUSED|WRONG_PEER)$/),
  });
  // A dialler is done before it is judged; what counts is whom the other side believes to have let in.
  const dialled = await bad.dial(multiaddr(good.addresses()[0]!)).catch(() => undefined);
  await dialled?.newStream("/ipfs/ping/1.0.0").catch(() => undefined);
  expect(good.connections().map(({ peer }) => peer)).not.toContain(bad.peerId.toString());
});

test("a client without a certificate, without our ALPN or with an older TLS is turned away", async () => {
  const host = await hosts.start();
  const credentials = await generateCertificate(await generateKeyPair("Ed25519"));
  const alpn = { ALPNProtocols: ["libp2p"] };
  for (const options of [
    alpn,
    { ...credentials },
    { ...credentials, ALPNProtocols: ["h2"] },
    { ...credentials, ...alpn, maxVersion: "TLSv1.2" as const },
  ]) {
    const socket = await proposeTls(host);
    const session = connectTls({ socket, rejectUnauthorized: false, ...options });
    // Refused by an alert or by a close: both end here.
    const closed = new Promise((resolve) => session.on("error", () => {}).once("close", resolve));
    session.resume();
    await closed;
    expect(host.connections()).toEqual([]);
  }
});

test("a handshake that is garbage or ends early costs its own connection", async () => {
  const host = await hosts.start();
  for (const spoil of [
    (socket: Socket) => socket.write(new Uint8Array(4000).fill(0x55)),
    (socket: Socket) => socket.end(Uint8Array.of(22, 3, 1, 2, 0, 1)),
    (socket: Socket) => socket.resetAndDestroy(),
  ]) {
    const socket = await proposeTls(host);
    const closed = once(socket, "close");
    spoil(socket);
    socket.resume();
    await closed;
  }
  expect(await encryption(await hosts.start(), host)).toBe("/tls/1.0.0");
  expect(host.connections()).toHaveLength(1);
});

test("what a host sends cannot be read on the way", async () => {
  const marker = Buffer.from("a block of a guest's disk, in the clear");
  const host = await hosts.start();
  await host.handle("/test/frames/1.0.0", (channel) => pipe(channel.frames(), channel.sink));
  const relay = await hosts.relay(host);
  const seen: Buffer[] = [];
  relay.onBytes = (bytes) => seen.push(bytes);
  const channel = await (await (await hosts.start()).dial(relay.address)).open("/test/frames/1.0.0");
  await channel.send(marker);
  expect(Buffer.from((await channel.frames().next()).value!)).toEqual(marker);
  expect(Buffer.concat(seen).includes(marker.subarray(0, 16))).toBe(false);
});

test("aborts at any moment of a connection's life do not crash the process", async () => {
  const child = fork(new URL("./abort-cycles.ts", import.meta.url), ["60", String(Date.now() % 2 ** 31)], {
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    timeout: 50_000,
  });
  let output = "";
  for (const stream of [child.stdout!, child.stderr!]) stream.on("data", (text) => (output += text));
  const [code, signal] = await once(child, "close");
  expect({ code, signal }, output).toEqual({ code: 0, signal: null });
});

async function encryption(dialler: Network, host: Network): Promise<string> {
  return encryptionOf(await dialler.dial(host.addresses()[0]!));
}

function encryptionOf(connection: unknown): string {
  return (connection as Libp2pConnection).encryption;
}

async function stranger(
  encrypter: (components: NativeTlsComponents) => ConnectionEncrypter,
): Promise<Libp2p> {
  const node = await createLibp2p({
    privateKey: await generateKeyPair("Ed25519"),
    addresses: { listen: ["/ip4/127.0.0.1/tcp/0"] },
    transports: [countedTcp()],
    connectionEncrypters: [encrypter, noise()],
    streamMuxers: [yamux({ streamOptions: { initialStreamWindowSize: 4 << 20 } })],
    connectionMonitor: { enabled: false },
    services: { ping: ping() },
  });
  strangers.push(node);
  return node;
}

/** A good certificate for its time: it is valid from then on for a hundred years. */
function certificateOf(time: string): (privateKey: PrivateKey) => Promise<Credentials> {
  return async (privateKey) => {
    vi.useFakeTimers({ toFake: ["Date"], now: new Date(time) });
    try {
      return await generateCertificate(privateKey);
    } finally {
      vi.useRealTimers();
    }
  };
}

/** One byte of the identity's signature is another one; the key of the certificate is still ours. */
async function changedCertificate(privateKey: PrivateKey): Promise<Credentials> {
  const { cert, key } = await generateCertificate(privateKey);
  const der = Buffer.from(cert.replace(/-----[^-]+-----|\s/g, ""), "base64");
  const identity = der.indexOf(Buffer.from(privateKey.publicKey.raw));
  expect(identity).toBeGreaterThan(0);
  const changed = identity + 32 + 10;
  der[changed] = der[changed]! ^ 1;
  const body = der.toString("base64").replace(/.{64}/g, "$&\n");
  return { cert: `-----BEGIN CERTIFICATE-----\n${body}\n-----END CERTIFICATE-----\n`, key };
}

/** A socket on which TLS was agreed and nothing more. */
async function proposeTls(host: Network): Promise<Socket> {
  const socket = connectTcp(Number(host.addresses()[0]!.split("/")[4]), "127.0.0.1");
  socket.on("error", () => {});
  await once(socket, "connect");
  const lines = ["/multistream/1.0.0\n", "/tls/1.0.0\n"].map(
    (line) => `${String.fromCharCode(line.length)}${line}`,
  );
  const agreed = Buffer.from(lines.join(""));
  socket.write(agreed);
  let answered = 0;
  while (answered < agreed.byteLength) {
    const bytes: Buffer | null = socket.read(agreed.byteLength - answered) ?? socket.read();
    if (bytes === null) await once(socket, "readable");
    else answered += bytes.byteLength;
  }
  return socket;
}
