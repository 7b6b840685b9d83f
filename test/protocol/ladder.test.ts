import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { chooseRung, everythingBecause } from "../../protocol/ladder.ts";

const since = BlockBitmap.of(100, [1]);
const replica = { kind: "replica", generation: 3 } as const;

describe("the ladder", () => {
  it("takes bitmaps for a replica whose later writes are all known", () => {
    expect(chooseRung({ copy: replica, generation: 6, since, untrusted: undefined })).toEqual({
      rung: "bitmaps",
      reason: "replica of generation 3, blocks written in generations 4 to 6",
    });
    expect(chooseRung({ copy: replica, generation: 4, since, untrusted: undefined }).reason).toBe(
      "replica of generation 3, blocks written in generation 4",
    );
  });

  it("compares hashes when the log does not reach back to the replica", () => {
    expect(chooseRung({ copy: replica, generation: 6, since: undefined, untrusted: undefined })).toEqual({
      rung: "hashes",
      reason: "replica of generation 3, but the generation log does not reach back to it",
    });
  });

  it("compares hashes when a tracker died, even with a log", () => {
    expect(chooseRung({ copy: replica, generation: 6, since, untrusted: "the host crashed" })).toEqual({
      rung: "hashes",
      reason: "replica of generation 3, but generation 6 was not tracked: the host crashed",
    });
  });

  it.each([6, 7])("never trusts a replica of generation %i while generation 6 is open", (generation) => {
    const choice = chooseRung({
      copy: { kind: "replica", generation },
      generation: 6,
      since,
      untrusted: undefined,
    });
    expect(choice).toEqual({
      rung: "hashes",
      reason: `replica of generation ${generation}, but generation 6 is still being written`,
    });
  });

  it("compares hashes with a copy that nobody vouches for, and says why", () => {
    const copy = { kind: "unknown", reason: "written by someone else" } as const;
    expect(chooseRung({ copy, generation: 6, since: undefined, untrusted: undefined })).toEqual({
      rung: "hashes",
      reason: "nobody vouches for the destination's copy: written by someone else",
    });
  });

  it("sends what is allocated where there is no copy, tracked or not", () => {
    for (const untrusted of [undefined, "the host crashed"]) {
      expect(chooseRung({ copy: { kind: "none" }, generation: 6, since: undefined, untrusted })).toEqual({
        rung: "allocated",
        reason: "no copy at the destination",
      });
    }
  });

  it("names why everything is sent", () => {
    expect(everythingBecause("the store cannot tell holes from data")).toEqual({
      rung: "everything",
      reason: "no copy at the destination, and the store cannot tell holes from data",
    });
  });
});
