/** Where a scenario begins: also in worlds far from the beginning, so that what may go wrong after them can be explored. */

import { movesOf } from "./moves.ts";
import { WorldNames } from "./names.ts";
import { type Scenario, worldOf } from "./scenarios.ts";
import { Draft, type Parts, type World } from "./state.ts";

/** By the fewest steps; from there on the scenario's own faults may happen, whatever did before. */
export function startOf(scenario: Scenario, parts: Parts): World {
  const { after, faults, faultsMax, plan, name } = scenario;
  if (after === undefined) return worldOf(scenario);
  const start = worldOf({ ...scenario, faults: after.faults, faultsMax: after.faults.length });
  const names = new WorldNames();
  const nameOf = (world: World): string => `${names.nameOf(world, plan.length)} ${world.faultsLeft}`;
  const known = new Set([nameOf(start)]);
  let frontier = [start];
  while (frontier.length > 0) {
    const next: World[] = [];
    for (const world of frontier) {
      if (after.holds(world)) return { ...world, faults, faultsLeft: faultsMax };
      for (const move of movesOf(world, plan)) {
        const draft = new Draft(world, parts);
        if (move.apply(draft) === false) continue;
        const reached = draft.done();
        const key = nameOf(reached);
        if (known.has(key)) continue;
        known.add(key);
        next.push(reached);
      }
    }
    frontier = next;
  }
  throw new Error(`no world of the scenario ${name} is where it should begin`);
}
