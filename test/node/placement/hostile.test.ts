/**
 * A member that lies about where domains are, in gossip and to one host alone, over real networks on loopback: nothing
 * is believed that is not signed by whom it speaks for, nothing of it is told on, and who did it is named.
 */

import { afterEach, describe, expect, it } from "vitest";
import {
  joinPlacement,
  PLACEMENT_SIZE_MAX,
  type Placement,
  placementOctets,
} from "../../../protocol/placement.ts";
import {
  encodePlacementMessage,
  PLACEMENT_PROTOCOL,
  PLACEMENT_TOPIC,
} from "../../../protocol/placement-messages.ts";
import { GENERATION_JUMP_MAX } from "../../../protocol/placement-table.ts";
import { domainRecord } from "../../contract/metadata-records.ts";
import { type GossipHost, GossipHosts } from "../membership/gossip-hosts.ts";

const all = new GossipHosts();
afterEach(() => all.stop());

const DAY_MS = 24 * 60 * 60_000;

/** `alpha` has the domain `web` under generation 3, and everybody knows; `evil` is a member. */
async function scene(): Promise<{ alpha: GossipHost; beta: GossipHost; evil: GossipHost; web: Placement }> {
  const hosts = await all.make(3);
  const [alpha, beta, evil] = hosts as [GossipHost, GossipHost, GossipHost];
  await Promise.all(hosts.map((host) => host.start(hosts)));
  await Promise.all(hosts.map((host) => host.until(() => host.membership.active().length === 2, "all live")));
  await alpha.metadata.domains.put(domainRecord({ id: "web", name: "web", owner: alpha.id, generation: 3 }), {
    sync: false,
  });
  await alpha.placements.update("web");
  // So that what it says comes from itself.
  for (const host of [alpha, beta]) await evil.links.connect(host.id, PLACEMENT_PROTOCOL);
  for (const host of [beta, evil]) {
    await host.until(() => host.placements.view("web") !== undefined, "web is on alpha");
  }
  // Gossip goes both ways between all of them, so that what follows is heard at once.
  await evil.metadata.domains.put(domainRecord({ id: "own", name: "own", owner: evil.id, generation: 1 }), {
    sync: false,
  });
  await evil.placements.update("own");
  for (const host of [alpha, beta]) {
    await host.until(() => host.placements.view("own") !== undefined, "own is on evil");
  }
  return { alpha, beta, evil, web: beta.placements.view("web")!.claim };
}

function signedBy(host: GossipHost, said: Placement): Uint8Array {
  const octets = placementOctets(said);
  return joinPlacement(said, { octets, signature: host.sign(octets) }).octets;
}

/** What the host might say of a domain of its own. */
function wordOf(host: GossipHost, said: Partial<Placement>): Placement {
  const nowMs = Date.now();
  return {
    ...{ domain: "lie", name: "lie", host: host.id, hostName: host.name, generation: 1, state: "running" },
    ...{ memoryBytes: 4096, vbds: [], replicas: [], seq: nowMs, timeMs: nowMs },
    ...said,
  };
}

function publish(evil: GossipHost, ...records: Uint8Array[]): void {
  evil.network.gossip.publish(PLACEMENT_TOPIC, encodePlacementMessage({ type: "records", records }));
}

/** All of them name it for that. It goes on lying until then: who rejects a lie does not bring it to the next. */
async function named(
  hosts: readonly GossipHost[],
  { evil, kind, lies }: { evil: GossipHost; kind: string; lies: () => Uint8Array[] },
): Promise<void> {
  const isNamed = (host: GossipHost): boolean =>
    host.offences().some((line) => line.offender === evil.id && line.kind === kind);
  const lying = setInterval(() => publish(evil, ...lies()), 1000);
  publish(evil, ...lies());
  await Promise.all(
    hosts.map((host) => host.untilLogged(() => isNamed(host), `evil is named for ${kind}`)),
  ).finally(() => clearInterval(lying));
}

type Lie = (evil: GossipHost, web: Placement) => Uint8Array[];

describe("a member that publishes", () => {
  it.each<[what: string, kind: string, lie: Lie]>([
    ["a word in another's name", "forged", (evil, web) => [signedBy(evil, { ...web, seq: web.seq + 1 })]],
    ["a record above its size", "malformed", () => [new Uint8Array(PLACEMENT_SIZE_MAX + 1)]],
    ["what is no record", "malformed", () => [new Uint8Array(300).fill(7)]],
    [
      "a word of tomorrow",
      "future-dated",
      (evil) => [signedBy(evil, wordOf(evil, { timeMs: Date.now() + DAY_MS }))],
    ],
    [
      "a number of tomorrow",
      "future-dated",
      (evil) => [signedBy(evil, wordOf(evil, { seq: Date.now() + DAY_MS }))],
    ],
    [
      "a domain that is gone and has vbds",
      "contradiction",
      (evil) => [signedBy(evil, wordOf(evil, { state: "gone", vbds: [{ name: "root", sizeBytes: 4096 }] }))],
    ],
    [
      "a generation that nobody could outdo",
      "generation-jump",
      (evil) => [signedBy(evil, wordOf(evil, { domain: "web", generation: 4 + GENERATION_JUMP_MAX }))],
    ],
  ])("%s is named, and nobody believes it", async (_, kind, lie) => {
    const { alpha, beta, evil, web } = await scene();
    await named([alpha, beta], { evil, kind, lies: () => lie(evil, web) });
    for (const host of [alpha, beta]) {
      expect(host.placements.view("web")).toEqual({ claim: web, others: [] });
      expect(host.placements.view("lie")).toBeUndefined();
    }
  });

  it("two different words of one number is named, and all keep the same of them", async () => {
    const { alpha, beta, evil } = await scene();
    const one = wordOf(evil, { memoryBytes: 1 });
    const lies = () => [signedBy(evil, one), signedBy(evil, { ...one, memoryBytes: 2 })];
    await named([alpha, beta], { evil, kind: "two-words", lies });
    expect(alpha.placements.view("lie")).toEqual(beta.placements.view("lie"));
  });

  it("another's true word, older or newer, is not told on: the older changes nothing, the newer names it", async () => {
    const { alpha, beta, evil, web } = await scene();
    let seq = web.seq;
    const lies = () => [
      signedBy(alpha, { ...web, seq: web.seq - 1, name: "older" }),
      signedBy(alpha, { ...web, seq: ++seq, name: "newer" }),
    ];
    const names: (string | undefined)[] = [];
    beta.placements.onChange(() => names.push(beta.placements.view("web")?.claim.name));
    await named([beta], { evil, kind: "replay", lies });
    expect(names).toContain("newer");
    expect(names).not.toContain("older");
    // Whose word it is was not asked: it says again what is true.
    const isTrue = (): boolean => beta.placements.view("web")?.claim.name === "web";
    await beta.until(isTrue, "web is called web");
  });

  it("in somebody else's name is not listened to at all after a while, and the rest goes on", async () => {
    const { alpha, beta, evil, web } = await scene();
    for (let index = 0; index < 30; index++) {
      publish(evil, signedBy(evil, { ...web, seq: web.seq + 1 + index }));
    }
    const isIgnored = (host: GossipHost): boolean =>
      host.offences().some(({ about, kind, offender }) => {
        return about === "gossip" && kind === "ignored" && offender === evil.id;
      });
    await alpha.untilLogged(() => isIgnored(alpha), "evil is ignored");
    await beta.metadata.domains.put(domainRecord({ id: "new", name: "new", owner: beta.id, generation: 1 }), {
      sync: false,
    });
    await beta.placements.update("new");
    await alpha.until(() => alpha.placements.view("new") !== undefined, "new is on beta");
    expect(alpha.placements.view("web")).toEqual({ claim: web, others: [] });
  });
});

describe("a member that floods", () => {
  it("with domains of its own fills its own share and nobody else's", async () => {
    const { alpha, beta, evil } = await scene();
    for (let index = 0; index < 4000; index += 40) {
      const some = Array.from({ length: 40 }, (_, next) =>
        signedBy(evil, wordOf(evil, { domain: `d${index + next}`, seq: Date.now() + index + next })),
      );
      publish(evil, ...some);
    }
    const lies = () => [signedBy(evil, wordOf(evil, { domain: `d${Math.random()}` }))];
    await named([alpha, beta], { evil, kind: "flood", lies });
    expect(alpha.placements.views().filter(({ claim }) => claim.host === evil.id).length).toBeLessThanOrEqual(
      1024,
    );
    await beta.metadata.domains.put(domainRecord({ id: "new", name: "new", owner: beta.id, generation: 1 }), {
      sync: false,
    });
    await beta.placements.update("new");
    await alpha.until(() => alpha.placements.view("new") !== undefined, "new is on beta");
  }, 40_000);

  it("with a frame above its size to one host alone loses its channel", async () => {
    const { alpha, evil } = await scene();
    const connection = await evil.links.connect(alpha.id, PLACEMENT_PROTOCOL);
    const channel = await connection.open(PLACEMENT_PROTOCOL);
    await channel.send(new Uint8Array(1 << 20).fill(1));
    await expect(channel.frames().next()).rejects.toMatchObject({ code: "NETWORK_LOST" });
    expect(alpha.offences()).toMatchObject([{ offender: evil.id, kind: "malformed" }]);
  });
});
