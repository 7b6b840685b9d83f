import { describe, expect, it } from "vitest";
import { growthChecks, type Held, LOOKS_MIN } from "../../testnet/growth.ts";

const MIB = 2 ** 20;

function looks(count: number, at: (index: number) => Partial<Held>): Held[] {
  return Array.from({ length: count }, (_, index) => {
    return { descriptors: 40, rssBytes: 100 * MIB, diskBytes: 8 * MIB, ...at(index) };
  });
}

function failed(all: readonly Held[]): string[] {
  return growthChecks("A", all)
    .filter(({ ok }) => !ok)
    .map(({ name }) => name);
}

describe("growth", () => {
  it("is not said of few looks", () => {
    expect(
      growthChecks(
        "A",
        looks(LOOKS_MIN - 1, (index) => ({ descriptors: index * 100 })),
      ),
    ).toEqual([]);
  });

  it("is not what a run needs at its beginning", () => {
    expect(failed(looks(12, (index) => ({ descriptors: Math.min(90, 40 + 20 * index) })))).toEqual([]);
  });

  it("is a descriptor that every turn leaves behind", () => {
    expect(failed(looks(30, (index) => ({ descriptors: 40 + index })))).toEqual([
      "no growth of descriptors at A",
    ]);
  });

  it("is memory and disk that every turn leaves behind", () => {
    const leaking = looks(30, (index) => ({
      rssBytes: (100 + 3 * index) * MIB,
      diskBytes: (8 + index) * MIB,
    }));
    expect(failed(leaking)).toEqual(["no growth of memory at A", "no growth of disk at A"]);
  });
});
