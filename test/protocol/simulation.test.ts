/**
 * The simulation on a few hundred fresh worlds, and on those that once found something. A seed means what it
 * meant only as long as nothing changes what is drawn from it; each finding has its sentence in a test of its own.
 */
import { describe, expect, it } from "vitest";
import { Verdict } from "../simulation/verdict.ts";
import { World } from "../simulation/world.ts";

const FRESH_SEEDS = 300;

const FOUND: readonly { seed: number; what: string }[] = [
  { seed: 59, what: "the ladder was lost with its link, and blocks came to copies that nobody had opened" },
  { seed: 18, what: "the memory stream stood still because the window was full of what had been taken" },
  { seed: 1, what: "the frozen remains stayed when the message that the domain runs was lost" },
  { seed: 266, what: "the log was lost with its link, and with it the way back by bitmaps" },
  { seed: 100, what: "the handover was sent before it was durable" },
  { seed: 204, what: "a prepared host that was restarted ran the domain without owning it" },
  { seed: 549, what: "digests of before a lost link were compared with blocks of after it" },
];

async function verdictOn(seed: number): Promise<string | undefined> {
  try {
    await new World(seed).run();
    return undefined;
  } catch (error) {
    const { kind, message } = error as Verdict;
    return `${kind}: ${message}\nreplay: npm run sim -- --seed ${seed}`;
  }
}

describe("simulation: seeds that once found something", () => {
  for (const { seed, what } of FOUND) {
    it(`${seed}: ${what}`, async () => expect(await verdictOn(seed)).toBeUndefined());
  }
});

describe("simulation: fresh seeds", () => {
  const base = Number(process.env.SIM_SEED ?? process.hrtime.bigint() % 1_000_000_000n);

  it(`${FRESH_SEEDS} from ${base}`, { timeout: 600_000 }, async () => {
    for (let seed = base; seed < base + FRESH_SEEDS; seed++) expect(await verdictOn(seed)).toBeUndefined();
  });
});

describe("simulation: itself", () => {
  it("replays a seed event for event", async () => {
    const transcripts = [new World(7, { verbose: true }), new World(7, { verbose: true })];
    for (const world of transcripts) await world.run();
    expect(transcripts[0]!.transcript.length).toBeGreaterThan(100);
    expect(transcripts[0]!.transcript).toEqual(transcripts[1]!.transcript);
  });

  it("says how a world failed", () => {
    const verdict = new Verdict("stuck", "no end in sight", "A: domain off");
    expect(verdict).toMatchObject({ kind: "stuck", summary: "no end in sight" });
    expect(verdict.message).toContain("A: domain off");
  });
});
