/** The model in bounds that take seconds; `npm run model` takes the wider ones. */

import { describe, expect, it } from "vitest";
import { explore } from "./explore.ts";
import { mutants } from "./mutants.ts";
import { startOf } from "./reach.ts";
import { lostWhilePrepared, realParts, scenario } from "./scenarios.ts";

const LIMITS = { statesMax: 200_000 };

describe("every interleaving of the two halves", () => {
  it.each([
    scenario("writes", ["AB"], { writes: 2 }),
    scenario("one fault", ["AB"], {
      faults: ["crashes", "powers", "losses", "cancels", "recovers", "adopts"],
    }),
    scenario("there and back", ["AB", "BA"], { writes: 1 }),
    scenario("onwards", ["AB", "BC"], {}),
    {
      ...scenario("power lost while prepared", ["AB"], {
        faults: ["crashes", "recovers", "adopts"],
        faultsMax: 2,
      }),
      after: lostWhilePrepared,
    },
    scenario("custody", ["AB"], { faults: ["forgeries", "losses"], custody: true }),
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
