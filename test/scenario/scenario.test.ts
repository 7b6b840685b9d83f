/**
 * Whole migrations as transcripts, to be read. A change of the protocol shows as a diff of a play; commit only
 * what you understand. `UPDATE_SCENARIOS=1 npx vitest run test/scenario` writes them anew; when a seed tells
 * another story then, look for one that tells the old.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { World } from "../simulation/world.ts";
import { SCENARIOS, type Scenario, tells, toldBy } from "./scenarios.ts";

async function play(scenario: Scenario): Promise<string[]> {
  const world = new World(scenario.seed, { verbose: true, options: scenario.options });
  await world.run();
  return toldBy(world.transcript);
}

describe("scenario", () => {
  for (const scenario of SCENARIOS) {
    it(`${scenario.name}: ${scenario.story}`, async () => {
      const lines = await play(scenario);
      expect(tells(scenario, lines)).toBe(true);
      const text = `${scenario.story}\n\n${lines.join("\n")}\n`;
      const path = fileURLToPath(new URL(`${scenario.name}.txt`, import.meta.url));
      if (process.env.UPDATE_SCENARIOS === "1") writeFileSync(path, text);
      expect(text).toBe(readFileSync(path, "utf8"));
    });
  }

  it("is the same play every time", async () => {
    const [scenario] = SCENARIOS;
    expect(await play(scenario!)).toEqual(await play(scenario!));
  });
});
