import { describe, expect, it } from "vitest";
import { parseXlList, statusOf } from "../../../../node/hypervisor/xen/xl-list.ts";

const UUID = "448f33e7-73b9-47ab-92f7-de44d0b41cf9";
/** As xl of Xen 4.17 printed it. */
const HEAD =
  "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label";
const DOM0 =
  "Domain-0                                     0   760     1     r-----     236.4 00000000-0000-0000-0000-000000000000        -                -";
const BUILT = `linux                                        1     0     0     --p---       0.0 ${UUID}        -                -`;
const IDLE = `linux                                        1    96     1     ------      18.7 ${UUID}        -                -`;
const PRESERVED = `linux                                        1    96     1     ---sc-      19.5 ${UUID}        3                -`;

function one(line: string) {
  const [domain, ...others] = parseXlList(`${HEAD}\n${DOM0}\n${line}\n`);
  expect(others).toEqual([]);
  return domain!;
}

describe("what xl lists", () => {
  it("is every domain but dom0", () => {
    expect(parseXlList(`${HEAD}\n${DOM0}\n`)).toEqual([]);
    expect(parseXlList(`${HEAD}\n${DOM0.replace("Domain-0", "(null)  ")}\n`)).toEqual([]);
    expect(one(IDLE)).toEqual({
      name: "linux",
      domid: 1,
      uuid: UUID,
      isPaused: false,
      isShutdown: false,
      isDying: false,
      reason: undefined,
    });
  });

  it.each([
    ["runs, though no CPU runs it now", IDLE, false, "running"],
    ["is paused", BUILT, false, "suspended"],
    ["crashed and was preserved", PRESERVED, false, "crashed"],
    ["is suspended", PRESERVED.replace("---sc-", "---ss-").replace("  3  ", "  2  "), false, "suspended"],
    ["powered off", PRESERVED.replace("---sc-", "---s--").replace("  3  ", "  0  "), false, "shutoff"],
    ["is being received", BUILT.replace("linux           ", "linux--incoming "), false, "incoming"],
    ["was received as a whole", BUILT.replace("linux           ", "linux--incoming "), true, "suspended"],
    ["is being cleared away", IDLE.replace("------", "--p--d"), false, "shutoff"],
  ])("%s", (_what, line, isWhole, state) => {
    expect(statusOf(one(line), { isWhole }).state).toBe(state);
  });
});
