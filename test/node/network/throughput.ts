/**
 * One channel between two processes on loopback, beside a raw socket in the same run.
 *
 *   node test/node/network/throughput.ts [MiB] [frame KiB] [rounds]
 *   NODE_OPTIONS=--max-semi-space-size=1 node test/node/network/throughput.ts
 *
 * Prints MB/s, the ratio to the raw socket of the same round, and CPU seconds per GB of both processes.
 */

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { generateKeyPair } from "@libp2p/crypto/keys";
import { pipe } from "it-pipe";
import { Libp2pNetwork } from "../../../node/network/libp2p-network.ts";

const PROTOCOL = "/test/throughput/1.0.0";
const silent = { debug: () => {}, info: () => {}, warn: () => {} };

type Result = { seconds: number; receiver: number; sender: number };

/** A control host speaks Noise, a data host TLS. */
const ROLES = { noise: "control", tls: "data" } as const;
type Kind = keyof typeof ROLES;

async function network(kind: Kind): Promise<Libp2pNetwork> {
  const role = ROLES[kind];
  const privateKey = await generateKeyPair("Ed25519");
  const host = new Libp2pNetwork({ privateKey, log: silent }, { listen: ["/ip4/127.0.0.1/tcp/0"], role });
  await host.start();
  return host;
}

function cpuSeconds(since?: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
}

/** The receiving process: tells its address, and after each transfer what it cost. */
async function receive(kind: string): Promise<void> {
  let start = process.cpuUsage();
  const done = (): void => void process.send!({ cpu: cpuSeconds(start) });
  if (kind === "raw") {
    const server = createServer((socket) => {
      start = process.cpuUsage();
      socket.resume().on("end", () => {
        socket.end();
        done();
      });
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    process.send!({ address: String((server.address() as AddressInfo).port) });
    return;
  }
  const host = await network(kind as Kind);
  await host.handle(PROTOCOL, async (channel) => {
    start = process.cpuUsage();
    for await (const _ of channel.frames()) {
    }
    await channel.close();
    done();
  });
  process.send!({ address: host.addresses()[0] });
}

async function sendRaw(port: number, frame: Uint8Array, count: number): Promise<void> {
  const socket: Socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  for (let sent = 0; sent < count; sent++) if (!socket.write(frame)) await once(socket, "drain");
  socket.end().resume();
  await once(socket, "close");
}

async function sendChannel(
  host: Libp2pNetwork,
  address: string,
  frame: Uint8Array,
  count: number,
): Promise<void> {
  const connection = await host.dial(address);
  const channel = await connection.open(PROTOCOL);
  await pipe(repeat(frame, count), channel.sink);
  for await (const _ of channel.frames()) {
  }
  await connection.close();
}

function* repeat(frame: Uint8Array, count: number): Generator<Uint8Array> {
  for (let sent = 0; sent < count; sent++) yield frame;
}

async function measure(child: ChildProcess, transfer: () => Promise<void>): Promise<Result> {
  const received = once(child, "message") as Promise<[{ cpu: number }]>;
  const usage = process.cpuUsage();
  const startedAt = performance.now();
  await transfer();
  const [{ cpu }] = await received;
  return { seconds: (performance.now() - startedAt) / 1000, sender: cpuSeconds(usage), receiver: cpu };
}

async function receiver(kind: string): Promise<{ child: ChildProcess; address: string }> {
  const child = fork(import.meta.filename, ["--receive", kind]);
  const [{ address }] = (await once(child, "message")) as [{ address: string }];
  return { child, address };
}

async function main(): Promise<void> {
  const [mebibytes = 1024, frameKib = 256, rounds = 3] = process.argv.slice(2).map(Number);
  const frame = new Uint8Array(frameKib << 10).fill(7);
  const count = Math.round((mebibytes * 1024) / frameKib);
  const gigabytes = (count * frame.byteLength) / 1e9;
  const raw = await receiver("raw");
  const ends = await Promise.all(
    (["noise", "tls"] as const).map(async (kind) => ({
      kind,
      ...(await receiver(kind)),
      host: await network(kind),
    })),
  );
  const report = (name: string, { seconds, sender, receiver: theirs }: Result, beside: Result): void => {
    const rate = ((gigabytes * 1000) / seconds).toFixed(0).padStart(5);
    const ratio = (beside.seconds / seconds).toFixed(2);
    const cpu = [sender, theirs, sender + theirs].map((spent) => (spent / gigabytes).toFixed(2)).join(" / ");
    console.log(`${name.padEnd(6)} ${rate} MB/s  ${ratio} x raw  CPU s/GB send / receive / both: ${cpu}`);
  };
  for (let round = 0; round < rounds; round++) {
    const beside = await measure(raw.child, () => sendRaw(Number(raw.address), frame, count));
    report("raw", beside, beside);
    for (const { kind, child, address, host } of ends) {
      report(kind, await measure(child, () => sendChannel(host, address, frame, count)), beside);
    }
  }
  for (const { child } of [raw, ...ends]) child.kill();
  await Promise.all(ends.map(({ host }) => host.stop()));
}

if (process.argv[2] === "--receive") await receive(process.argv[3]!);
else await main();
