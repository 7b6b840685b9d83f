import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { HypervisorError } from "../../../../node/hypervisor/errors.ts";
import type { IncomingMemory } from "../../../../node/hypervisor/hypervisor.ts";
import { frameHead } from "../../../../node/hypervisor/stream-frames.ts";
import { incomingXen } from "../../../../node/hypervisor/xen/incoming-memory.ts";
import { StandInXl } from "./stand-in-xl.ts";
import { xlStream } from "./xl-streams.ts";

const CONFIG = '{"c_info":{"name":"web"}}';
const STREAM = xlStream({ passes: [[[0, 1, 2]], [[1]]], config: CONFIG });

function framed(...parts: (Buffer | "whole" | "again")[]): Buffer {
  return Buffer.concat(
    parts.map((part) =>
      typeof part === "string" ? frameHead(part) : Buffer.concat([frameHead("data", part.length), part]),
    ),
  );
}

describe("the memory of a xen domain on its way in", () => {
  let xl: StandInXl;
  let events: string[];
  let checked: string[];
  let incoming: IncomingMemory;
  let refusal: string | undefined;

  beforeEach(async () => {
    xl = new StandInXl(STREAM);
    events = [];
    checked = [];
    refusal = undefined;
    const note = (what: string) => async (): Promise<void> => {
      events.push(what);
    };
    incoming = await incomingXen({
      xl: xl.command,
      logPath: xl.logPath,
      check: (config) => {
        checked.push(config.replace(/\0$/, ""));
        if (refusal !== undefined)
          throw new HypervisorError({ code: "HYPERVISOR_BAD_STREAM", reason: refusal });
      },
      keep: note("keep"),
      remove: note("remove"),
      discard: note("discard"),
      lastWords: async () => "",
    });
  });

  afterEach(async () => {
    await incoming.discard();
    expect(xl.running()).toEqual([]);
    xl.remove();
  });

  it("is whole when the receiver says so, which is ended before it can do more", async () => {
    const bytes = framed(STREAM.subarray(0, 1000), STREAM.subarray(1000), "whole");
    for (let at = 0; at < bytes.length; at += 700) await incoming.write(bytes.subarray(at, at + 700));
    await incoming.loaded(bytes.length);
    expect(xl.running()).toEqual([]);
    expect(xl.noted("taken").equals(STREAM)).toBe(true);
    expect(xl.noted("tidied").length).toBe(0);
    expect(checked).toEqual([CONFIG]);
    expect(events).toEqual(["keep"]);
  });

  it("begins again with another receiver after a mark", async () => {
    const bytes = framed(STREAM.subarray(0, 2000), "again", STREAM, "whole");
    await incoming.write(bytes);
    await incoming.loaded(bytes.length);
    expect(events).toEqual(["remove", "keep"]);
    expect(xl.noted("tidied").toString()).toBe("yes");
  });

  it("that ends in its midst leaves the receiver to tidy up by itself", async () => {
    const bytes = framed(STREAM.subarray(0, 2000));
    await incoming.write(bytes);
    await expect(incoming.loaded(bytes.length)).rejects.toMatchObject({ code: "HYPERVISOR_BAD_STREAM" });
    expect(xl.noted("tidied").toString()).toBe("yes");
    expect(events).toEqual(["discard"]);
  });

  it("with a configuration that is refused does not reach xl with all of it", async () => {
    refusal = "it wants the disk /dev/sda";
    const bytes = framed(STREAM, "whole");
    await incoming.write(bytes);
    await expect(incoming.loaded(bytes.length)).rejects.toThrow(/it wants the disk/);
    expect(xl.noted("taken").length).toBe(0);
    expect(events).toEqual(["discard"]);
  });

  it("that is none of xl's is refused", async () => {
    const bytes = framed(Buffer.alloc(100_000, 0x5a));
    await incoming.write(bytes);
    await expect(incoming.loaded(bytes.length)).rejects.toMatchObject({ code: "HYPERVISOR_BAD_STREAM" });
    await expect(incoming.write(bytes)).rejects.toMatchObject({ code: "HYPERVISOR_BAD_STREAM" });
  });
});
