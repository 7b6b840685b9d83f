import { describe, expect, it } from "vitest";
import type { HopReport } from "../../node/control/api.ts";
import type { GuestFigures } from "../../testnet/guest.ts";
import { bytesMax, checkHop, type HopEvidence } from "../../testnet/tour-checks.ts";
import { hopsOf, parseTourOptions } from "../../testnet/tour-options.ts";

const REPORT: HopReport = {
  migration: "m",
  domain: "tour",
  from: "A",
  to: "B",
  generation: 2,
  rung: "allocated",
  reason: "no copy",
  diskBytesSent: 1000 * 4096,
  blocksChanged: 1000,
  blocksResent: 10,
  bytesAllocated: 4_096_000,
  memoryBytesSent: 1 << 20,
  downtimeMs: 1,
  disruptionMs: 2,
  totalMs: 3,
  pushed: 0,
  pulled: 0,
  superseded: 0,
  writeShare: 1,
  blocksLeft: 0,
  iterations: 1,
};

const GUEST: GuestFigures = {
  filled: true,
  filledBytes: 1,
  fillBytes: 1,
  uptimeMs: 10,
  steps: 10,
  reads: 0,
  writes: 0,
  bytesWritten: 0,
  imageBlocksVerified: 0,
  imagePasses: 0,
  errors: 0,
  firstErrors: [],
};

const FIRST: HopEvidence = {
  report: REPORT,
  isReturn: false,
  allocatedBlocks: 1000,
  differingBlocks: undefined,
  writtenBlocksMax: undefined,
  verify: { domain: "d", name: "tour", ok: true, errors: 0, durationMs: 1 },
  before: GUEST,
  after: { ...GUEST, uptimeMs: 11, steps: 11 },
  runningOn: ["B"],
  guestProcesses: 1,
  linkBytes: undefined,
};

const RETURN: HopEvidence = {
  ...FIRST,
  report: { ...REPORT, rung: "bitmaps" },
  isReturn: true,
  differingBlocks: 990,
  writtenBlocksMax: 1000,
};

function failed(evidence: HopEvidence): string[] {
  return checkHop(evidence).flatMap(({ name, ok }) => (ok ? [] : [name]));
}

describe("a hop", () => {
  it("that holds passes every check", () => {
    expect(failed(FIRST)).toEqual([]);
    expect(failed(RETURN)).toEqual([]);
    expect(failed({ ...RETURN, linkBytes: REPORT.diskBytesSent + REPORT.memoryBytesSent })).toEqual([]);
  });

  it("may send 1.02 times its blocks and a MiB, and not a byte more", () => {
    const most = Math.floor(1.02 * 4096 * 1010) + (1 << 20);
    expect(bytesMax(1000, 10)).toBe(most);
    expect(failed({ ...FIRST, report: { ...REPORT, diskBytesSent: most } })).toEqual([]);
    const more = { ...REPORT, diskBytesSent: most + 1 };
    expect(failed({ ...FIRST, report: more })).toEqual(["the disk bytes of a first visit"]);
    expect(failed({ ...RETURN, report: { ...more, rung: "bitmaps" } })).toEqual([
      "the disk bytes of a return",
    ]);
  });

  it("is judged by allocated blocks on a first visit and by changed ones on a return", () => {
    expect(failed({ ...FIRST, allocatedBlocks: 100 })).toEqual(["the disk bytes of a first visit"]);
    const report = { ...RETURN.report, blocksChanged: 100, diskBytesSent: 100 * 4096 };
    expect(failed({ ...RETURN, report, differingBlocks: 100 })).toEqual([]);
    expect(failed({ ...RETURN, report })).toEqual(["no changed block was overlooked"]);
  });

  it("cannot call blocks changed that the guest did not write, however well its bytes fit then", () => {
    const report = { ...RETURN.report, blocksChanged: 1001, diskBytesSent: 1001 * 4096 };
    expect(failed({ ...RETURN, report })).toEqual(["the changed blocks of a return"]);
  });

  it.each<[string, Partial<HopEvidence>]>([
    ["the guest's verification", { verify: { ...FIRST.verify, ok: false, errors: 1 } }],
    ["the rung", { report: { ...REPORT, rung: "everything" } }],
    ["one host runs the domain", { runningOn: ["A", "B"] }],
    ["one host runs the domain", { runningOn: ["A"] }],
    ["one host runs the domain", { guestProcesses: 2 }],
    ["the guest went on", { after: { ...GUEST, uptimeMs: 1, steps: 20 } }],
    ["the bytes on the link", { linkBytes: 2 * REPORT.diskBytesSent }],
  ])("fails %s: %o", (name, change) => {
    expect(failed({ ...FIRST, ...change })).toEqual([name]);
  });
});

describe("the tour's hops", () => {
  it("follow the route", () => {
    expect(hopsOf(parseTourOptions([]))).toEqual([
      { from: "A", to: "B" },
      { from: "B", to: "C" },
      { from: "C", to: "A" },
      { from: "A", to: "B" },
    ]);
  });

  it("with extra moves go back and forth, then to the host that was left longest ago", () => {
    const options = parseTourOptions(["--route", "A,B,C,A,B", "--extra-moves"]);
    expect(hopsOf(options).map(({ to }) => to)).toEqual(["B", "C", "A", "B", "A", "B", "A", "B", "A", "C"]);
    const two = parseTourOptions(["--route", "A,B", "--extra-moves", "2"]);
    expect(hopsOf(two).map(({ to }) => to)).toEqual(["B", "A", "B", "A"]);
  });
});
