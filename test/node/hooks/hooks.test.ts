import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type HookFacts, Hooks } from "../../../node/hooks/hooks.ts";
import { createLog } from "../../../node/log.ts";
import { until } from "../../../testnet/waiting.ts";

const FACTS: HookFacts = {
  domain: "6f9619ff-8b86-4d01-b42d-00c04fc964ff",
  name: "web",
  migration: "m1",
  from: "alpha",
  to: "beta",
  generation: 4,
};

describe("a hook", () => {
  let folder: string;
  let lines: string[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "sojourn-hooks-"));
    lines = [];
  });

  afterEach(() => rm(folder, { recursive: true, force: true }));

  function hooks(timeoutMs = 20_000): Hooks {
    return new Hooks(createLog({ level: "info", sink: (line) => lines.push(line) }), { folder, timeoutMs });
  }

  async function install(hook: string, script: string, mode = 0o755): Promise<void> {
    await writeFile(join(folder, hook), `#!/bin/sh\n${script}\n`);
    await chmod(join(folder, hook), mode);
  }

  it("that is not there changes nothing, and nothing is said of it", async () => {
    expect(await hooks().run("pre-migrate", FACTS)).toEqual({ outcome: "absent" });
    expect(lines).toEqual([]);
  });

  it("gets the facts as one JSON object on stdin", async () => {
    await install("post-resume", `cat > ${folder}/got`);
    expect(await hooks().run("post-resume", FACTS)).toEqual({ outcome: "done" });
    const got: unknown = JSON.parse(await readFile(join(folder, "got"), "utf8"));
    expect(got).toEqual({ hook: "post-resume", ...FACTS });
  });

  it("that does not read them is done all the same", async () => {
    await install("post-migrate", "exit 0");
    expect(await hooks().run("post-migrate", FACTS)).toEqual({ outcome: "done" });
  });

  it("is logged with what it printed", async () => {
    await install("pre-freeze", "echo the tunnel is up; echo really >&2");
    await hooks().run("pre-freeze", FACTS);
    expect(lines.join()).toContain("the tunnel is up");
    expect(lines.join()).toContain("really");
  });

  it("that fails is reported with its exit code", async () => {
    await install("pre-migrate", "echo no route; exit 3");
    const result = await hooks().run("pre-migrate", FACTS);
    expect(result).toEqual({ outcome: "failed", reason: "it ended with exit code 3" });
    expect(lines.join()).toContain("no route");
  });

  it("that cannot be executed is reported", async () => {
    await install("failed", "exit 0", 0o644);
    const result = await hooks().run("failed", { ...FACTS, reason: "cancelled" });
    expect(result).toMatchObject({ outcome: "failed", reason: expect.stringContaining("EACCES") });
  });

  it("that hangs is ended after its time, with what it started", async () => {
    await install("pre-freeze", `sleep 1000 & echo $! > ${folder}/child; wait`);
    const result = await hooks(2000).run("pre-freeze", FACTS);
    expect(result).toEqual({ outcome: "failed", reason: "it did not end within 2000 ms" });
    const child = Number(await readFile(join(folder, "child"), "utf8"));
    await until("what the hook started is dead, or a zombie that nobody has waited for", async () => {
      const stat = await readFile(`/proc/${child}/stat`, "latin1").catch(() => "x (x) X");
      return /^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2)) ? true : undefined;
    });
  });

  it("may print as much as it likes, and little of it is kept", async () => {
    await install("post-migrate", "head -c 1000000 /dev/zero | tr '\\0' x");
    expect(await hooks().run("post-migrate", FACTS)).toEqual({ outcome: "done" });
    expect(lines.join().length).toBeLessThan(10_000);
  });
});
