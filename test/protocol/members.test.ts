import { beforeAll, describe, expect, test } from "vitest";
import { statementCrypto } from "../../node/cluster/signing.ts";
import { LIMITS, MemberList } from "../../protocol/members/member-list.ts";
import {
  decodeBody,
  encodeBody,
  KEEPS_MAX,
  openSigned,
  SIGNATURE_SIZE,
  type SignedStatement,
  STATEMENT_SIZE_MAX,
} from "../../protocol/members/statement.ts";
import { makeHosts, NO_ADDRESSES, Speaker, sign, type TestHost } from "./members-hosts.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
let hosts: TestHost[];
let speaker: Speaker;
beforeAll(async () => {
  hosts = await makeHosts(9);
  speaker = await Speaker.found(hosts[0]!);
});

function memberNames(list: MemberList): string[] {
  return [...list.members().keys()].map((id) => hosts.find((host) => host.id === id)!.name).sort();
}

describe("a member list", () => {
  test("has its founder, and whom a chain of admissions leads to", async () => {
    const [a, b, c, d] = hosts as [TestHost, TestHost, TestHost, TestHost];
    const list = speaker.list([await speaker.admit(a, b), await speaker.admit(b, c)]);
    expect(memberNames(list)).toEqual(["host-0", "host-1", "host-2"]);
    expect(list.members().get(c.id)).toMatchObject({ admittedBy: b.id, name: "host-2", sequence: 0 });
    const stranger = await speaker.admit(d, hosts[4]!);
    expect(list.add([stranger.bytes])).toEqual({ added: [], refused: [] });
    expect(list.members().size).toBe(3);
  });

  test("takes what came before the admission of its author, once that comes", async () => {
    const [a, b, c] = hosts as [TestHost, TestHost, TestHost];
    const [first, second, renewal] = [
      await speaker.admit(a, b),
      await speaker.admit(b, c),
      await speaker.renew(c, 7),
    ];
    const list = speaker.list([renewal, second]);
    expect(memberNames(list)).toEqual(["host-0"]);
    expect(list.add([first.bytes]).added.map(({ id }) => id)).toEqual([first.id, second.id, renewal.id]);
    expect(list.members().get(c.id)).toMatchObject({ name: "host-2-7", sequence: 7 });
  });

  test("voids what a revoked host had admitted, all the way down, but for whom the revocation keeps", async () => {
    const [a, b, c, d, e] = hosts as [TestHost, TestHost, TestHost, TestHost, TestHost];
    const list = speaker.list([
      await speaker.admit(a, b),
      await speaker.admit(b, c),
      await speaker.admit(c, e),
      await speaker.admit(b, d),
    ]);
    expect(list.admittedBy(b.id)).toEqual([c.id, d.id].sort());
    list.add([(await speaker.revoke(a, b, [d])).bytes]);
    expect(memberNames(list)).toEqual(["host-0", "host-3"]);
    expect([...list.revoked().keys()]).toEqual([b.id]);
    // A void host is not a revoked one: any member may take it in again, and with it whom it had admitted.
    list.add([(await speaker.admit(d, c)).bytes]);
    expect(memberNames(list)).toEqual(["host-0", "host-2", "host-3", "host-4"]);
  });

  test("has no way back for a revoked host, whoever admits it and whoever is revoked later", async () => {
    const [a, b, c] = hosts as [TestHost, TestHost, TestHost];
    const list = speaker.list([
      await speaker.admit(a, b),
      await speaker.admit(a, c),
      await speaker.revoke(c, b),
      await speaker.revoke(a, c),
      await speaker.admit(a, b),
      await speaker.renew(b, 9),
    ]);
    expect(memberNames(list)).toEqual(["host-0"]);
    expect([...list.revoked().keys()].sort()).toEqual([b.id, c.id].sort());
  });

  test("outlives its founder", async () => {
    const [a, b, c] = hosts as [TestHost, TestHost, TestHost];
    const list = speaker.list([
      await speaker.admit(a, b),
      await speaker.admit(b, c),
      await speaker.revoke(c, a, [b]),
    ]);
    expect(memberNames(list)).toEqual(["host-1", "host-2"]);
  });

  test("does not let a host that was shut out keep what it had admitted by a revocation of its own", async () => {
    const [a, b, c, d] = hosts as [TestHost, TestHost, TestHost, TestHost];
    const list = speaker.list([
      await speaker.admit(a, b),
      await speaker.admit(b, c),
      await speaker.revoke(c, b, [c]),
      await speaker.revoke(c, d, [c]),
      await speaker.revoke(a, b, []),
    ]);
    expect(memberNames(list)).toEqual(["host-0"]);
  });

  test("of a host's renewals the highest sequence counts, and one alone is kept", async () => {
    const [a] = hosts as [TestHost];
    const renewals = await Promise.all([3, 1, 5, 4].map((sequence) => speaker.renew(a, sequence)));
    const list = speaker.list(renewals);
    expect(list.members().get(a.id)).toMatchObject({ sequence: 5, name: "host-0-5" });
    expect(list.ids()).toHaveLength(2);
  });
});

test(`the same statements make the same list in any order, in parts and repeated (SEED=${seed})`, async () => {
  const random = prng(seed);
  for (let round = 0; round < 30; round++) {
    const said = await conversation(random);
    const whole = stateOf(speaker.list(said));
    for (let order = 0; order < 6; order++) {
      const [one, other] = [speaker.list(), speaker.list()];
      for (const statement of shuffled([...said, ...said], random)) {
        (random() < 0.5 ? one : other).add([statement.bytes]);
      }
      // What waits in one for its author to be known is what the other gives it.
      for (let turn = 0; turn < 2; turn++) {
        one.add(other.statements());
        other.add(one.statements());
        for (const list of [one, other]) list.add(said.map(({ bytes }) => bytes));
      }
      expect(stateOf(one)).toEqual(whole);
      expect(stateOf(other)).toEqual(whole);
    }
  }
});

test(`two lists that tell each other all they keep are the same (SEED=${seed})`, async () => {
  const random = prng(seed + 1);
  for (let round = 0; round < 60; round++) {
    const said = await conversation(random);
    const [one, other] = [
      speaker.list(said.filter(() => random() < 0.6)),
      speaker.list(said.filter(() => random() < 0.6)),
    ];
    // A statement may wait for the one that makes its author a member: hosts exchange again and again.
    for (let turn = 0; turn < 10; turn++) {
      const news = [...one.add(other.statements()).added, ...other.add(one.statements()).added];
      if (news.length === 0) break;
    }
    expect(stateOf(one)).toEqual(stateOf(other));
    const again = one.add(other.statements());
    expect(again).toEqual({ added: [], refused: [] });
  }
});

test(`a revocation is never undone by what comes after it (SEED=${seed})`, async () => {
  const random = prng(seed + 2);
  for (let round = 0; round < 20; round++) {
    const list = speaker.list();
    let revoked: string[] = [];
    for (const { bytes } of shuffled(await conversation(random), random)) {
      list.add([bytes]);
      const now = [...list.revoked().keys()];
      expect(now).toEqual(expect.arrayContaining(revoked));
      expect(now.filter((host) => list.members().has(host))).toEqual([]);
      revoked = now;
    }
  }
});

describe("a statement", () => {
  test("has one encoding only: whatever decodes encodes to the same octets", async () => {
    const random = prng(seed + 3);
    for (const { statement, bytes } of await conversation(random)) {
      const body = bytes.subarray(0, bytes.length - SIGNATURE_SIZE);
      expect(decodeBody(body)).toEqual(statement);
      for (let turn = 0; turn < 40; turn++) {
        const changed = mutated(body, random);
        try {
          expect(encodeBody(decodeBody(changed))).toEqual(changed);
        } catch (error) {
          expect(error).toMatchObject({ name: "ProtocolError" });
        }
      }
    }
  });

  test("that was changed, cut, is too long or is noise is refused with a sentence and changes nothing", async () => {
    const random = prng(seed + 4);
    const [a, b] = hosts as [TestHost, TestHost];
    const { bytes } = await speaker.admit(a, b);
    const list = speaker.list();
    const bad = [
      ...Array.from({ length: 100 }, () => mutated(bytes, random)),
      bytes.subarray(0, -1),
      new Uint8Array(0),
      new Uint8Array(SIGNATURE_SIZE),
      new Uint8Array(STATEMENT_SIZE_MAX + 1),
      ...Array.from({ length: 100 }, (_, size) => Uint8Array.from({ length: size }, () => random() * 256)),
    ];
    const { added, refused } = list.add(bad);
    expect(added).toEqual([]);
    expect(refused).toHaveLength(bad.length);
    expect(list.ids()).toHaveLength(1);
  });

  test("is its author's alone: under another's signature it is refused", async () => {
    const [a, b, c] = hosts as [TestHost, TestHost, TestHost];
    const { cluster } = speaker;
    const forged = await sign(b, {
      ...{ kind: "admit", cluster, by: a.id, host: c.id, name: "c", addresses: NO_ADDRESSES },
      nonce: "0".repeat(32),
    } as const);
    expect(speaker.list().add([forged.bytes]).refused).toEqual([expect.stringContaining(a.id)]);
  });

  test("of another cluster is refused, and so is a second genesis", async () => {
    const other = await Speaker.found(hosts[0]!, "1".repeat(32));
    const foreign = await other.admit(hosts[0]!, hosts[1]!);
    expect(speaker.list().add([foreign.bytes, other.genesis.bytes]).refused).toHaveLength(2);
    expect(other.cluster).not.toBe(speaker.cluster);
  });

  test("of the largest kind passes, and one entry more cannot be written", async () => {
    const keeps = Array.from({ length: KEEPS_MAX }, (_, index) => `${index}`.padStart(64, "0"));
    const [a, b] = hosts as [TestHost, TestHost];
    const largest = {
      kind: "revoke",
      cluster: speaker.cluster,
      by: a.id,
      host: b.id,
      reason: "é".repeat(256),
    };
    const signed = await sign(a, { ...largest, kind: "revoke", keeps });
    expect(openSigned(signed.bytes, statementCrypto).statement).toMatchObject({ keeps });
    await expect(sign(a, { ...largest, kind: "revoke", keeps: [...keeps, "l"] })).rejects.toThrow("keeps");
  });
});

test("a member that floods is stopped at its own limit and named; others still get through", async () => {
  const [a, b, c] = hosts as [TestHost, TestHost, TestHost];
  // Signatures are another test's matter: a flood of them takes its time.
  const trusting = { ...statementCrypto, verify: () => true };
  const list = new MemberList(speaker.genesis.bytes, trusting);
  list.add([(await speaker.admit(a, b)).bytes]);
  const body = (by: string, host: string) =>
    encodeBody({
      ...{ kind: "admit", cluster: speaker.cluster, by, host, name: "flood", addresses: NO_ADDRESSES },
      nonce: "0".repeat(32),
    } as const);
  const signed = (bytes: Uint8Array): Uint8Array =>
    new Uint8Array([...bytes, ...new Uint8Array(SIGNATURE_SIZE)]);
  const flood = Array.from({ length: LIMITS.authorStatements + 100 }, (_, index) =>
    signed(body(b.id, `flood-${index}`)),
  );
  const { added, refused } = list.add(flood);
  expect(added.length).toBeLessThanOrEqual(LIMITS.authorStatements);
  expect(refused.length).toBeGreaterThanOrEqual(100);
  expect(refused.at(-1)).toContain(b.id);
  const waiting = Array.from({ length: LIMITS.waiting + 50 }, (_, index) =>
    signed(body(`nobody-${index}`, "x")),
  );
  expect(list.add(waiting).refused).toHaveLength(50);
  expect(list.add([(await speaker.revoke(a, b)).bytes, (await speaker.admit(a, c)).bytes]).refused).toEqual(
    [],
  );
  expect(memberNames(list)).toEqual(["host-0", "host-2"]);
});

/** Some thirty things that hosts may say, sensible or not. */
async function conversation(random: () => number): Promise<SignedStatement[]> {
  const any = (): TestHost => hosts[Math.floor(random() * hosts.length)]!;
  const said: SignedStatement[] = [];
  for (let index = 0; index < 30; index++) {
    const [by, host] = [any(), any()];
    const what = random();
    if (what < 0.2) said.push(await speaker.renew(by, 1 + Math.floor(random() * 3), `n${index % 2}`));
    else if (what < 0.35) {
      said.push(
        await speaker.revoke(
          by,
          host,
          hosts.filter(() => random() < 0.5),
        ),
      );
    } else if (by !== host) said.push(await speaker.admit(by, host));
  }
  return said;
}

function stateOf(list: MemberList): unknown {
  return { ids: list.ids(), members: [...list.members().values()], revoked: [...list.revoked()].sort() };
}

function mutated(bytes: Uint8Array, random: () => number): Uint8Array {
  const copy = bytes.slice();
  const index = Math.floor(random() * copy.length);
  copy[index]! ^= 1 << Math.floor(random() * 8);
  return copy;
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, key: random() }))
    .sort((one, other) => one.key - other.key)
    .map(({ item }) => item);
}

function prng(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
