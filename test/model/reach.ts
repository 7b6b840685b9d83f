/** Where a scenario begins: also in worlds far from the beginning, so that what may go wrong after them can be explored. */

import { movesOf } from "./moves.ts";
import { NONE, type Scenario, worldOf } from "./scenarios.ts";
import { Draft, keyOf, type Parts, type World } from "./state.ts";

/** By the fewest steps; from there on the scenario's own faults may happen, whatever did before. */
export function startOf(scenario: Scenario, parts: Parts): World {
  const { after, faults, faultsMax, plan, name } = scenario;
  if (after === undefined) return worldOf(scenario);
  const faultsBefore = Object.values(after.faults).reduce((sum, count) => sum + count, 0);
  const start = worldOf({ ...scenario, faults: { ...NONE, ...after.faults }, faultsMax: faultsBefore });
  const known = new Set([keyOf(start).join("|")]);
  let frontier = [start];
  while (frontier.length > 0) {
    const next: World[] = [];
    for (const world of frontier) {
      if (after.holds(world)) return { ...world, left: faults, faultsLeft: faultsMax };
      for (const move of movesOf(world, plan)) {
        const draft = new Draft(world, parts);
        if (move.apply(draft) === false) continue;
        const reached = draft.done();
        const key = keyOf(reached).join("|");
        if (known.has(key)) continue;
        known.add(key);
        next.push(reached);
      }
    }
    frontier = next;
  }
  throw new Error(`no world of the scenario ${name} is where it should begin`);
}
