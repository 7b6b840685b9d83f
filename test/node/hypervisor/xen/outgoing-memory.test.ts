import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { FrameReader } from "../../../../node/hypervisor/stream-frames.ts";
import { XenOutgoingMemory } from "../../../../node/hypervisor/xen/outgoing-memory.ts";
import { BANNER } from "../../../../node/hypervisor/xen/xl-handshake.ts";
import { XlMigrate } from "../../../../node/hypervisor/xen/xl-migrate.ts";
import { StandInXl } from "./stand-in-xl.ts";
import { xlStream } from "./xl-streams.ts";

const PAGES = 8192;
const RECORD_PAGES = 1024;
const FIRST_PASS = Array.from({ length: PAGES / RECORD_PAGES }, (_, record) =>
  Array.from({ length: RECORD_PAGES }, (_, page) => record * RECORD_PAGES + page),
);
const STREAM = xlStream({ passes: [FIRST_PASS, [[3, 9]], [[3]]] });

describe("the memory of a xen domain on its way out", () => {
  let xl: StandInXl;
  let resumed: number;
  let settled: number;
  let outgoing: XenOutgoingMemory;
  let taken: { type: string; bytes: Buffer }[];
  let reading: Promise<void>;

  beforeEach(async () => {
    xl = new StandInXl(STREAM);
    resumed = 0;
    settled = 0;
    taken = [];
    outgoing = await XenOutgoingMemory.begin({
      memoryBytes: PAGES * 4096,
      begin: () => XlMigrate.begin({ xl: xl.command, domid: 1, logPath: xl.logPath }),
      resume: async () => {
        resumed += 1;
      },
      settled: async () => {
        settled += 1;
      },
      whole: () => {},
      lastWords: async () => "",
    });
    reading = read();
    reading.catch(() => {});
  });

  afterEach(async () => {
    await outgoing.cancel();
    await reading.catch(() => {});
    xl.remove();
  });

  async function read(): Promise<void> {
    const frames = new FrameReader();
    for await (const bytes of outgoing.stream) {
      for (const part of frames.push(bytes)) {
        if (part.type === "data") taken.push({ type: "data", bytes: Buffer.from(part.data) });
        else taken.push({ type: part.type, bytes: Buffer.alloc(0) });
      }
    }
  }

  function converged(): Promise<{ round: number; remainingBytes: number }> {
    return new Promise((resolve) => outgoing.onRound((round) => round.converged && resolve(round)));
  }

  const data = (): Buffer => Buffer.concat(taken.map(({ bytes }) => bytes));
  const marks = (): string[] => taken.map(({ type }) => type).filter((type) => type !== "data");

  it("is held near the end of the first pass, while the guest runs", async () => {
    const { round, remainingBytes } = await converged();
    expect(round).toBe(1);
    expect(remainingBytes).toBeLessThanOrEqual(3 * RECORD_PAGES * 4096);
    expect(data().length).toBeLessThan(STREAM.length - RECORD_PAGES * 1024);
    expect(STREAM.subarray(0, data().length).equals(data())).toBe(true);
    expect(xl.running()).toHaveLength(1);
  });

  it("comes to its end with the freeze, and ends xl before anybody hears of it", async () => {
    await converged();
    await outgoing.freeze();
    expect(xl.running()).toEqual([]);
    expect(settled).toBe(1);
    const length = await outgoing.ended();
    expect(length).toBeGreaterThan(STREAM.length);
    await outgoing.cancel();
    await reading;
    expect(data().equals(STREAM)).toBe(true);
    expect(marks()).toEqual(["whole"]);
    // xl heard that the receiver takes the stream, and nothing after that.
    expect(xl.noted("said").toString()).toBe(BANNER);
    expect(resumed).toBe(0);
  });

  it("begins again after a thaw, with a mark", async () => {
    await converged();
    await outgoing.freeze();
    const first = await outgoing.ended();
    await outgoing.thaw();
    expect(resumed).toBe(1);
    await converged();
    await outgoing.freeze();
    expect(await outgoing.ended()).toBeGreaterThan(first);
    await outgoing.cancel();
    await reading;
    expect(marks()).toEqual(["whole", "again", "whole"]);
    expect(data().equals(Buffer.concat([STREAM, STREAM]))).toBe(true);
  });

  it("leaves xl to itself when it is cancelled before the freeze", async () => {
    await converged();
    await outgoing.cancel();
    await reading;
    expect(xl.running()).toEqual([]);
    expect(marks()).toEqual([]);
    await expect(outgoing.ended()).rejects.toMatchObject({ code: "HYPERVISOR_PROCESS_FAILED" });
  });
});
