/**
 * Clients of ill will against a live server: whatever they send, the server serves a good client afterwards, holds no
 * more memory than it may, and lets nobody reach an export whose name they do not know.
 */
import { expect, it } from "vitest";
import { NbdClient } from "../../storage/nbd/client.ts";
import { encodeGo, encodeMetaContexts, encodeOption, encodeRequest } from "../../storage/nbd/client-codec.ts";
import { NBD_CMD, NBD_OPT, OPTION_SIZE_BYTES_MAX } from "../../storage/nbd/constants.ts";
import type { NbdAddress } from "../../storage/nbd/server.ts";
import { exportOf, GatedStore, octets, RawClient, serve } from "../storage/nbd/fixtures.ts";
import { forSeeds, type Random } from "../storage/random.ts";

const SEEDS = Number(process.env.FUZZ_SEEDS ?? 150);
const SIZE_BYTES = 1 << 20;
const SECRET_NAME = "secret-5e1c0a";

function randomOctets(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random.below(256)));
}

function randomName(random: Random): string {
  return random.pick([
    "",
    "disk",
    "public",
    "secret",
    SECRET_NAME.slice(0, -1),
    "\0",
    "x".repeat(5000),
    "../disk",
    "é",
  ]);
}

function randomOption(random: Random): Buffer {
  const option = random.pick([...Object.values(NBD_OPT), 4, random.below(2 ** 32)]);
  const name = randomName(random);
  const queries = Array.from({ length: random.below(80) }, () =>
    random.pick(["", "base:", "x-sojourn:", name]),
  );
  const data = random.pick([
    Buffer.alloc(0),
    Buffer.from(name),
    encodeGo(name),
    encodeMetaContexts(name, queries),
    randomOctets(random, random.below(64)),
    Buffer.alloc(OPTION_SIZE_BYTES_MAX + random.below(100_000)),
  ]);
  return spoiled(random, encodeOption(option, data));
}

function randomRequest(random: Random): Buffer {
  const { READ, WRITE, DISC } = NBD_CMD;
  const command = random.pick([
    ...Object.values(NBD_CMD).filter((each) => each !== DISC),
    READ,
    WRITE,
    WRITE,
  ]);
  // Most are nearly right: a request that is wrong throughout is refused at the first look.
  const odd = random.chance(0.3);
  const offset = odd
    ? random.pick([SIZE_BYTES - 1, SIZE_BYTES, 2 ** 53, 2 ** 64 - 4096])
    : random.below(SIZE_BYTES / 2);
  const length = random.chance(0.2)
    ? random.pick([0, SIZE_BYTES, (32 << 20) + 1, 0xffffffff])
    : random.pick([1, 512, 4096, random.below(SIZE_BYTES / 2)]);
  const flags = random.chance(0.7) ? 0 : random.pick([1, 2, 4, 8, 16, 31, random.below(65_536)]);
  const number = random.chance(0.05) ? random.pick([DISC, random.below(65_536)]) : command;
  const header = encodeRequest({ command: number, flags, cookie: random.below(2 ** 32), offset, length });
  if (number !== WRITE) return spoiled(random, header);
  const payload = random.chance(0.1) ? random.below(9000) : Math.min(length, SIZE_BYTES);
  return spoiled(random, Buffer.concat([header, Buffer.alloc(payload, random.below(256))]));
}

/** Now and then a bit is wrong, or the end is missing. */
function spoiled(random: Random, bytes: Buffer): Buffer {
  if (random.chance(0.03)) bytes[random.below(Math.min(bytes.length, 200))]! ^= 1 << random.below(8);
  return random.chance(0.02) ? bytes.subarray(0, random.below(bytes.length)) : bytes;
}

/** One client from its greeting to whatever end; some go half way, some stop reading, some cut the connection. */
async function misbehave(random: Random, address: NbdAddress): Promise<void> {
  const client = new RawClient(address);
  await client.take(18);
  const parts = [
    random.chance(0.9) ? octets(random.pick(["00000003", "00000001"])) : randomOctets(random, 4),
  ];
  // Most options end a negotiation one way or another: half of the clients get to the requests without any.
  const options = random.chance(0.5) ? 0 : random.below(6);
  for (let i = 0; i < options; i++) parts.push(randomOption(random));
  if (random.chance(0.7)) {
    if (random.chance(0.7)) parts.push(encodeOption(NBD_OPT.STRUCTURED_REPLY));
    parts.push(encodeOption(NBD_OPT.SET_META_CONTEXT, encodeMetaContexts("public", ["base:allocation"])));
    parts.push(encodeOption(NBD_OPT.GO, encodeGo("public")));
    const requests = random.below(40);
    for (let i = 0; i < requests; i++) parts.push(randomRequest(random));
  }
  if (random.chance(0.3)) client.socket.pause();
  const all = Buffer.concat(parts);
  const cut = random.below(all.length);
  client.socket.write(all.subarray(0, cut));
  await new Promise(setImmediate);
  client.socket.write(all.subarray(cut));
  if (random.chance(0.5)) {
    client.socket.end();
    client.socket.resume();
    await client.closed();
  } else {
    await new Promise(setImmediate);
    client.socket.destroy();
  }
}

it("malformed clients hurt nobody but themselves", async () => {
  const open = new GatedStore({ sizeBytes: SIZE_BYTES });
  const secret = new GatedStore({ sizeBytes: SIZE_BYTES });
  const good = new GatedStore({ sizeBytes: SIZE_BYTES });
  let turn = 0;
  open.gated = () => {
    const late = turn++ % 4 === 0;
    if (late) setImmediate(() => open.release(1));
    return late;
  };
  const listed = exportOf(open, { name: "public", listed: true });
  const { address, server, exports } = await serve(
    [listed, exportOf(secret, { name: SECRET_NAME }), exportOf(good)],
    { handshakeTimeoutMs: 500 },
  );
  const client = await NbdClient.connect(address, { exportName: "disk" });
  const data = Buffer.alloc(70_000, 0x77);
  let residentMax = 0;
  const before = process.memoryUsage().rss;
  await forSeeds(SEEDS, async (random) => {
    await Promise.all([misbehave(random, address), misbehave(random, address)]);
    const offset = random.below(SIZE_BYTES - data.length);
    await client.write(offset, data);
    expect((await client.read(offset, data.length)).equals(data)).toBe(true);
    residentMax = Math.max(residentMax, process.memoryUsage().rss);
  });
  expect(secret.calls).toEqual([]);
  expect(open.calls.length).toBeGreaterThan(SEEDS);
  expect(residentMax - before).toBeLessThan(512 << 20);
  await client.disconnect();
  for (const name of exports.names()) await exports.remove(name);
  await server.stop();
  expect(server.heldBytes).toBe(0);
  expect(server.connectionCount).toBe(0);
});

it("a thousand clients half way in the handshake cost little, and a good one gets through", async () => {
  const store = new GatedStore({ sizeBytes: SIZE_BYTES });
  const { address, server } = await serve([exportOf(store)], { connectionsMax: 2000 });
  const before = process.memoryUsage();
  // In batches, for the kernel's queue of connections holds only some hundreds.
  for (let batch = 0; batch < 10; batch++) {
    const halfWay = Array.from({ length: 100 }, () => new RawClient(address));
    for (const client of halfWay) client.send("00000003 4948415645 4f5054");
    await Promise.all(halfWay.map((client) => client.take(18)));
  }
  const client = await NbdClient.connect(address, { exportName: "disk" });
  expect(await client.read(0, 4096)).toHaveLength(4096);
  expect(server.connectionCount).toBe(1001);
  const after = process.memoryUsage();
  // Both ends of each connection are ours here.
  expect(after.rss - before.rss).toBeLessThan(128 << 20);
  expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(32 << 20);
  client.destroy();
});
