import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterEach, expect, test, vi } from "vitest";
import { FAULT_EXIT_CODE, FAULT_POINTS, FaultPoints, parseFault } from "../../node/fault-points.ts";

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  vi.useRealTimers();
});

async function runChild(fault: string, args: readonly string[] = []) {
  const script = join(import.meta.dirname, "fault-points.child.ts");
  const env = { ...process.env, SOJOURN_FAULT: fault };
  const child = spawn(process.execPath, [script, ...args], { env, stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  const [output, [code, signal]] = await Promise.all([text(child.stdout), once(child, "exit")]);
  return { lines: output.trimEnd().split("\n"), code, signal };
}

test("an armed kill ends the process at the point, the nth time", async () => {
  expect(await runChild("source-frozen")).toEqual({ lines: ["1"], code: null, signal: "SIGKILL" });
  expect(await runChild("source-frozen:kill:3")).toEqual({
    lines: ["1", "2", "3"],
    code: null,
    signal: "SIGKILL",
  });
});

test("a kill takes the daemon's other processes along, and one that is gone does not matter", async () => {
  const bystander = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  children.push(bystander);
  const gone = spawn(process.execPath, ["-e", ""], { stdio: "ignore" });
  await once(gone, "exit");
  const died = once(bystander, "exit");
  const { signal } = await runChild("source-frozen:kill", [
    String(gone.pid),
    "0",
    "-1",
    String(bystander.pid),
  ]);
  expect(signal).toBe("SIGKILL");
  expect(await died).toEqual([null, "SIGKILL"]);
});

test("an armed exit ends the process with its own code", async () => {
  expect(await runChild("source-precopy:kill,source-frozen:exit:2")).toEqual({
    lines: ["1", "2"],
    code: FAULT_EXIT_CODE,
    signal: null,
  });
});

test("an armed throw fails once, and the point is harmless afterwards", async () => {
  const onFault = vi.fn();
  const faults = new FaultPoints({ enabled: true, onFault });
  faults.arm("destination-resumed:throw:2");
  expect(faults.point("destination-resumed")).toBeUndefined();
  expect(onFault).not.toHaveBeenCalled();
  await expect(faults.point("destination-resumed")).rejects.toMatchObject({
    code: "FAULT_INJECTED",
    message: expect.stringContaining("destination-resumed"),
  });
  expect(onFault).toHaveBeenCalledExactlyOnceWith({
    point: "destination-resumed",
    action: { type: "throw" },
    nth: 2,
  });
  expect(faults.point("destination-resumed")).toBeUndefined();
  expect(faults.armed()).toEqual([]);
});

test("an armed stall holds the point for its time and no longer", async () => {
  vi.useFakeTimers();
  const faults = new FaultPoints({ enabled: true });
  faults.arm("source-postcopy:stall:500");
  const done = vi.fn();
  const stalled = faults.point("source-postcopy")!.then(done);
  await vi.advanceTimersByTimeAsync(499);
  expect(done).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(1);
  expect(done).toHaveBeenCalledOnce();
  await stalled;
});

test("nth counts from the arming on", async () => {
  const faults = new FaultPoints({ enabled: true });
  faults.point("source-frozen");
  faults.point("source-frozen");
  faults.arm("source-frozen:throw:2");
  expect(faults.point("source-frozen")).toBeUndefined();
  await expect(faults.point("source-frozen")).rejects.toMatchObject({ code: "FAULT_INJECTED" });
});

test("a released point does nothing, and who stalls there goes on", async () => {
  const faults = new FaultPoints({ enabled: true });
  faults.arm("source-frozen:stall:100000");
  const stalled = faults.point("source-frozen");
  faults.arm("source-frozen:throw");
  expect(faults.armed()).toEqual([{ point: "source-frozen", action: { type: "throw" }, nth: 1 }]);
  faults.arm("source-frozen:release");
  await stalled;
  expect(faults.armed()).toEqual([]);
  expect(faults.point("source-frozen")).toBeUndefined();
});

test("a host that does not allow faults cannot be armed, by call or by environment", () => {
  const refused = expect.objectContaining({ code: "FAULTS_DISABLED" });
  const faults = new FaultPoints({ enabled: false });
  expect(() => faults.arm("source-frozen")).toThrow(refused);
  expect(() => FaultPoints.fromEnvironment({ SOJOURN_FAULT: "source-frozen" }, { enabled: false })).toThrow(
    refused,
  );
  expect(FaultPoints.fromEnvironment({ SOJOURN_FAULT: "" }, { enabled: false }).armed()).toEqual([]);
  expect(faults.point("source-frozen")).toBeUndefined();
});

test("a fault is read as it is written", () => {
  expect(parseFault("source-frozen")).toEqual({ point: "source-frozen", action: { type: "kill" }, nth: 1 });
  expect(parseFault("source-frozen:stall:250:4")).toEqual({
    point: "source-frozen",
    action: { type: "stall", ms: 250 },
    nth: 4,
  });
});

test.each([
  "",
  "nowhere",
  "toString",
  "source-frozen:",
  "source-frozen:explode",
  "source-frozen:kill:0",
  "source-frozen:kill:x",
  "source-frozen:kill:1:2",
  "source-frozen:stall",
  "source-frozen:stall:-1",
  "source-frozen:stall:1e99",
  "source-frozen,,",
])("%j is no fault, and nothing is armed", (spec) => {
  const faults = new FaultPoints({ enabled: true });
  expect(() => faults.arm(`source-precopy,${spec}`)).toThrow(expect.objectContaining({ code: "USAGE" }));
  expect(faults.armed()).toEqual([]);
});

test("every point says what has happened when it is reached", () => {
  for (const [name, meaning] of Object.entries(FAULT_POINTS)) {
    expect(name).toMatch(/^(source(-[a-z]+)+|destination(-[a-z]+)+|restoring)$/);
    expect(meaning.length).toBeGreaterThan(20);
  }
});
