import { streamPair } from "@libp2p/utils";
import { describe, expect, it } from "vitest";
import { RpcBudget, type RpcLimits } from "../../../node/network/rpc-budget.ts";

const LIMITS: RpcLimits = {
  rpcSizeMax: 1000,
  burst: { rpcs: 10, bytes: 10_000 },
  perSecond: { rpcs: 2, bytes: 1000 },
  floodAfterMs: 5000,
};

function budgetAt(limits = LIMITS) {
  const clock = { nowMs: 0 };
  return { clock, budget: new RpcBudget(limits, () => clock.nowMs) };
}

describe("a budget", () => {
  it("leaves a burst alone, and then asks for as long as it takes to make up for what is above it", () => {
    const { clock, budget } = budgetAt();
    expect(budget.take({ rpcs: 10, bytes: 100 })).toBe(0);
    expect(budget.take({ rpcs: 4, bytes: 0 })).toBe(2000);
    clock.nowMs += 2000;
    expect(budget.take({ rpcs: 0, bytes: 0 })).toBe(0);
    expect(budget.take({ rpcs: 1, bytes: 0 })).toBe(500);
  });

  it("counts octets as well, and never saves more than a burst", () => {
    const { clock, budget } = budgetAt();
    clock.nowMs += 3_600_000;
    expect(budget.take({ rpcs: 1, bytes: 10_000 })).toBe(0);
    expect(budget.take({ rpcs: 0, bytes: 500 })).toBe(500);
  });
});

type Seen = { oversized: number[]; floods: number; pauses: number };

async function governed(limits = LIMITS) {
  const { clock, budget } = budgetAt(limits);
  const [sender, receiver] = await streamPair();
  const seen: Seen = { oversized: [], floods: 0, pauses: 0 };
  let received = 0;
  let wake = (): void => {};
  budget.govern(receiver, {
    onOversized: (sizeBytes) => seen.oversized.push(sizeBytes),
    onFlood: () => {
      seen.floods += 1;
    },
  });
  for (const way of ["pause", "resume"] as const) {
    const original = receiver[way].bind(receiver);
    receiver[way] = () => {
      original();
      if (way === "pause") seen.pauses += 1;
      wake();
    };
  }
  receiver.addEventListener("message", ({ data }) => {
    received += data.byteLength;
    wake();
  });
  const until = async (isSo: () => boolean): Promise<void> => {
    while (!isSo()) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  return { clock, sender, receiver, seen, until, received: () => received };
}

/** A varint length of two octets, and that many octets. */
function rpc(sizeBytes: number): Uint8Array {
  return Uint8Array.from([0x80 | (sizeBytes & 0x7f), sizeBytes >> 7, ...new Uint8Array(sizeBytes)]);
}

describe("a governed stream", () => {
  it("of messages within their size is let through, however they are cut into pieces", async () => {
    const { sender, seen, until, received } = await governed();
    const octets = Uint8Array.from([...rpc(1000), ...rpc(300), ...rpc(128)]);
    for (let at = 0; at < octets.length; at += 7) sender.send(octets.subarray(at, at + 7));
    await until(() => received() === octets.length);
    expect(seen).toEqual({ oversized: [], floods: 0, pauses: 0 });
  });

  it("is found out by the length that it announces, before there is anything to hold", async () => {
    const { sender, seen, until } = await governed();
    sender.send(Uint8Array.from([...rpc(200), 0xff, 0xff, 0xff, 0xff, 0x0f]));
    await until(() => seen.oversized.length > 0);
    expect(seen.oversized).toEqual([0xffff_ffff]);
  });

  it("above its budget is not read for a while, and its peer is named when that does not end", async () => {
    const { clock, sender, receiver, seen, until } = await governed({
      ...LIMITS,
      burst: { rpcs: 10, bytes: 0 },
      perSecond: { rpcs: 1000, bytes: 1_000_000 },
      floodAfterMs: 1,
    });
    sender.send(rpc(900));
    await until(() => seen.pauses === 1);
    expect(seen.floods).toBe(0);
    await until(() => receiver.readStatus === "readable");
    // Less than it takes to make up for the first.
    clock.nowMs += 0.5;
    sender.send(rpc(900));
    await until(() => seen.pauses === 2);
    expect(seen).toEqual({ oversized: [], floods: 1, pauses: 2 });
  });
});
