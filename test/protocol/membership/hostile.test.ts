import { describe, expect, it } from "vitest";
import { INCARNATION_MAX } from "../../../protocol/membership/limits.ts";
import type { Update } from "../../../protocol/membership/messages.ts";
import { encodeMessage } from "../../../protocol/membership/wire.ts";
import {
  accusationOf,
  alive,
  changes,
  dead,
  left,
  Machine,
  offences,
  recordOf,
  SELF,
  sent,
  suspect,
} from "./machine.ts";

function forged(update: Update): Update {
  const signature = new Uint8Array(64).fill(6);
  return { ...update, record: { ...update.record, signature } };
}

describe("membership believes nothing that is not signed by whom it speaks for", () => {
  it.each([
    ["a new member", forged(alive("new"))],
    ["a higher incarnation", forged(alive("host-1", 5))],
    ["a farewell", forged(left("host-1", 5))],
    ["something else under a known incarnation", forged(alive("host-1", 1))],
    ["a former life of ours", forged(alive(SELF, 70))],
    ["a dead stranger", forged(dead("new", 1, "host-1"))],
  ])("and names who brings %s", (_, update) => {
    const machine = new Machine({ members: 3 });
    for (const act of [machine.hear.bind(machine), machine.exchange.bind(machine)]) {
      const effects = act("host-3", update);
      expect(changes(effects)).toEqual([]);
      expect(offences(effects)).toEqual([{ peer: "host-3", kind: "forged", host: update.record.host }]);
    }
    expect(machine.ownIncarnation).toBe(1);
    expect(machine.state.queue.size).toBe(0);
  });

  it.each(["suspect", "dead"] as const)("nor an accusation in another's name: %s", (kind) => {
    const machine = new Machine({ members: 9 });
    const record = recordOf("host-1", 1);
    const lie = { ...accusationOf(record, "host-3", kind), from: "host-2" };
    const effects = machine.hear("host-3", { record, status: kind, accusations: [lie] });
    expect(machine.statusOf("host-1")).toBe("alive");
    expect(offences(effects)).toEqual([{ peer: "host-3", kind: "forged", host: "host-2" }]);
  });

  it("nor an accusation of us in another's name", () => {
    const machine = new Machine({ members: 9 });
    const { record } = machine.state.own!;
    const lie = { ...accusationOf(record, "host-3", "dead"), from: "host-2" };
    machine.hear("host-3", { record, status: "dead", accusations: [lie] });
    expect(machine.ownIncarnation).toBe(1);
    expect(machine.state.awareness).toBe(0);
  });

  it("nor an old accusation under a newer incarnation", () => {
    const machine = new Machine({ members: 9 });
    const { accusations } = dead("host-1", 1, "host-2");
    machine.hear("host-3", { record: recordOf("host-1", 2), status: "dead", accusations });
    expect(machine.statusOf("host-1")).toBe("alive");
  });

  it("nor a suspicion that was made into a death", () => {
    const machine = new Machine({ members: 9 });
    const { record, accusations } = suspect("host-1", 1, "host-2");
    const [accusation] = accusations;
    machine.hear("host-3", { record, status: "dead", accusations: [{ ...accusation!, kind: "dead" }] });
    expect(machine.statusOf("host-1")).toBe("alive");
  });

  it("nor confirmations that one accuser invents", () => {
    const machine = new Machine({ members: 9 });
    const record = recordOf("host-1", 1);
    const real = accusationOf(record, "host-3", "suspect");
    const accusations = [real, { ...real, from: "host-4" }, { ...real, from: "host-5" }];
    machine.hear("host-3", { record, status: "suspect", accusations });
    expect(machine.state.table.get("host-1")?.suspicion?.confirmations).toBe(0);
  });

  it("nor anything about or by who was revoked", () => {
    const machine = new Machine({ members: 9 });
    machine.revoked.add("host-1");
    expect(changes(machine.do({ type: "remove", host: "host-1" }))).toEqual([
      { host: "host-1", from: "alive", to: undefined, by: [] },
    ]);
    machine.hear("host-2", alive("host-1", 9), suspect("host-3", 1, "host-1"));
    expect(machine.statusOf("host-1")).toBeUndefined();
    expect(machine.statusOf("host-3")).toBe("alive");
  });
});

describe("membership: incarnations", () => {
  it("cannot be raised by an accuser, so that a refutation is one step", () => {
    const machine = new Machine({ members: 9 });
    const record = { ...machine.state.own!.record, incarnation: INCARNATION_MAX };
    const accusations = [accusationOf(record, "host-1", "dead")];
    const effects = machine.hear("host-1", { record, status: "dead", accusations });
    expect(machine.ownIncarnation).toBe(1);
    expect(offences(effects)).toEqual([{ peer: "host-1", kind: "forged", host: SELF }]);
  });

  it("are not believed from a future that cannot be", () => {
    const machine = new Machine({ members: 9 });
    machine.incarnationMax = 1000;
    const effects = machine.hear("host-2", alive("host-1", 1001), alive("new", 1001));
    expect(machine.incarnationOf("host-1")).toBe(1);
    expect(machine.statusOf("new")).toBeUndefined();
    expect(offences(effects).map(({ kind }) => kind)).toEqual(["future-dated", "future-dated"]);
    machine.hear("host-2", alive("host-1", 1000));
    expect(machine.incarnationOf("host-1")).toBe(1000);
  });

  it("end where no higher one exists, without harm", () => {
    const machine = new Machine({ members: 9 });
    machine.hear("host-1", alive(SELF, INCARNATION_MAX));
    expect(machine.ownIncarnation).toBe(1);
    machine.hear("host-1", alive("host-1", INCARNATION_MAX), dead("host-1", INCARNATION_MAX, "host-2"));
    expect(machine.statusOf("host-1")).toBe("dead");
  });
});

describe("membership: a host that contradicts itself", () => {
  const [one, two] = [alive("host-1", 2, { domainCount: 1 }), alive("host-1", 2, { domainCount: 2 })];

  it("is named, and all hosts keep the same of its records", () => {
    const kept = [
      [one, two],
      [two, one],
    ].map((order) => {
      const machine = new Machine({ members: 3 });
      machine.hear("host-2", order[0]!);
      expect(offences(machine.hear("host-3", order[1]!))).toEqual([
        { peer: "host-1", kind: "contradiction" },
      ]);
      return machine.state.table.get("host-1")?.update.record.domainCount;
    });
    expect(kept[0]).toBe(kept[1]);
  });

  it("has left when one of its records says so", () => {
    for (const order of [
      [one, left("host-1", 2)],
      [left("host-1", 2), one],
    ]) {
      const machine = new Machine({ members: 3 });
      machine.hear("host-2", ...order);
      expect(machine.statusOf("host-1")).toBe("left");
    }
  });

  it("stays accused", () => {
    const machine = new Machine({ members: 9 });
    machine.hear("host-2", suspect("host-1", 2, "host-2"), one, two);
    expect(machine.statusOf("host-1")).toBe("suspect");
  });
});

describe("membership: memory and answers under floods", () => {
  it("keeps no more members than its limit, and names who brings more", () => {
    const machine = new Machine({ config: { membersMax: 20 } });
    let floods = 0;
    for (let i = 0; i < 500; i++) floods += offences(machine.hear("evil", alive(`sybil-${i}`))).length;
    expect(machine.state.table.size).toBe(20);
    expect(machine.state.queue.size).toBeLessThanOrEqual(21);
    expect(floods).toBe(480);
  });

  it("makes room for the living by forgetting the longest dead, whose tombstones are bounded as well", () => {
    const machine = new Machine({ members: 20, config: { membersMax: 20, tombstonesMax: 2 } });
    for (let i = 1; i <= 5; i++) machine.hear("host-20", dead(`host-${i}`, 1, "host-20"));
    for (let i = 0; i < 4; i++) machine.hear("host-20", alive(`new-${i}`));
    expect(machine.state.table.size).toBe(20);
    expect([...machine.state.table.tombstones.keys()]).toEqual(["host-3", "host-4"]);
    expect(machine.statusOf("host-5")).toBe("dead");
    machine.exchange("host-20", dead("host-1", 1, "host-20"));
    expect(machine.statusOf("host-1")).toBeUndefined();
  });

  it("probes for others no more than its limits, in all and for one", () => {
    const machine = new Machine({ members: 60, config: { relaysMax: 50 } });
    for (let asker = 1; asker <= 60; asker++) {
      for (let sequence = 0; sequence < 20; sequence++) {
        const target = `host-${(asker % 60) + 1}`;
        machine.receive(`host-${asker}`, { type: "ping-request", sequence, target, updates: [] });
      }
      if (asker === 1) expect(machine.state.relays.size).toBe(8);
    }
    expect(machine.state.relays.size).toBe(50);
    machine.pass(machine.config.nackAfterMs, ["probe"]);
    expect(machine.state.relays.size).toBe(0);
  });

  it("answers a storm of accusations with few refutations", () => {
    const machine = new Machine({ members: 9 });
    const startedAt = machine.ownIncarnation;
    let answers = 0;
    for (let i = 0; i < 1000; i++) {
      const { record } = machine.state.own!;
      const accusations = [accusationOf(record, "host-1", "dead")];
      const effects = machine.hear("host-1", { record, status: "dead", accusations });
      answers += effects.filter(({ type }) => type === "send").length;
      answers += sent(machine.pass(1, ["probe", "gossip", "exchange", "reconnect"]), "gossip").length;
    }
    expect(machine.ownIncarnation - startedAt).toBeLessThanOrEqual(
      1000 / machine.config.refuteIntervalMs + 1,
    );
    expect(answers).toBeLessThanOrEqual(3 * (1000 / machine.config.refuteIntervalMs + 1));
  });

  it("sends its state once a second to who asks a thousand times", () => {
    const machine = new Machine({ members: 100 });
    let octets = 0;
    for (let i = 0; i < 1000; i++) {
      const effects = machine.receive("host-1", { type: "compare", digest: [i, i] });
      for (const { message } of sent(effects, "state")) octets += encodeMessage(message).length;
    }
    expect(octets).toBeLessThan(100 * 200);
  });

  it("is not confused by hosts that it does not know", () => {
    const machine = new Machine({ members: 3 });
    machine.receive("stranger", { type: "ack", sequence: 1, updates: [] });
    machine.receive("stranger", { type: "nack", sequence: 1 });
    machine.receive("stranger", { type: "compare", digest: [1, 2] });
    expect(machine.effects).toEqual([]);
    machine.do({ type: "unreachable", host: "stranger" });
    machine.do({ type: "remove", host: "stranger" });
    machine.fire("suspicion:stranger");
    machine.fire("relay:99");
    expect(machine.effects).toEqual([]);
    expect(machine.state.table.size).toBe(3);
  });
});
