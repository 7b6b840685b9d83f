import { describe, expect, it } from "vitest";
import type { MembershipState } from "../../../protocol/membership/state.ts";
import { alive, changes, dead, left, Machine, recordOf, SELF, sent, suspect } from "./machine.ts";

/** What must not change when something has no effect. */
function beliefsOf({ table, own, awareness }: MembershipState) {
  return { members: [...table.members()].map(({ update }) => update), own, awareness };
}

function expectNoEffect(machine: Machine, act: () => void): void {
  const before = beliefsOf(machine.state);
  act();
  expect(machine.effects.filter(({ type }) => type !== "send")).toEqual([]);
  expect(beliefsOf(machine.state)).toEqual(before);
  expect(machine.state.queue.size).toBe(0);
}

describe("membership: an alive member", () => {
  it("is met by its record, and told on", () => {
    const machine = new Machine();
    const effects = machine.hear("b", alive("a"));
    expect(changes(effects)).toEqual([{ host: "a", from: undefined, to: "alive", by: [] }]);
    expect(machine.tells("a")?.record.host).toBe("a");
  });

  it("is not news twice", () => {
    const machine = new Machine();
    machine.hear("b", alive("a"));
    machine.forgetTellings();
    const { verifications } = machine;
    expectNoEffect(machine, () => machine.hear("b", alive("a")));
    expect(machine.verifications).toBe(verifications);
  });

  it("is not changed by an older incarnation, nor is that even verified", () => {
    const machine = new Machine();
    machine.hear("b", alive("a", 5));
    machine.forgetTellings();
    const { verifications } = machine;
    for (const old of [alive("a", 4), suspect("a", 4, "b"), dead("a", 4, "b"), left("a", 4)]) {
      expectNoEffect(machine, () => machine.hear("b", old));
    }
    expect(machine.verifications).toBe(verifications);
  });

  it("changes what it says of itself by a higher incarnation", () => {
    const machine = new Machine();
    machine.hear("b", alive("a", 1));
    const effects = machine.hear("b", alive("a", 2, { domainCount: 7 }));
    expect(changes(effects)).toEqual([{ host: "a", from: "alive", to: "alive", by: [] }]);
    expect(machine.state.table.get("a")?.update.record.domainCount).toBe(7);
    expect(machine.tells("a")?.record.incarnation).toBe(2);
  });

  it("is suspect once it is accused, and the suspicion is told on", () => {
    const machine = new Machine({ members: 9 });
    const effects = machine.hear("host-2", suspect("host-1", 1, "host-2"));
    expect(changes(effects)).toEqual([{ host: "host-1", from: "alive", to: "suspect", by: ["host-2"] }]);
    expect(machine.tells("host-1")?.status).toBe("suspect");
  });

  it("is dead when another declared it dead", () => {
    const machine = new Machine({ members: 9 });
    const effects = machine.hear("host-2", dead("host-1", 1, "host-2"));
    expect(changes(effects)).toEqual([{ host: "host-1", from: "alive", to: "dead", by: ["host-2"] }]);
    expect(machine.tells("host-1")?.status).toBe("dead");
  });

  it("has left by its own word only", () => {
    const machine = new Machine({ members: 3 });
    expect(changes(machine.hear("host-2", left("host-1", 2)))).toEqual([
      { host: "host-1", from: "alive", to: "left", by: [] },
    ]);
    expect(machine.tells("host-1")?.status).toBe("left");
  });

  it("is learned from an accusation by who never heard of it", () => {
    const machine = new Machine({ members: 3 });
    const effects = machine.hear("host-1", suspect("stranger", 4, "host-1"));
    expect(changes(effects).map(({ to }) => to)).toEqual(["alive", "suspect"]);
    expect(machine.incarnationOf("stranger")).toBe(4);
  });

  it("takes a new incarnation and the accusation of it from one update", () => {
    const machine = new Machine({ members: 3 });
    const effects = machine.hear("host-2", dead("host-1", 8, "host-2"));
    expect(changes(effects).map(({ to }) => to)).toEqual(["alive", "dead"]);
    expect(machine.incarnationOf("host-1")).toBe(8);
  });
});

describe("membership: a suspect", () => {
  function suspecting(): Machine {
    const machine = new Machine({ members: 9 });
    machine.hear("host-2", suspect("host-1", 1, "host-2"));
    machine.forgetTellings();
    return machine;
  }

  it("stays so when the same accuser repeats itself", () => {
    const machine = suspecting();
    expectNoEffect(machine, () => machine.hear("host-3", suspect("host-1", 1, "host-2")));
  });

  it("is confirmed by another accuser, which is told on", () => {
    const machine = suspecting();
    machine.hear("host-3", suspect("host-1", 1, "host-3"));
    expect(machine.tells("host-1")?.accusations.map(({ from }) => from)).toEqual(["host-2", "host-3"]);
  });

  it("is confirmed no more often than counts", () => {
    const machine = suspecting();
    machine.hear("host-3", suspect("host-1", 1, "host-3"), suspect("host-1", 1, "host-4"));
    machine.forgetTellings();
    const { verifications } = machine;
    expectNoEffect(machine, () => machine.hear("host-5", suspect("host-1", 1, "host-5")));
    expect(machine.verifications).toBe(verifications);
  });

  it("keeps its status by its own record of the accused incarnation", () => {
    const machine = suspecting();
    expectNoEffect(machine, () => machine.hear("host-1", alive("host-1", 1)));
  });

  it("is alive again by a higher incarnation, and its time does not run out", () => {
    const machine = suspecting();
    expect(changes(machine.hear("host-3", alive("host-1", 2)))).toEqual([
      { host: "host-1", from: "suspect", to: "alive", by: [] },
    ]);
    const later = machine.pass(machine.dueInMs("suspicion:host-1")! + 1, ["probe"]);
    expect(changes(later)).toEqual([]);
  });

  it("is dead when its time is up, and the accuser is this host", () => {
    const machine = suspecting();
    const effects = machine.pass(60_000, ["probe"]);
    expect(changes(effects)).toEqual([{ host: "host-1", from: "suspect", to: "dead", by: [SELF] }]);
  });

  it("gets a last call before an unconfirmed end, in time to refute", () => {
    const machine = suspecting();
    const { endsAtMs } = machine.state.table.get("host-1")!.suspicion!;
    const calls = sent(machine.pass(endsAtMs - machine.nowMs - 1, ["probe", "gossip", "exchange"]), "gossip");
    expect(calls.map(({ to, message }) => [to, message.updates[0]?.status])).toEqual([["host-1", "suspect"]]);
    machine.hear("host-1", alive("host-1", 2));
    expect(changes(machine.pass(60_000, ["probe"]))).toEqual([]);
  });

  it("gets its last call in full also by a host that was stopped meanwhile", () => {
    const machine = suspecting();
    machine.nowMs += 500_000;
    expect(changes(machine.fire("suspicion:host-1"))).toEqual([]);
    expect(machine.dueInMs("suspicion:host-1")).toBe(machine.config.probeTimeoutMs);
    machine.nowMs += machine.config.probeTimeoutMs;
    expect(changes(machine.fire("suspicion:host-1")).map(({ to }) => to)).toEqual(["dead"]);
  });

  it("is dead at once when another's time was up", () => {
    const machine = suspecting();
    expect(changes(machine.hear("host-3", dead("host-1", 1, "host-3")))).toEqual([
      { host: "host-1", from: "suspect", to: "dead", by: ["host-3"] },
    ]);
  });
});

describe("membership: a dead member", () => {
  function mourning(): Machine {
    const machine = new Machine({ members: 9 });
    machine.hear("host-2", dead("host-1", 3, "host-2"));
    machine.forgetTellings();
    return machine;
  }

  it("does not die twice", () => {
    const machine = mourning();
    expectNoEffect(machine, () => machine.hear("host-3", dead("host-1", 3, "host-3")));
  });

  it("is not suspected", () => {
    const machine = mourning();
    expectNoEffect(machine, () => machine.hear("host-3", suspect("host-1", 3, "host-3")));
  });

  it("is not brought back by a replay of its record", () => {
    const machine = mourning();
    expectNoEffect(machine, () => machine.hear("host-3", alive("host-1", 3), alive("host-1", 2)));
    expect(machine.statusOf("host-1")).toBe("dead");
  });

  it("is alive again by a higher incarnation", () => {
    const machine = mourning();
    expect(changes(machine.hear("host-3", alive("host-1", 4)))).toEqual([
      { host: "host-1", from: "dead", to: "alive", by: [] },
    ]);
  });

  it("is noted but not told on where it was never known alive", () => {
    const machine = new Machine({ members: 2 });
    expect(changes(machine.exchange("host-1", dead("gone", 1, "host-1")))).toEqual([
      { host: "gone", from: undefined, to: "dead", by: ["host-1"] },
    ]);
    expect(machine.state.queue.size).toBe(0);
  });

  it("is told that it is dead when it speaks, once in a probe interval", () => {
    const machine = mourning();
    const tellings = () => sent(machine.receive("host-1", { type: "nack", sequence: 9 }), "gossip");
    expect(tellings().map(({ to, message }) => [to, message.updates[0]?.status])).toEqual([
      ["host-1", "dead"],
    ]);
    expect(tellings()).toEqual([]);
    machine.nowMs += machine.config.probeIntervalMs;
    expect(tellings()).toHaveLength(1);
  });

  it("becomes a tombstone, which keeps old news out and lets new ones in", () => {
    const machine = mourning();
    machine.nowMs += machine.config.forgetAfterMs;
    expect(changes(machine.fire("reconnect"))).toEqual([
      { host: "host-1", from: "dead", to: undefined, by: [] },
    ]);
    expectNoEffect(machine, () => machine.hear("host-2", alive("host-1", 3)));
    expectNoEffect(machine, () => machine.exchange("host-2", dead("host-1", 3, "host-2")));
    const told = sent(machine.receive("host-1", { type: "nack", sequence: 9 }), "gossip");
    expect(told[0]?.message.updates[0]?.status).toBe("dead");
    expect(changes(machine.hear("host-2", alive("host-1", 4)))[0]?.to).toBe("alive");
    expect(machine.state.table.tombstones.size).toBe(0);
  });

  it("is forgotten with its tombstone in the end", () => {
    const machine = mourning();
    machine.nowMs += machine.config.forgetAfterMs;
    machine.fire("reconnect");
    machine.nowMs += machine.config.tombstoneMs;
    machine.fire("reconnect");
    expect(machine.state.table.tombstones.size).toBe(0);
  });
});

describe("membership: a member that left", () => {
  it("is neither suspected nor dead afterwards", () => {
    const machine = new Machine({ members: 9 });
    machine.hear("host-1", left("host-1", 2));
    machine.forgetTellings();
    const accusations = suspect("host-1", 1, "host-3").accusations;
    const record = recordOf("host-1", 2, { state: "left" });
    expectNoEffect(machine, () => machine.hear("host-3", { record, status: "suspect", accusations }));
  });

  it("is back by a higher incarnation", () => {
    const machine = new Machine({ members: 9 });
    machine.hear("host-1", left("host-1", 2));
    expect(changes(machine.hear("host-1", alive("host-1", 3)))[0]).toMatchObject({
      from: "left",
      to: "alive",
    });
  });
});

describe("membership: this host, when it is accused", () => {
  it.each([
    ["suspect", suspect(SELF, 1, "host-1")],
    ["dead", dead(SELF, 1, "host-1")],
  ] as const)(
    "refutes %s with a higher incarnation, tells all and the messenger, and doubts its health",
    (_, accused) => {
      const machine = new Machine({ members: 3 });
      const own = { ...accused, record: machine.state.own!.record };
      const accusations = (accused.status === "dead" ? dead : suspect)(SELF, 1, "host-1").accusations;
      const effects = machine.hear("host-2", { ...own, accusations });
      expect(effects).toContainEqual({ type: "refuted", incarnation: 2, by: ["host-1"] });
      expect(machine.ownIncarnation).toBe(2);
      expect(machine.tells(SELF)?.record.incarnation).toBe(2);
      expect(sent(effects, "gossip")[0]).toMatchObject({
        to: "host-2",
        message: { updates: [machine.state.own] },
      });
      expect(machine.state.awareness).toBe(1);
      expect(machine.statusOf(SELF)).toBeUndefined();
    },
  );

  it("compares states with whoever brings the news that it was dead: it has missed something", () => {
    const machine = new Machine({ members: 3 });
    const accusations = dead(SELF, 1, "host-1").accusations;
    const effects = machine.hear("host-2", {
      record: machine.state.own!.record,
      status: "dead",
      accusations,
    });
    expect(sent(effects, "compare").map(({ to }) => to)).toEqual(["host-2"]);
  });

  it("corrects whoever repeats an accusation of an older incarnation, once in a probe interval", () => {
    const machine = new Machine({ members: 3 });
    machine.hear("host-1", suspect(SELF, 1, "host-1"));
    machine.nowMs += 10;
    const again = () => machine.hear("host-2", suspect(SELF, 1, "host-1"));
    expect(sent(again(), "gossip")).toMatchObject([
      { to: "host-2", message: { updates: [machine.state.own] } },
    ]);
    expect(sent(again(), "gossip")).toEqual([]);
    expect(machine.ownIncarnation).toBe(2);
  });

  it("goes beyond a former life of its own that had a higher incarnation", () => {
    const machine = new Machine({ members: 3 });
    machine.hear("host-1", alive(SELF, 77));
    expect(machine.ownIncarnation).toBe(78);
    expect(machine.state.awareness).toBe(0);
  });

  it("goes beyond a former life of its own that said something else under the same incarnation", () => {
    const machine = new Machine({ members: 3 });
    machine.hear("host-1", alive(SELF, 1, { domainCount: 9 }));
    expect(machine.ownIncarnation).toBe(2);
    machine.hear("host-1", alive(SELF, 1, { domainCount: 9 }));
    expect(machine.ownIncarnation).toBe(2);
  });

  it("refutes at most once in the refute interval, and then does", () => {
    const machine = new Machine({ members: 3 });
    machine.hear("host-1", { ...suspect(SELF, 1, "host-1"), record: machine.state.own!.record });
    machine.hear("host-1", suspectOwn(machine));
    machine.hear("host-1", suspectOwn(machine));
    expect(machine.ownIncarnation).toBe(2);
    machine.pass(machine.config.refuteIntervalMs, ["probe"]);
    expect(machine.ownIncarnation).toBe(3);
    expect(machine.dueInMs("refute")).toBeUndefined();
  });
});

function suspectOwn(machine: Machine) {
  const { record } = machine.state.own!;
  return { ...suspect(SELF, record.incarnation, "host-1"), record };
}
