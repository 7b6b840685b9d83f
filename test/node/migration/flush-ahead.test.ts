import { expect, it } from "vitest";
import { FlushAhead } from "../../../node/migration/flush-ahead.ts";

const never = new AbortController().signal;

it("flushes one at a time, again and again until the domain is frozen", async () => {
  let open = 0;
  let most = 0;
  let count = 0;
  const frozen = Promise.withResolvers<void>();
  const ahead = new FlushAhead(async () => {
    most = Math.max(most, ++open);
    await Promise.resolve();
    open -= 1;
    if (++count === 3) frozen.resolve();
  });
  await Promise.all([ahead.once(), ahead.once()]);
  expect(count).toBe(1);
  await ahead.until(frozen.promise, never);
  expect(count).toBe(3);
  expect(most).toBe(1);
});

it("ends with a freeze that fails, and flushes no more where that failed: the fence says so", async () => {
  const refused = Promise.reject(new Error("thawed"));
  refused.catch(() => undefined);
  let count = 0;
  await new FlushAhead(async () => void (count += 1)).until(refused, never);
  expect(count).toBeLessThanOrEqual(1);
  const failing = new FlushAhead(async () => {
    count = 100;
    throw new Error("no space");
  });
  await failing.until(new Promise(() => undefined), never);
  await failing.once();
  expect(count).toBe(100);
});
