/** Key rings: whom a host lets in, under which key, and whom no more. */

import { randomBytes } from "node:crypto";
import { generateKeyPair } from "@libp2p/crypto/keys";
import { afterEach, expect, test } from "vitest";
import { type AdmissionKey, type KeyRing, keyIdOf, sameOctets } from "../../../node/network/key-ring.ts";
import { Libp2pNetwork, STREAM_WINDOW_SIZE } from "../../../node/network/libp2p-network.ts";
import { networkContract } from "../../contract/network.contract.ts";
import { Hosts } from "./hosts.ts";

const PROTOCOL = "/test/frames/1.0.0";
const hosts = new Hosts();
afterEach(() => hosts.stop());

/** A ring that a test changes while it is in use. */
class Ring implements KeyRing {
  keys: AdmissionKey[];
  readonly refused = new Map<string, string>();

  constructor(...keys: AdmissionKey[]) {
    this.keys = keys;
  }

  offer(): readonly AdmissionKey[] {
    return this.keys;
  }

  find(id: Uint8Array): AdmissionKey | undefined {
    return this.keys.find((key) => sameOctets(key.id, id));
  }

  refusal(peer: string): string | undefined {
    return this.refused.get(peer);
  }
}

function keyOf(secret: Uint8Array = randomBytes(32), allows = (_protocol: string) => true): AdmissionKey {
  return { id: keyIdOf(secret), secret, allows };
}

for (const role of ["control", "data"] as const) {
  test(`${role}: one key in common is enough, and the dialler's best comes first`, async () => {
    const [older, newer, other] = [keyOf(), keyOf(), keyOf()];
    const host = await hosts.start({ role, keys: new Ring(older, newer) });
    const peer = await hosts.start({ role, keys: new Ring(other, newer, older) });
    const connection = await peer.dial(host.addresses()[0]!);
    expect(peer.keyOf(connection)).toBe(newer);
    expect(host.keyOf(host.connections()[0]!)).toBe(newer);
  });

  test(`${role}: no key in common, no key at all, or another secret under a known id is refused and logged`, async () => {
    const key = keyOf();
    const refusals: string[] = [];
    const log = {
      debug() {},
      info() {},
      warn: (_: string, fields = {}) => void refusals.push(JSON.stringify(fields)),
    };
    const privateKey = await generateKeyPair("Ed25519");
    const listen = ["/ip4/127.0.0.1/tcp/0"];
    const host = new Libp2pNetwork({ privateKey, log }, { role, listen, keys: new Ring(key) });
    await host.start();
    try {
      const [address] = host.addresses();
      const guess = { ...keyOf(), id: key.id };
      for (const keys of [new Ring(keyOf()), new Ring(), new Ring(guess)]) {
        const stranger = await hosts.start({ role, keys });
        await expect(stranger.dial(address!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
      }
      const stock = await hosts.start({ role });
      await expect(stock.dial(address!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
      expect(host.connections()).toEqual([]);
      expect(refusals.filter((line) => line.includes('"address":"/ip4/127.0.0.1/'))).toHaveLength(
        refusals.length,
      );
      expect(refusals.some((line) => line.includes("unknown, expired or used-up key"))).toBe(true);
    } finally {
      await host.stop();
    }
  });

  test(`${role}: hosts that both have no key do not meet, nor does one of them meet one without a ring`, async () => {
    const alone = await hosts.start({ role, keys: new Ring() });
    const other = await hosts.start({ role, keys: new Ring() });
    const stock = await hosts.start({ role });
    for (const [from, to] of [
      [alone, other],
      [alone, stock],
      [stock, alone],
    ] as const) {
      await expect(from.dial(to.addresses()[0]!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
    }
    expect([alone, other, stock].flatMap((host) => host.connections())).toEqual([]);
  });

  test(`${role}: a host that was revoked is cut off at once, and does not get in again`, async () => {
    const key = keyOf();
    const ring = new Ring(key);
    const host = await hosts.start({ role, keys: ring });
    const [member, other] = [
      await hosts.start({ role, keys: new Ring(key) }),
      await hosts.start({ role, keys: new Ring(key) }),
    ];
    const [cut, stays] = [await member.dial(host.addresses()[0]!), await other.dial(host.addresses()[0]!)];
    const closed = Promise.withResolvers<void>();
    cut.onClose(() => closed.resolve());
    ring.refused.set(member.self, "revoked");
    host.recheck();
    await closed.promise;
    expect(host.connections().map(({ peer }) => peer)).toEqual([other.self]);
    expect(await stays.ping()).toBeGreaterThan(0);
    await expect(member.dial(host.addresses()[0]!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
    await expect(host.dial(member.addresses()[0]!)).rejects.toMatchObject({ code: "NETWORK_REFUSED" });
  });

  test(`${role}: a key may be good for one protocol alone`, async () => {
    const secret = randomBytes(32);
    const host = await hosts.start({
      role,
      keys: new Ring(keyOf(secret, (protocol) => protocol === PROTOCOL)),
    });
    let handled = 0;
    await host.handle(PROTOCOL, (channel) => channel.close());
    await host.handle("/test/other/1.0.0", () => {
      handled += 1;
    });
    const guest = await hosts.start({ role, keys: new Ring(keyOf(secret)) });
    const connection = await guest.dial(host.addresses()[0]!);
    const channel = await connection.open(PROTOCOL);
    for await (const _ of channel.frames()) throw new Error("a frame");
    const closed = Promise.withResolvers<void>();
    connection.onClose(() => closed.resolve());
    await connection.open("/test/other/1.0.0").catch(() => undefined);
    await closed.promise;
    expect(handled).toBe(0);
  });
}

networkContract("Libp2pNetwork with keys", async () => {
  const all = new Hosts();
  const key = keyOf();
  return {
    aheadSizeMax: STREAM_WINDOW_SIZE + (2 << 20) + (512 << 10),
    host: ({ frameSizeMax = 2 << 20 } = {}) =>
      all.start({ role: "data", keys: new Ring(key), channel: { frameSizeMax } }),
    severable: async (host) => {
      const relay = await all.relay(host);
      return { address: relay.address, sever: () => relay.sever() };
    },
    stop: () => all.stop(),
  };
});
