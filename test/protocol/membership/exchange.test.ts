import { describe, expect, it } from "vitest";
import { STATE_PART_SIZE_MAX } from "../../../protocol/membership/limits.ts";
import { members } from "../../../protocol/membership/membership.ts";
import { encodeUpdate } from "../../../protocol/membership/wire.ts";
import { alive, changes, dead, left, Machine, SELF, sent, suspect } from "./machine.ts";

describe("membership: a state exchange", () => {
  it("suspects whom the other believes dead, by the accuser's word, and lets it hear of it", () => {
    const machine = new Machine({ members: 9 });
    const effects = machine.exchange("host-2", dead("host-1", 1, "host-3"));
    expect(changes(effects)).toEqual([{ host: "host-1", from: "alive", to: "suspect", by: ["host-3"] }]);
    expect(sent(effects, "gossip")).toMatchObject([
      { to: "host-1", message: { updates: [{ status: "suspect" }] } },
    ]);
  });

  it("takes the living, the suspects and those that left as gossip does", () => {
    const machine = new Machine({ members: 3 });
    machine.exchange("host-1", alive("a"), suspect("host-2", 1, "a"), left("host-3", 2));
    expect(["a", "host-2", "host-3"].map((host) => machine.statusOf(host))).toEqual([
      "alive",
      "suspect",
      "left",
    ]);
  });

  it("tells whom we believe dead and the other does not", () => {
    const machine = new Machine({ members: 3 });
    machine.hear("host-2", dead("host-1", 1, "host-2"));
    const effects = machine.exchange("host-3", alive("host-1", 1));
    expect(machine.statusOf("host-1")).toBe("dead");
    expect(sent(effects, "gossip")).toMatchObject([
      { to: "host-1", message: { updates: [{ status: "dead" }] } },
    ]);
  });

  it("ends at once when both believe the same", () => {
    const [a, b] = [new Machine({ self: "a" }), new Machine({ self: "b" })];
    a.hear("b", b.state.own!);
    b.hear("a", a.state.own!);
    const [compare] = sent(a.do({ type: "connected", host: "b" }), "compare");
    expect(b.receive("a", compare!.message)).toEqual([]);
  });

  it("gives both all that either knows", () => {
    const [a, b] = [new Machine({ self: "a", members: 2 }), new Machine({ self: "b" })];
    a.hear("b", b.state.own!);
    b.hear("a", a.state.own!);
    b.hear("c", alive("c", 4));
    const [compare] = sent(a.do({ type: "connected", host: "b" }), "compare");
    const [answer] = sent(b.receive("a", compare!.message), "state");
    const [last] = sent(a.receive("b", answer!.message), "state");
    expect(sent(b.receive("a", last!.message), "state")).toEqual([]);
    const known = (machine: Machine) =>
      members(machine.state)
        .map(({ record }) => record.host)
        .sort();
    expect(known(a)).toEqual(["a", "b", "c", "host-1", "host-2"]);
    expect(known(b)).toEqual(known(a));
    expect(b.state.table.digest).not.toEqual(a.state.table.digest);
    expect(b.receive("a", sent(a.do({ type: "connected", host: "b" }), "compare")[0]!.message)).toEqual([]);
  });

  it("is answered once in the answer interval, and to members only", () => {
    const machine = new Machine({ members: 3 });
    const ask = (from: string) =>
      sent(machine.receive(from, { type: "state", updates: [], wantsAnswer: true }), "state");
    expect(ask("host-1")).toHaveLength(1);
    expect(ask("host-1")).toHaveLength(0);
    expect(ask("stranger")).toHaveLength(0);
    machine.nowMs += machine.config.answerIntervalMs;
    expect(ask("host-1")).toHaveLength(1);
  });

  it("comes in parts when there is much to say, and only the last wants an answer", () => {
    const machine = new Machine({ members: 1500 });
    const parts = sent(machine.do({ type: "join", seeds: ["host-1"] }), "state").map(
      ({ message }) => message,
    );
    expect(parts.length).toBeGreaterThan(1);
    expect(parts.map(({ wantsAnswer }) => wantsAnswer)).toEqual(
      parts.map((_, index) => index === parts.length - 1),
    );
    expect(parts.flatMap(({ updates }) => updates)).toHaveLength(1501);
    for (const { updates } of parts) {
      const size = updates.reduce((sum, update) => sum + encodeUpdate(update).length, 0);
      expect(size).toBeLessThanOrEqual(STATE_PART_SIZE_MAX);
    }
  });

  it("gets rarer in large clusters, and comes soon when one of the dead is back", () => {
    const machine = new Machine({ members: 999 });
    machine.fire("exchange");
    expect(machine.dueInMs("exchange")).toBe(180_000);
    machine.hear("host-2", dead("host-1", 1, "host-2"));
    machine.hear("host-1", alive("host-1", 2));
    expect(machine.dueInMs("exchange")).toBeLessThanOrEqual(30_000);
  });

  it("is tried with the dead, but not with those that left", () => {
    const machine = new Machine({ members: 2 });
    machine.hear("host-1", left("host-1", 2));
    expect(sent(machine.fire("reconnect"), "compare")).toEqual([]);
    machine.hear("host-1", dead("host-2", 1, "x"));
    expect(sent(machine.fire("reconnect"), "compare").map(({ to }) => to)).toEqual(["host-2"]);
  });
});

describe("membership: joining", () => {
  it("asks the seeds, and again with growing pauses while it is alone", () => {
    const machine = new Machine();
    expect(sent(machine.do({ type: "join", seeds: ["a", SELF, "b"] }), "state").map(({ to }) => to)).toEqual([
      "a",
      "b",
    ]);
    const pauses = [1, 2, 3, 4, 5, 6, 7].map(() => {
      const pause = machine.dueInMs("join")!;
      expect(sent(machine.fire("join"), "state")).toHaveLength(2);
      return pause;
    });
    expect(pauses).toEqual([1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    machine.exchange("a", alive("a"));
    expect(machine.fire("join")).toEqual([]);
  });

  it("keeps no more seeds than its limit", () => {
    const machine = new Machine({ config: { seedsMax: 3 } });
    machine.do({ type: "join", seeds: ["a", "b", "c", "d"] });
    expect(machine.state.seeds).toEqual(["a", "b", "c"]);
  });

  it("knows after a restart whom it knew before, without telling it on", () => {
    const before = new Machine({ members: 3 });
    before.hear("host-1", suspect("host-2", 1, "host-1"), dead("host-3", 1, "host-1"));
    const machine = new Machine();
    machine.do({ type: "restore", updates: members(before.state) });
    expect(["host-1", "host-2", "host-3"].map((host) => machine.statusOf(host))).toEqual([
      "alive",
      "alive",
      "dead",
    ]);
    expect(machine.state.queue.size).toBe(0);
    expect(machine.statusOf(SELF)).toBeUndefined();
  });
});

describe("membership: gossip", () => {
  it("is silent when there is nothing to tell", () => {
    const machine = new Machine({ members: 9 });
    machine.pass(1000, ["probe", "exchange", "reconnect"]);
    expect(machine.dueInMs("gossip")).toBeUndefined();
  });

  it("tells an update to three at a time until it has been told often enough", () => {
    const machine = new Machine({ members: 9 });
    machine.pass(1000, ["probe", "exchange", "reconnect"]);
    machine.hear("host-1", alive("new"));
    const tellings = sent(machine.pass(5000, ["probe", "exchange", "reconnect"]), "gossip");
    // 4 x ceil(log10(11 + 1)) with ten others and this host.
    expect(tellings).toHaveLength(8);
    expect(new Set(tellings.slice(0, 3).map(({ to }) => to)).size).toBe(3);
  });

  it("goes to the recently dead as well, and not to the long dead", () => {
    const machine = new Machine({ members: 2 });
    machine.hear("host-1", dead("host-2", 1, "host-1"));
    const targets = () => new Set(sent(machine.fire("gossip"), "gossip").map(({ to }) => to));
    expect(targets()).toEqual(new Set(["host-1", "host-2"]));
    machine.nowMs += machine.config.gossipToTheDeadMs + 1;
    machine.hear("host-1", alive("host-1", 2));
    expect(targets()).toEqual(new Set(["host-1"]));
  });

  it("rides along with pings and answers", () => {
    const machine = new Machine({ members: 2 });
    machine.hear("host-1", alive("new"));
    const [ack] = sent(machine.receive("host-1", { type: "ping", sequence: 1, updates: [] }), "ack");
    expect(ack?.message.updates.map(({ record }) => record.host)).toEqual(["new"]);
  });
});

describe("membership: announcing", () => {
  const said = (domainCount: number) => ({ name: "n", addresses: [], freeBytes: 5, domainCount });

  it("raises the incarnation, at most once in its interval, and the last word counts", () => {
    const machine = new Machine({ members: 2 });
    machine.nowMs += 5000;
    machine.do({ type: "announce", description: said(1) });
    expect(machine.ownIncarnation).toBe(2);
    machine.do({ type: "announce", description: said(2) });
    machine.do({ type: "announce", description: said(3) });
    expect(machine.ownIncarnation).toBe(2);
    machine.pass(machine.config.announceIntervalMs, ["probe"]);
    expect(machine.state.own?.record).toMatchObject({ incarnation: 3, domainCount: 3 });
    expect(machine.state.awareness).toBe(0);
  });
});

describe("membership: leaving", () => {
  it("tells a farewell often enough, and then is gone", () => {
    const machine = new Machine({ members: 5 });
    machine.do({ type: "leave" });
    expect(machine.tells(SELF)?.status).toBe("left");
    const effects = machine.pass(5000);
    expect(effects.filter(({ type }) => type === "left")).toHaveLength(1);
    expect(sent(effects, "gossip").length).toBeGreaterThanOrEqual(4);
    expect(sent(effects, "ping")).toEqual([]);
    expect(machine.state.phase).toBe("idle");
  });

  it("is gone at once when nobody is there, and after its time when nobody listens", () => {
    expect(new Machine().do({ type: "leave" })).toContainEqual({ type: "left" });
    const machine = new Machine({ members: 1 });
    machine.do({ type: "leave" });
    expect(machine.pass(5000, ["gossip"])).toContainEqual({ type: "left" });
  });

  it("does not refute what is said of it meanwhile, and hears nothing afterwards", () => {
    const machine = new Machine({ members: 5 });
    machine.do({ type: "leave" });
    const { record } = machine.state.own!;
    machine.hear("host-1", { ...suspect(SELF, record.incarnation, "host-1"), record });
    expect(machine.ownIncarnation).toBe(record.incarnation);
    machine.pass(5000);
    expect(machine.receive("host-1", { type: "ping", sequence: 1, updates: [] })).toEqual([]);
  });

  it("can be undone by starting again, under a higher incarnation", () => {
    const machine = new Machine({ members: 5 });
    machine.do({ type: "leave" });
    machine.pass(5000);
    const description = { name: "n", addresses: [], freeBytes: 0, domainCount: 0 };
    machine.do({ type: "start", incarnation: 1, description });
    expect(machine.state.own).toMatchObject({ status: "alive", record: { incarnation: 3 } });
  });
});
