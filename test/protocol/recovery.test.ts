/** PROTOCOL.md §15: one answer for every combination of what two hosts say. */

import { describe, expect, it } from "vitest";
import { type Decision, decide, generationAbove, isAbout, type Testimony } from "../../protocol/recovery.ts";

const GENERATION = 4;
const nothingKnown: Testimony = {
  host: "A",
  claim: undefined,
  guest: "none",
  isStopped: false,
  outgoing: undefined,
  incoming: undefined,
  replica: undefined,
};
const outgoing = { migration: "m", peer: "B", generation: GENERATION } as const;
const incoming = { migration: "m", peer: "A", generation: GENERATION, missingBlocks: 3 } as const;

/** The source's and the destination's journals through the life of one migration. */
const sources = {
  none: { claim: { owner: "A", generation: GENERATION }, guest: "running" },
  begun: {
    claim: { owner: "A", generation: GENERATION },
    guest: "suspended",
    outgoing: { ...outgoing, phase: "begun" },
  },
  aborted: {
    claim: { owner: "A", generation: GENERATION },
    guest: "running",
    outgoing: { ...outgoing, phase: "aborted" },
  },
  "handed-over": {
    claim: { owner: "B", generation: GENERATION + 1 },
    guest: "suspended",
    outgoing: { ...outgoing, phase: "handed-over" },
  },
  "handed-over, guest lost": {
    claim: { owner: "B", generation: GENERATION + 1 },
    outgoing: { ...outgoing, phase: "handed-over" },
  },
} as const satisfies Record<string, Partial<Testimony>>;
const destinations = {
  none: {},
  receiving: { guest: "incoming", incoming: { ...incoming, phase: "receiving" } },
  prepared: { guest: "suspended", incoming: { ...incoming, phase: "prepared" } },
  "prepared, memory lost": { incoming: { ...incoming, phase: "prepared" } },
  renounced: { claim: { owner: "A", generation: GENERATION + 2 } },
  "owner, runs": {
    claim: { owner: "B", generation: GENERATION + 1 },
    guest: "running",
    incoming: { ...incoming, phase: "owner" },
  },
  "owner, suspended": {
    claim: { owner: "B", generation: GENERATION + 1 },
    guest: "suspended",
    incoming: { ...incoming, phase: "owner" },
  },
  "owner, off": {
    claim: { owner: "B", generation: GENERATION + 1 },
    incoming: { ...incoming, phase: "owner" },
  },
  "adopted it": { claim: { owner: "B", generation: GENERATION + 2 }, guest: "running" },
} as const satisfies Record<string, Partial<Testimony>>;

const source = (name: keyof typeof sources): Testimony => ({ ...nothingKnown, ...sources[name] });
const destination = (name: keyof typeof destinations): Testimony => {
  return { ...nothingKnown, host: "B", ...destinations[name] };
};
const spoken = (decision: Decision): string =>
  "at" in decision ? `${decision.do} at ${decision.at}` : decision.do;

describe("recover, with an answer from both ends", () => {
  it.each([
    ["none", "receiving", "roll-back at B"],
    ["none", "prepared", "roll-back at B"],
    ["none", "none", "nothing"],
    ["begun", "none", "nothing"],
    ["begun", "receiving", "nothing"],
    ["begun", "prepared", "nothing"],
    ["aborted", "none", "nothing"],
    ["aborted", "receiving", "roll-back at B"],
    ["aborted", "prepared", "roll-back at B"],
    ["aborted", "prepared, memory lost", "roll-back at B"],
    ["handed-over", "none", "renounce at B"],
    ["handed-over", "receiving", "renounce at B"],
    ["handed-over", "prepared", "finish-handover at A"],
    ["handed-over", "prepared, memory lost", "renounce at B"],
    ["handed-over", "renounced", "take-back at A"],
    ["handed-over", "owner, runs", "nothing"],
    ["handed-over", "owner, suspended", "resume at B"],
    ["handed-over", "owner, off", "boot at B"],
    ["handed-over", "adopted it", "let-go at A"],
    ["handed-over, guest lost", "prepared", "finish-handover at A"],
    ["handed-over, guest lost", "prepared, memory lost", "finish-handover at A"],
    ["handed-over, guest lost", "none", "renounce at B"],
    ["handed-over, guest lost", "renounced", "take-back at A"],
    ["none", "owner, runs", "fence at A"],
    ["aborted", "adopted it", "fence at A"],
  ] as const)("source %s, destination %s: %s", (at, to, answer) => {
    const [mine, theirs] = [source(at), destination(to)];
    expect(spoken(decide({ mine, theirs }))).toBe(answer);
    // Whichever end it is run on.
    expect(decide({ mine: theirs, theirs: mine })).toEqual(decide({ mine, theirs }));
  });

  it("gives one host only something to do, whatever the two say, and never to run what the other owns", () => {
    for (const at of Object.keys(sources) as (keyof typeof sources)[]) {
      for (const to of Object.keys(destinations) as (keyof typeof destinations)[]) {
        const [mine, theirs] = [source(at), destination(to)];
        const decision = decide({ mine, theirs });
        if (decision.do !== "resume" && decision.do !== "boot") continue;
        const runner = decision.at === "A" ? mine : theirs;
        const other = decision.at === "A" ? theirs : mine;
        expect(runner.claim?.owner).toBe(runner.host);
        expect(other.claim?.generation ?? 0).toBeLessThanOrEqual(runner.claim!.generation);
      }
    }
  });

  it("calls two owners of one generation a conflict, and gives nobody anything to do", () => {
    const theirs: Testimony = { ...source("none"), host: "B", claim: { owner: "B", generation: GENERATION } };
    expect(decide({ mine: source("none"), theirs })).toEqual({
      do: "conflict",
      hosts: ["A", "B"],
      generation: GENERATION,
      // What the operator's word would do here, above everything that anybody is said to have.
      adoption: { from: "running guest", generation: GENERATION + 1 },
    });
    expect(decide({ mine: source("none"), theirs, heard: 40 })).toMatchObject({
      adoption: { generation: 41 },
    });
  });

  it("takes back under a generation that neither host has heard of as its own", () => {
    expect(decide({ mine: source("handed-over"), theirs: destination("none") })).toMatchObject({
      generation: 6,
    });
    expect(decide({ mine: source("handed-over"), theirs: destination("renounced") })).toMatchObject({
      generation: 6,
    });
  });
});

describe("recover, without an answer", () => {
  it.each([
    ["none", "nothing"],
    ["begun", "nothing"],
    ["aborted", "nothing"],
    ["handed-over", "wait"],
    ["handed-over, guest lost", "wait"],
  ] as const)("source %s: %s", (at, answer) => {
    expect(decide({ mine: source(at), theirs: "unreachable" }).do).toBe(answer);
  });

  it.each([
    ["none", "wait"],
    ["prepared", "wait"],
    ["prepared, memory lost", "wait"],
    ["owner, runs", "nothing"],
    ["owner, suspended", "resume"],
    ["owner, off", "boot"],
  ] as const)("destination %s: %s", (to, answer) => {
    expect(decide({ mine: destination(to), theirs: "unreachable" }).do).toBe(answer);
  });

  it("offers to adopt what is frozen or whole here, under a generation above everything known", () => {
    const adoptionOf = (mine: Testimony): unknown => {
      const decision = decide({ mine, theirs: "unreachable" });
      return decision.do === "wait" ? decision.adoption : undefined;
    };
    expect(adoptionOf(source("handed-over"))).toEqual({ from: "frozen guest", generation: 6 });
    expect(adoptionOf(source("handed-over, guest lost"))).toEqual({ from: "disk", generation: 6 });
    const replica: Testimony = { ...nothingKnown, claim: { owner: "B", generation: 9 }, replica: 7 };
    expect(adoptionOf(replica)).toEqual({ from: "replica", generation: 10, replica: 7 });
    expect(adoptionOf({ ...replica, replica: undefined })).toHaveProperty("refused");
    // What only the source has would be lost.
    expect(adoptionOf(destination("prepared"))).toHaveProperty("refused");
    const whole = {
      ...destination("prepared"),
      incoming: { ...incoming, missingBlocks: 0, phase: "prepared" },
    } as const;
    expect(adoptionOf(whole)).toEqual({ from: "frozen guest", generation: 6 });
  });
});

describe("a testimony", () => {
  it("counts only if it was asked for after the migrations that it is about were seen", () => {
    expect(isAbout(destination("none"), destination("prepared"))).toBe(false);
    expect(isAbout(source("none"), source("begun"))).toBe(false);
    expect(isAbout(destination("receiving"), destination("prepared"))).toBe(true);
  });

  it("names a generation above promises, too", () => {
    expect(generationAbove(destination("prepared"))).toBe(6);
    expect(generationAbove(nothingKnown)).toBe(1);
  });
});
