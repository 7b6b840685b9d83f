/** The model in bounds that take seconds; `npm run model` takes the wider ones. */

import { describe, expect, it } from "vitest";
import { explore } from "./explore.ts";
import { mutants } from "./mutants.ts";
import { startOf } from "./reach.ts";
import { lostWhilePrepared, realParts, scenario } from "./scenarios.ts";

const LIMITS = { depthMax: 1000, statesMax: 200_000 };

describe("every interleaving of the two halves", () => {
  it.each([
    scenario("writes", ["AB"], { faultsMax: 0, writes: 2 }),
    scenario("one fault", ["AB"], {
      faultsMax: 1,
      crashes: 1,
      powers: 1,
      losses: 1,
      cancels: 1,
      recovers: 1,
      adopts: 1,
    }),
    scenario("there and back", ["AB", "BA"], { faultsMax: 0, writes: 1 }),
    scenario("onwards", ["AB", "BC"], { faultsMax: 0 }),
    {
      ...scenario("power lost while prepared", ["AB"], { faultsMax: 2, crashes: 1, recovers: 1, adopts: 1 }),
      after: lostWhilePrepared,
    },
    scenario("custody", ["AB"], { faultsMax: 1, forgeries: 1, losses: 1, custody: true }),
  ])("keeps every rule and can always end well: $name", (chosen) => {
    const { plan } = chosen;
    const { violation, isComplete, states } = explore(
      startOf(chosen, realParts),
      { parts: realParts, plan },
      LIMITS,
    );
    expect(violation).toBeUndefined();
    expect(isComplete).toBe(true);
    expect(states).toBeGreaterThan(100);
  });
});

describe("the checker", () => {
  it.each(mutants.map((mutant) => [mutant.name, mutant] as const))("finds the seeded bug %s", (_, mutant) => {
    const { parts, scenario: chosen } = mutant;
    const { violation } = explore(startOf(chosen, parts), { parts, plan: chosen.plan }, LIMITS);
    expect(violation?.rule).toBeTypeOf("string");
    expect(violation!.trace.length).toBeGreaterThan(0);
  });
});
