/** What a host believes of what others say about where domains are. Real keys, no network. */

import { beforeAll, describe, expect, it } from "vitest";
import { verifyByHost } from "../../node/cluster/signing.ts";
import { hostSigner } from "../../node/host-signer.ts";
import {
  decodePlacement,
  joinPlacement,
  PLACEMENT_SIZE_MAX,
  type Placement,
  placementOctets,
} from "../../protocol/placement.ts";
import {
  decodePlacementMessage,
  encodePlacementMessage,
  recordMessages,
  summaryOf,
} from "../../protocol/placement-messages.ts";
import {
  CLAIMANTS_MAX,
  DISPUTE_KEPT_MS,
  DOMAINS_PER_HOST_MAX,
  FUTURE_MAX_MS,
  GENERATION_JUMP_MAX,
  GONE_KEPT_MS,
  PlacementTable,
} from "../../protocol/placement-table.ts";
import { makeHosts, type TestHost } from "./members-hosts.ts";

const NOW = 1_700_000_000_000;
let hosts: TestHost[];
let [alpha, beta, gamma, stranger] = [] as unknown as [TestHost, TestHost, TestHost, TestHost];

beforeAll(async () => {
  hosts = await makeHosts(CLAIMANTS_MAX + 4);
  [stranger, alpha, beta, gamma] = hosts as [TestHost, TestHost, TestHost, TestHost];
});

function placement(by: TestHost, changes: Partial<Placement> = {}): Placement {
  return {
    ...{ domain: "d1", name: "web", host: by.id, hostName: by.name, generation: 3, state: "running" },
    ...{ memoryBytes: 1 << 26, vbds: [{ name: "root", sizeBytes: 1 << 30 }], seq: NOW, timeMs: NOW },
    replicas: [{ host: "somewhere", generation: 2, atMs: NOW - 1000, dirtyBlocks: 7 }],
    ...changes,
  };
}

/** `by` signs it, whoever it is about. */
function signed(by: TestHost, changes: Partial<Placement> = {}): Uint8Array {
  const said = placement(by, changes);
  const octets = placementOctets(said);
  return joinPlacement(said, { octets, signature: hostSigner(by.key)(octets) }).octets;
}

function table(): PlacementTable {
  const members = new Set(hosts.slice(1).map(({ id }) => id));
  return new PlacementTable({ isMember: (host) => members.has(host), verify: verifyByHost });
}

function heard(...records: Uint8Array[]): PlacementTable {
  const all = table();
  for (const record of records) all.offer(record, { from: gamma.id, nowMs: NOW });
  return all;
}

function refusal(all: PlacementTable, record: Uint8Array, nowMs = NOW) {
  const verdict = all.offer(record, { from: gamma.id, nowMs });
  if (verdict.kind !== "refused") throw new Error(`not refused but ${verdict.kind}`);
  return verdict.offence;
}

const hostsOf = (all: PlacementTable, domain = "d1") => all.claims(domain).map(({ host }) => host);

describe("a record", () => {
  it("is read as it was written, whole", () => {
    const said = placement(alpha, { disputes: { host: beta.id, generation: 9 } });
    const octets = placementOctets(said);
    const whole = joinPlacement(said, { octets, signature: hostSigner(alpha.key)(octets) });
    expect(decodePlacement(whole.octets).placement).toEqual(said);
  });

  it("with one octet changed is never believed, whichever octet it is", () => {
    const record = signed(alpha);
    for (let index = 0; index < record.length; index++) {
      const changed = record.slice();
      changed[index]! ^= 1;
      const all = table();
      expect(all.offer(changed, { from: gamma.id, nowMs: NOW }).kind).toBe("refused");
      expect(all.size).toBe(0);
    }
  });

  it("cut short anywhere is refused, and who brought it is named", () => {
    const record = signed(alpha);
    for (let size = 0; size < record.length; size++) {
      expect(refusal(table(), record.subarray(0, size)).by).toBe(gamma.id);
    }
  });
});

describe("the newest claim", () => {
  it("is the one with the highest generation, in whatever order they come", () => {
    const older = signed(alpha, { generation: 3 });
    const newer = signed(beta, { generation: 4, seq: NOW - 5000, timeMs: NOW - 5000 });
    for (const records of [
      [older, newer],
      [newer, older],
    ]) {
      expect(hostsOf(heard(...records))).toEqual([beta.id]);
    }
  });

  it("of one host and generation is the one with the highest seq", () => {
    const all = heard(signed(alpha, { state: "stopped", seq: NOW }), signed(alpha, { seq: NOW - 1 }));
    expect(all.claims("d1")[0]?.state).toBe("stopped");
  });

  it("is news once, and old after that", () => {
    const all = table();
    const record = signed(alpha);
    expect(all.offer(record, { from: gamma.id, nowMs: NOW }).kind).toBe("news");
    expect(all.offer(record, { from: gamma.id, nowMs: NOW }).kind).toBe("old");
  });
});

describe("a conflict", () => {
  it("of two hosts under one generation stays visible", () => {
    expect(hostsOf(heard(signed(alpha), signed(beta))).sort()).toEqual([alpha.id, beta.id].sort());
  });

  it("of more hosts than are kept ends with the same ones in any order", () => {
    const claims = hosts.slice(1, CLAIMANTS_MAX + 3).map((host) => signed(host));
    const kept = hostsOf(heard(...claims));
    expect(kept).toHaveLength(CLAIMANTS_MAX);
    expect(hostsOf(heard(...claims.reverse()))).toEqual(kept);
  });

  it("is over as soon as the host takes its dispute back", () => {
    const taken = signed(beta, { generation: 4 });
    const disputed = signed(alpha, { seq: NOW + 1, disputes: { host: beta.id, generation: 4 } });
    const givenIn = signed(alpha, { seq: NOW + 2 });
    expect(hostsOf(heard(taken, disputed, givenIn))).toEqual([beta.id]);
    expect(hostsOf(heard(taken, givenIn))).toEqual([beta.id]);
    // An older word takes nothing back.
    expect(hostsOf(heard(taken, disputed, signed(alpha)))).toEqual([beta.id, alpha.id]);
  });

  it("is what a host raises that disputes a takeover, until it does so no more", () => {
    const taken = signed(beta, { generation: 4 });
    const disputed = signed(alpha, { seq: NOW + 1, disputes: { host: beta.id, generation: 4 } });
    const all = heard(signed(alpha), taken, disputed);
    expect(hostsOf(all)).toEqual([beta.id, alpha.id]);
    expect(hostsOf(heard(disputed, taken))).toEqual([beta.id, alpha.id]);
    all.sweep(NOW + DISPUTE_KEPT_MS + 1);
    expect(hostsOf(all)).toEqual([beta.id]);
  });
});

describe("nothing is believed", () => {
  it("that is not signed by whom it speaks for: who brought it is named", () => {
    const said = { ...placement(alpha), hostName: "forged" };
    const octets = placementOctets(said);
    const forged = joinPlacement(said, { octets, signature: hostSigner(beta.key)(octets) }).octets;
    expect(refusal(table(), forged)).toMatchObject({ by: gamma.id, kind: "forged" });
  });

  it("of a stranger, well signed as it may be", () => {
    expect(refusal(table(), signed(stranger))).toMatchObject({ by: gamma.id, kind: "stranger" });
  });

  it("that is from the future: its host is named", () => {
    const [inTime, late] = [NOW + FUTURE_MAX_MS, NOW + FUTURE_MAX_MS + 1];
    expect(refusal(table(), signed(alpha, { timeMs: late }))).toMatchObject({
      by: alpha.id,
      kind: "future-dated",
    });
    expect(refusal(table(), signed(alpha, { seq: late }))).toMatchObject({
      by: alpha.id,
      kind: "future-dated",
    });
    expect(heard(signed(alpha, { timeMs: inTime, seq: inTime })).size).toBe(1);
  });

  it("that contradicts itself", () => {
    const wrong: Partial<Placement>[] = [
      { generation: 0, replicas: [] },
      { state: "gone" },
      { replicas: [{ host: "x", generation: 4, atMs: 0 }] },
      { vbds: [1, 2].map((sizeBytes) => ({ name: "root", sizeBytes })) },
      { replicas: [1, 2].map((generation) => ({ host: "x", generation, atMs: 0 })) },
      { disputes: { host: alpha.id, generation: 9 } },
      { disputes: { host: beta.id, generation: 3 } },
    ];
    for (const changes of wrong) {
      expect(refusal(table(), signed(alpha, changes))).toMatchObject({ by: alpha.id, kind: "contradiction" });
    }
  });

  it("that jumps to a generation which nobody could outdo", () => {
    const all = heard(signed(alpha, { generation: 3 }));
    const jump = signed(beta, { generation: 3 + GENERATION_JUMP_MAX + 1 });
    expect(refusal(all, jump)).toMatchObject({ by: beta.id, kind: "generation-jump" });
    expect(hostsOf(all)).toEqual([alpha.id]);
  });

  it("twice under one number: the host is named, and all keep the same one of the two", () => {
    const [one, other] = [signed(alpha, { name: "one" }), signed(alpha, { name: "other" })];
    const names = [heard(one, other), heard(other, one)].map((all) => all.claims("d1")[0]?.name);
    expect(names[0]).toBe(names[1]);
    const all = heard(one);
    const verdict = all.offer(other, { from: gamma.id, nowMs: NOW });
    expect(verdict).toMatchObject({ offence: { by: alpha.id, kind: "two-words" } });
  });
});

describe("memory", () => {
  it("has room for so many domains of one host, and others keep theirs", () => {
    const all = heard(signed(beta, { domain: "beta's" }));
    for (let index = 0; index < DOMAINS_PER_HOST_MAX; index++) {
      expect(all.offer(signed(alpha, { domain: `d${index}` }), { from: gamma.id, nowMs: NOW }).kind).toBe(
        "news",
      );
    }
    expect(refusal(all, signed(alpha, { domain: "one more" }))).toMatchObject({
      by: alpha.id,
      kind: "flood",
    });
    expect(all.size).toBe(DOMAINS_PER_HOST_MAX + 1);
    expect(hostsOf(all, "beta's")).toEqual([beta.id]);
  });

  it("is not taken by a record over its size", () => {
    expect(refusal(table(), new Uint8Array(PLACEMENT_SIZE_MAX + 1)).kind).toBe("malformed");
  });

  it("is free again when a host is forgotten, and when what is gone was told for long enough", () => {
    const all = heard(signed(alpha), signed(beta, { domain: "d2" }));
    expect(all.forget(alpha.id)).toEqual(["d1"]);
    const gone = { domain: "d2", state: "gone", vbds: [], replicas: [], seq: NOW + 1 } as const;
    all.offer(signed(beta, gone), { from: gamma.id, nowMs: NOW });
    expect(all.sweep(NOW + GONE_KEPT_MS)).toEqual([]);
    all.sweep(NOW + GONE_KEPT_MS + 1);
    expect(all.size).toBe(0);
    expect(all.digest()).toEqual([]);
  });
});

describe("a digest", () => {
  it("finds what the other lacks, and is equal when nothing is", () => {
    const records = Array.from({ length: 40 }, (_, index) =>
      signed(alpha, { domain: `d${index}`, seq: NOW + index }),
    );
    // Gossip lost some in the middle and at the end.
    const [full, holed] = [
      heard(...records),
      heard(...records.slice(0, 35).filter((_, index) => index % 5 !== 0)),
    ];
    expect(summaryOf(full.digest())).not.toEqual(summaryOf(holed.digest()));
    for (let round = 0; round < 2; round++) {
      for (const { octets } of full.lackedBy(holed.digest()))
        holed.offer(octets, { from: gamma.id, nowMs: NOW });
    }
    expect(summaryOf(holed.digest())).toEqual(summaryOf(full.digest()));
    expect(full.lackedBy(holed.digest())).toEqual([]);
  });

  it("and records arrive as they were sent, in messages of bounded size", () => {
    const all = heard(...Array.from({ length: 1000 }, (_, index) => signed(alpha, { domain: `d${index}` })));
    const messages = [...recordMessages([...all.all()])];
    expect(messages.length).toBeGreaterThan(1);
    const back = messages.map((message) => decodePlacementMessage(encodePlacementMessage(message)));
    expect(back.flatMap((message) => (message.type === "records" ? message.records : []))).toHaveLength(1000);
    const digest = { type: "digest", wantsAnswer: true, hosts: all.digest() } as const;
    expect(decodePlacementMessage(encodePlacementMessage(digest))).toEqual(digest);
  });
});
