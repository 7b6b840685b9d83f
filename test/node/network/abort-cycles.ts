/**
 * Dials, perhaps sends, and aborts from a random side at a random moment: `node abort-cycles.ts COUNT SEED`.
 * A process of its own, because the failure it looks for is a segmentation fault.
 */

import { generateKeyPair } from "@libp2p/crypto/keys";
import type { Libp2pConnection } from "../../../node/network/libp2p-connection.ts";
import { Libp2pNetwork } from "../../../node/network/libp2p-network.ts";

const [count, seed] = process.argv.slice(2).map(Number) as [number, number];
console.log(`SEED=${seed}`);
let state = seed;
const random = (): number => {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return state / 2 ** 32;
};

const log = { debug: () => {}, info: () => {}, warn: () => {} };
const start = async (): Promise<Libp2pNetwork> => {
  const privateKey = await generateKeyPair("Ed25519");
  const host = new Libp2pNetwork({ privateKey, log }, { listen: ["/ip4/127.0.0.1/tcp/0"], role: "data" });
  await host.handle("/test/sink/1.0.0", async (channel) => {
    for await (const _ of channel.frames()) {
    }
  });
  await host.start();
  return host;
};
const [a, b] = await Promise.all([start(), start()]);
const address = b.addresses()[0]!;
const abort = (connection: unknown): void => (connection as Libp2pConnection).abort(new Error("abort"));

for (let cycle = 0; cycle < count; cycle++) {
  // Refused in the middle of the handshake's last steps, with both ends in this process.
  if (cycle % 4 === 0) await a.dial(a.addresses()[0]!.split("/p2p/")[0]!).catch(() => undefined);
  const controller = new AbortController();
  const dialled = a.dial(address, controller.signal).catch(() => undefined);
  if (random() < 0.3) {
    for (let turn = Math.floor(random() * 40); turn > 0; turn--) await new Promise((go) => setImmediate(go));
    controller.abort();
  }
  const connection = await dialled;
  if (connection === undefined) continue;
  const gone = new Promise<void>((resolve) => connection.onClose(() => resolve()));
  const channel = await connection.open("/test/sink/1.0.0");
  const sends = Array.from({ length: 10 }, () => channel.send(new Uint8Array(200_000)));
  for (let turn = Math.floor(random() * 20) - 10; turn > 0; turn--)
    await new Promise((go) => setImmediate(go));
  const side = random();
  if (side < 0.6) abort(connection);
  if (side > 0.4) for (const inbound of b.connections()) abort(inbound);
  await Promise.allSettled([gone, ...sends]);
}
await Promise.all([a.stop(), b.stop()]);
process.disconnect?.();
