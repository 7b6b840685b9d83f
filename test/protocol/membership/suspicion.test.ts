import { describe, expect, it } from "vitest";
import { LAN, WAN, withoutLifeguard } from "../../../protocol/membership/config.ts";
import { confirm, newSuspicion } from "../../../protocol/membership/suspicion.ts";
import { retransmitLimit } from "../../../protocol/membership/update-queue.ts";
import { Machine, suspect } from "./machine.ts";

describe("membership: the time of a suspicion", () => {
  it.each([
    // hosts, minimum, maximum: memberlist's for the LAN, as published
    [10, 4000, 24_000],
    [50, 6796, 40_776],
    [200, 9205, 55_230],
    [1000, 12_000, 72_000],
  ])("with %i hosts is %i ms at least and %i ms at most", (hosts, minMs, maxMs) => {
    expect(newSuspicion(LAN, hosts, 0)).toMatchObject({ minMs, maxMs, endsAtMs: maxMs });
  });

  it("shrinks with confirmations, with the first the most", () => {
    const suspicion = newSuspicion({ ...LAN, suspicionMult: 5 }, 1000, 100);
    const ends = [1, 2, 3].map(() => {
      confirm(suspicion);
      return suspicion.endsAtMs;
    });
    expect(ends).toEqual([52_600, 30_663, 15_100]);
  });

  it("is the least from the start where there are too few to confirm it", () => {
    expect(newSuspicion(LAN, 3, 0)).toMatchObject({ confirmationsMax: 0, endsAtMs: 4000 });
    expect(newSuspicion(LAN, 4, 0)).toMatchObject({ confirmationsMax: 2, endsAtMs: 24_000 });
  });

  it("does not shrink in plain SWIM", () => {
    expect(newSuspicion(withoutLifeguard(LAN), 1000, 0)).toMatchObject({
      confirmationsMax: 0,
      endsAtMs: 12_000,
    });
  });

  it("is longer over a WAN", () => {
    expect(newSuspicion(WAN, 1000, 0)).toMatchObject({ minMs: 90_000, maxMs: 540_000, confirmationsMax: 4 });
  });

  it.each([0, 1, 2])("ends in the machine as %i confirmations say (dogpile)", (confirmations) => {
    const machine = new Machine({ members: 49, config: { lastCall: false } });
    const accusers = ["host-2", "host-3", "host-4"].slice(0, confirmations + 1);
    for (const accuser of accusers) machine.hear(accuser, suspect("host-1", 1, accuser));
    const reference = newSuspicion(machine.config, 50, machine.nowMs);
    for (let i = 0; i < confirmations; i++) confirm(reference);
    expect(machine.dueInMs("suspicion:host-1")).toBe(reference.endsAtMs - machine.nowMs);
  });
});

describe("membership: how often an update is told", () => {
  it.each([
    [1, 4],
    [9, 4],
    [10, 8],
    [99, 8],
    [100, 12],
    [1000, 16],
  ])("with %i hosts is %i times", (hosts, times) => {
    expect(retransmitLimit(4, hosts)).toBe(times);
  });
});
