import { describe, expect, it } from "vitest";
import { alive, changes, dead, Machine, SELF, sent, suspect } from "./machine.ts";

/** Begins the next probe and says whom it is of. */
function probe(machine: Machine): { target: string; sequence: number } {
  const [ping] = sent(machine.fire("probe"), "ping");
  return { target: ping!.to, sequence: ping!.message.sequence };
}

/** A probe that nobody answers, to its end; `nacks` of the helpers are well. */
function failingProbe(machine: Machine, nacks = Number.POSITIVE_INFINITY) {
  const { target, sequence } = probe(machine);
  machine.nowMs += machine.dueInMs("probe-timeout")!;
  const helpers = sent(machine.fire("probe-timeout"), "ping-request").map(({ to }) => to);
  for (const helper of helpers.slice(0, nacks)) machine.receive(helper, { type: "nack", sequence });
  machine.nowMs += machine.dueInMs("probe")!;
  const effects = machine.fire("probe");
  return { target, sequence, helpers, effects };
}

describe("membership: probing", () => {
  it("asks every member once before any is asked again, each time in another order", () => {
    const machine = new Machine({ members: 12 });
    const rounds = [0, 1].map(() =>
      Array.from({ length: 12 }, () => {
        const { target, sequence } = probe(machine);
        machine.receive(target, { type: "ack", sequence, updates: [] });
        return target;
      }),
    );
    for (const round of rounds) expect(new Set(round).size).toBe(12);
    expect(rounds[0]).not.toEqual(rounds[1]);
  });

  it("passes over those that died since the round began", () => {
    const machine = new Machine({ members: 3 });
    machine.hear("host-2", dead("host-1", 1, "host-2"));
    const targets = Array.from({ length: 6 }, () => {
      const { target, sequence } = probe(machine);
      machine.receive(target, { type: "ack", sequence, updates: [] });
      return target;
    });
    expect([...new Set(targets)].sort()).toEqual(["host-2", "host-3"]);
  });

  it("has nobody to ask alone", () => {
    const machine = new Machine();
    expect(sent(machine.fire("probe"), "ping")).toEqual([]);
    expect(machine.dueInMs("probe")).toBe(1000);
  });

  it("answers a ping with its sequence", () => {
    const machine = new Machine({ members: 3 });
    const acks = sent(machine.receive("host-1", { type: "ping", sequence: 77, updates: [] }), "ack");
    expect(acks).toEqual([{ to: "host-1", message: { type: "ack", sequence: 77, updates: [] } }]);
  });

  it("measures the round trip of an answered ping and asks nobody else", () => {
    const machine = new Machine({ members: 5 });
    const { target, sequence } = probe(machine);
    machine.nowMs += 12;
    machine.receive(target, { type: "ack", sequence, updates: [] });
    expect(machine.state.table.get(target)?.rttMs).toBe(12);
    machine.nowMs += 488;
    expect(machine.fire("probe-timeout")).toEqual([]);
  });

  it("asks three others, alive ones, when the time is over", () => {
    const machine = new Machine({ members: 9 });
    machine.hear("host-2", suspect("host-1", 1, "host-2"));
    const { target, helpers } = failingProbe(machine);
    expect(new Set(helpers).size).toBe(3);
    expect(helpers).not.toContain(target);
    expect(helpers).not.toContain("host-1");
  });

  it("asks others at once when the connection to the member is lost", () => {
    const machine = new Machine({ members: 9 });
    const { target } = probe(machine);
    expect(sent(machine.do({ type: "unreachable", host: target }), "ping-request")).toHaveLength(3);
    expect(machine.do({ type: "unreachable", host: target })).toEqual([]);
  });

  it("probes a member out of turn when the connection to it is lost", () => {
    const machine = new Machine({ members: 9 });
    expect(sent(machine.do({ type: "unreachable", host: "host-7" }), "ping").map(({ to }) => to)).toEqual([
      "host-7",
    ]);
    machine.do({ type: "unreachable", host: "host-3" });
    machine.nowMs += 1000;
    expect(sent(machine.fire("probe"), "ping").map(({ to }) => to)).toEqual(["host-3"]);
  });

  it("suspects who answers nobody until the end of the interval", () => {
    const machine = new Machine({ members: 9 });
    const { target, effects } = failingProbe(machine);
    expect(changes(effects)).toEqual([{ host: target, from: "alive", to: "suspect", by: [SELF] }]);
  });

  it("believes the answer that a helper brings", () => {
    const machine = new Machine({ members: 9 });
    const { target, sequence } = probe(machine);
    machine.nowMs += 500;
    const [helper] = sent(machine.fire("probe-timeout"), "ping-request");
    machine.receive(helper!.to, { type: "ack", sequence, updates: [] });
    machine.nowMs += 500;
    expect(changes(machine.fire("probe"))).toEqual([]);
    expect(machine.statusOf(target)).toBe("alive");
  });

  it("ignores answers from those that were not asked, and late ones", () => {
    const machine = new Machine({ members: 9 });
    const { target, sequence } = probe(machine);
    const stranger = target === "host-1" ? "host-2" : "host-1";
    machine.receive(stranger, { type: "ack", sequence, updates: [] });
    machine.receive(target, { type: "ack", sequence: sequence + 5, updates: [] });
    machine.nowMs += 1000;
    machine.fire("probe");
    machine.receive(target, { type: "ack", sequence, updates: [] });
    expect(machine.statusOf(target)).toBe("suspect");
  });

  it("does not suspect who refuted in the meantime", () => {
    const machine = new Machine({ members: 9 });
    const { target } = probe(machine);
    machine.hear("host-9", alive(target, 2));
    machine.nowMs += 1000;
    expect(changes(machine.fire("probe"))).toEqual([]);
  });

  it("tells a suspect of the suspicion along with the ping (buddy)", () => {
    const machine = new Machine({ members: 1 });
    machine.hear("host-1", suspect("host-1", 1, "other"));
    machine.forgetTellings();
    const [ping] = sent(machine.fire("probe"), "ping");
    expect(ping?.message.updates.map(({ status }) => status)).toEqual(["suspect"]);
  });

  it("takes a second look at some of the suspects it hears of", () => {
    const everyone = new Machine({ members: 3, config: { secondLooks: 4 } });
    everyone.hear("host-2", suspect("host-1", 1, "host-2"));
    expect(everyone.state.looks).toEqual(["host-1"]);
    expect(sent(everyone.fire("probe"), "ping").map(({ to }) => to)).toEqual(["host-1"]);
    const nobody = new Machine({ members: 3, config: { secondLooks: 0 } });
    nobody.hear("host-2", suspect("host-1", 1, "host-2"));
    expect(nobody.state.looks).toEqual([]);
  });
});

describe("membership: probing for others", () => {
  it("pings the target and brings its answer back under the asker's sequence", () => {
    const machine = new Machine({ members: 3 });
    const request = { type: "ping-request", sequence: 900, target: "host-2", updates: [] } as const;
    const [ping] = sent(machine.receive("host-1", request), "ping");
    expect(ping?.to).toBe("host-2");
    const acks = sent(
      machine.receive("host-2", { type: "ack", sequence: ping!.message.sequence, updates: [] }),
      "ack",
    );
    expect(acks).toMatchObject([{ to: "host-1", message: { sequence: 900 } }]);
    expect(machine.state.relays.size).toBe(0);
  });

  it("sends a nack when the target does not answer in time", () => {
    const machine = new Machine({ members: 3 });
    machine.receive("host-1", { type: "ping-request", sequence: 900, target: "host-2", updates: [] });
    const effects = machine.pass(machine.config.nackAfterMs, ["probe", "exchange", "reconnect", "gossip"]);
    expect(sent(effects, "nack")).toEqual([{ to: "host-1", message: { type: "nack", sequence: 900 } }]);
    expect(machine.state.relays.size).toBe(0);
  });

  it("takes the answer of nobody but the target", () => {
    const machine = new Machine({ members: 3 });
    machine.receive("host-1", { type: "ping-request", sequence: 900, target: "host-2", updates: [] });
    const [relayed] = machine.state.relays.keys();
    expect(machine.receive("host-3", { type: "ack", sequence: relayed!, updates: [] })).toEqual([]);
  });

  it("sends a nack for whom it does not know, and answers for itself", () => {
    const machine = new Machine({ members: 3 });
    const ask = (target: string) =>
      machine.receive("host-1", { type: "ping-request", sequence: 9, target, updates: [] });
    expect(sent(ask("nobody"), "nack")).toHaveLength(1);
    expect(sent(ask(SELF), "ack")).toHaveLength(1);
    expect(machine.state.relays.size).toBe(0);
  });
});

describe("membership: local health", () => {
  it("is not touched by a failed probe when all helpers sent nacks", () => {
    const machine = new Machine({ members: 9 });
    failingProbe(machine);
    expect(machine.state.awareness).toBe(0);
  });

  it("gets worse by one for every missing nack", () => {
    const machine = new Machine({ members: 9 });
    failingProbe(machine, 1);
    expect(machine.state.awareness).toBe(2);
  });

  it("gets worse by one for a failed probe in which nobody could be asked", () => {
    const machine = new Machine({ members: 1 });
    failingProbe(machine);
    expect(machine.state.awareness).toBe(1);
  });

  it("never exceeds its maximum", () => {
    const machine = new Machine({ members: 40 });
    for (let i = 0; i < 5; i++) failingProbe(machine, 0);
    expect(machine.state.awareness).toBe(7);
  });

  it("gets better with every answered probe, down to well", () => {
    const machine = new Machine({ members: 9 });
    machine.state.awareness = 1;
    for (let i = 0; i < 3; i++) {
      const { target, sequence } = probe(machine);
      machine.receive(target, { type: "ack", sequence, updates: [] });
    }
    expect(machine.state.awareness).toBe(0);
  });

  it("stretches the interval and the timeout", () => {
    const machine = new Machine({ members: 9 });
    machine.state.awareness = 3;
    machine.fire("probe");
    expect(machine.dueInMs("probe")).toBe(4000);
    expect(machine.dueInMs("probe-timeout")).toBe(2000);
  });
});
