import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { PhaseNews } from "../../../node/migration/phase-news.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it("is told at once of a phase in which nobody waits, and of the handover's phases only when one lasts", () => {
  let told = 0;
  const news = new PhaseNews(() => {
    told += 1;
  });
  news.tell("receiving");
  expect(told).toBe(1);
  for (const phase of ["loading", "prepared", "resuming"]) news.tell(phase);
  expect(told).toBe(1);
  news.tell("post-copy");
  expect(told).toBe(2);
  vi.runAllTimers();
  expect(told).toBe(2);
  news.tell("handing-over");
  vi.runAllTimers();
  expect(told).toBe(3);
});
