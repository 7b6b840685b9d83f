import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createLog, fileSink, type LogLevel, NO_LOG } from "../../node/log.ts";

function collecting(level: LogLevel) {
  const lines: string[] = [];
  const log = createLog({ level, sink: (line) => lines.push(line), now: () => new Date(0) });
  return { log, lines, parsed: () => lines.map((line) => JSON.parse(line)) };
}

test("a line is one JSON object with time, level, message and the fields", () => {
  const { log, lines, parsed } = collecting("info");
  log.info("phase changed", { migration: "m", from: "precopy", to: "frozen" });
  expect(lines[0]).toMatch(
    /^\{"time":"1970-01-01T00:00:00.000Z","level":"info","message":"phase changed",.*\}\n$/,
  );
  expect(parsed()).toEqual([
    {
      time: "1970-01-01T00:00:00.000Z",
      level: "info",
      message: "phase changed",
      migration: "m",
      from: "precopy",
      to: "frozen",
    },
  ]);
});

test.each([
  ["error", ["error"]],
  ["warn", ["error", "warn"]],
  ["info", ["error", "warn", "info"]],
  ["debug", ["error", "warn", "info", "debug"]],
] as const)("a log of level %s writes %j", (level, written) => {
  const { log, parsed } = collecting(level);
  for (const each of ["error", "warn", "info", "debug"] as const) log[each]("x");
  expect(parsed().map((line) => line.level)).toEqual(written);
  expect(log.enabled("debug")).toBe(level === "debug");
});

test("a child adds its fields to every line, and a line's own go over them", () => {
  const { log, parsed } = collecting("info");
  const child = log.child({ domain: "web", phase: "a" }).child({ host: "b" });
  child.warn("x", { phase: "c" });
  log.warn("y");
  expect(parsed()[0]).toMatchObject({ domain: "web", host: "b", phase: "c" });
  expect(parsed()[1]).not.toHaveProperty("domain");
});

test("no field takes the place of time, level or message", () => {
  const { log, parsed } = collecting("info");
  log.error("true", { level: "debug", message: "false", time: 1 });
  expect(parsed()).toEqual([{ time: "1970-01-01T00:00:00.000Z", level: "error", message: "true" }]);
});

test("bytes are counted and never shown", () => {
  const { log, lines, parsed } = collecting("info");
  log.info("x", { body: new TextEncoder().encode("secret"), nested: { view: Buffer.from("secret") } });
  expect(parsed()[0]).toMatchObject({ body: { bytes: 6 }, nested: { view: { bytes: 6 } } });
  expect(lines[0]).not.toContain("secret");
});

test("an error is written with its code, its stack and its causes", () => {
  const { log, parsed } = collecting("info");
  const cause = Object.assign(new Error("inner"), { code: "EIO" });
  log.error("x", { error: new Error("outer", { cause }) });
  expect(parsed()[0].error).toMatchObject({
    name: "Error",
    message: "outer",
    cause: { code: "EIO", message: "inner" },
  });
  expect(parsed()[0].error.stack).toContain("log.test.ts");
});

test("whatever the fields are, the line is one line of JSON", () => {
  const { log, lines, parsed } = collecting("info");
  const circle: Record<string, unknown> = { name: "a\nb\u001b[31m" };
  circle.self = circle;
  const shared = { n: 1 };
  const ownCause = new Error("round and round");
  ownCause.cause = ownCause;
  log.info("x", {
    circle,
    big: 2n ** 70n,
    map: new Map([["k", new Set([1])]]),
    left: shared,
    right: shared,
    ownCause,
  });
  log.info("y", {
    bad: {
      toJSON: () => {
        throw new Error("no");
      },
    },
  });
  expect(lines.map((line) => line.indexOf("\n"))).toEqual(lines.map((line) => line.length - 1));
  expect(lines[0]).not.toContain("\u001b");
  expect(parsed()[0]).toMatchObject({
    circle: { self: "[circular]" },
    big: "1180591620717411303424",
    map: { k: [1] },
    left: { n: 1 },
    ownCause: { message: "round and round", cause: "[circular]" },
    right: { n: 1 },
  });
  expect(parsed()[1]).toMatchObject({ message: "y", unloggable: "Error: no" });
});

test("a file sink appends, is closed with all lines written, and only its owner reads it", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sojourn-log-"));
  const file = join(folder, "daemon.log");
  for (let run = 0; run < 2; run++) {
    const { sink, close } = fileSink(file);
    const log = createLog({ level: "info", sink });
    for (let n = 0; n < 500; n++) log.info("line", { run, n });
    await close();
  }
  const lines = (await readFile(file, "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(lines.map(({ run, n }) => run * 500 + n)).toEqual(Array.from({ length: 1000 }, (_, n) => n));
  expect((await stat(file)).mode & 0o077).toBe(0);
  await rm(folder, { recursive: true });
});

test("a file sink that cannot write does not end the process, and says so when closed", async () => {
  const { sink, close } = fileSink("/dev/null/not-a-folder/daemon.log");
  sink("lost\n");
  await expect(close()).rejects.toThrow("ENOTDIR");
});

test("NO_LOG writes nothing and has nothing enabled", () => {
  expect(NO_LOG.child({ a: 1 })).toBe(NO_LOG);
  expect(NO_LOG.enabled("error")).toBe(false);
});
