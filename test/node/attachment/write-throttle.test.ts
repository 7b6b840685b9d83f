import { expect, test } from "vitest";
import { ThrottledStore, WriteThrottle } from "../../../node/attachment/write-throttle.ts";
import type { Clock } from "../../../node/clock.ts";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { blockStoreContract } from "../../contract/block-store.contract.ts";

const MIB = 1 << 20;

/** Time that passes only when the test says so. */
class TestClock implements Clock {
  ms = 1000;
  nowMs(): number {
    return this.ms;
  }
  wallMs(): number {
    return this.ms;
  }
}

function throttled(clock: Clock): {
  store: ThrottledStore;
  inner: MemoryBlockStore;
  throttle: WriteThrottle;
} {
  const throttle = new WriteThrottle(clock);
  const inner = new MemoryBlockStore({ sizeBytes: 16 * MIB });
  return { store: new ThrottledStore(inner, throttle), inner, throttle };
}

blockStoreContract("throttled", async ({ sizeBytes }) => {
  const throttle = new WriteThrottle(new TestClock());
  return new ThrottledStore(new MemoryBlockStore({ sizeBytes }), throttle);
});

test("the limit is the share of the rate that was measured", async () => {
  const clock = new TestClock();
  const { store, throttle } = throttled(clock);
  await store.write(0, new Uint8Array(MIB));
  throttle.startMeasuring();
  for (let index = 0; index < 8; index++) await store.write(index * MIB, new Uint8Array(MIB));
  clock.ms += 2000;
  throttle.limitTo(0.25);
  expect(throttle.bytesPerSecond).toBe(MIB);
  clock.ms += 60_000;
  throttle.limitTo(0.125);
  expect(throttle.bytesPerSecond).toBe(MIB / 2);
});

test("a write beyond the limit has landed and waits for its answer, which lifting the limit gives", async () => {
  const clock = new TestClock();
  const { store, inner, throttle } = throttled(clock);
  await store.write(0, new Uint8Array(MIB));
  clock.ms += 1000;
  throttle.limitTo(0.5);
  expect(store.write(MIB, new Uint8Array(MIB))).toBeUndefined();
  let isAnswered = false;
  const answer = Promise.resolve(store.write(0, new Uint8Array(MIB).fill(7))).then(() => {
    isAnswered = true;
  });
  const read = new Uint8Array(1);
  await inner.read(0, read);
  expect(read[0]).toBe(7);
  await new Promise((resolve) => setImmediate(resolve));
  expect(isAnswered).toBe(false);
  throttle.lift();
  await answer;
  expect(throttle.bytesPerSecond).toBeUndefined();
});

test("writes under the limit wait for nothing", () => {
  const clock = new TestClock();
  const { store, throttle } = throttled(clock);
  store.write(0, new Uint8Array(MIB));
  clock.ms += 1000;
  throttle.limitTo(0.5);
  for (let second = 0; second < 4; second++) {
    clock.ms += 1000;
    expect(store.write(0, new Uint8Array(MIB / 2))).toBeUndefined();
  }
});

test("a domain that wrote nothing has no rate to take a share of", () => {
  const clock = new TestClock();
  const { throttle } = throttled(clock);
  clock.ms += 1000;
  throttle.limitTo(0.5);
  expect(throttle.bytesPerSecond).toBeUndefined();
});
