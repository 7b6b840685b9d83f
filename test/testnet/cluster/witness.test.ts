import { describe, expect, it } from "vitest";
import { offencesIn, type Resume, type Sight } from "../../../testnet/cluster/witness.ts";

const resume = (host: string, generation: number, atMs: number): Resume => ({
  ...{ host, generation, atMs, domain: "d" },
});
const sight = (host: string, generation: number, fromMs: number): Sight => ({
  ...{ host, generation, fromMs, toMs: fromMs + 5, domain: "d" },
});

describe("the witness", () => {
  it("has nothing to say of a domain that goes from host to host", () => {
    const resumes = [resume("b", 2, 100), resume("a", 3, 200)];
    const sights = [sight("a", 1, 50), sight("b", 2, 110), sight("b", 2, 150), sight("a", 3, 210)];
    expect(offencesIn(resumes, sights)).toEqual([]);
  });

  it("names a generation that is resumed twice, on another host or on the same", () => {
    expect(offencesIn([resume("a", 2, 100), resume("b", 2, 300)], [])).toContain(
      "d under generation 2 was resumed twice, on a and on b",
    );
    expect(offencesIn([resume("a", 2, 100), resume("a", 2, 300)], [])).toEqual([
      "d under generation 2 was resumed twice, on a and on a",
    ]);
  });

  it("names a generation that runs on another host than the one that resumed it", () => {
    expect(offencesIn([resume("a", 2, 100)], [sight("b", 2, 300)])).toEqual([
      "d under generation 2 ran on a and on b",
    ]);
  });

  it("names an earlier generation that runs on after a later one was seen", () => {
    expect(offencesIn([resume("b", 2, 100)], [sight("a", 1, 50), sight("a", 1, 300)])).toEqual([
      "d ran under 1 on a after 2 on b",
    ]);
  });

  it("does not mistake two looks that overlap for two hosts that run it", () => {
    const sights = [
      { ...sight("b", 2, 100), toMs: 400 },
      { ...sight("a", 1, 120), toMs: 130 },
    ];
    expect(offencesIn([], sights)).toEqual([]);
  });
});
