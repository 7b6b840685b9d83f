import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Api, ApiHandlers } from "../../../node/control/api.ts";
import { ApiError } from "../../../node/control/errors.ts";
import {
  domainDetail,
  domainRow,
  historyRows,
  hopReport,
  hostRows,
  migratingRow,
  planRows,
  progress,
  replicaRows,
} from "../control/samples.ts";
import { startTestDaemon, type TestDaemon } from "../control/test-daemon.ts";
import { runSojourn, spawnSojourn } from "./run-sojourn.ts";

/** One daemon whose answers never change: for the commands that only look. */
let looking: TestDaemon;
beforeAll(async () => {
  looking = await startTestDaemon({
    list: () => [domainRow, migratingRow],
    show: () => domainDetail,
    plan: () => planRows,
    replicas: () => replicaRows,
    history: () => historyRows,
    hosts: () => hostRows,
  });
});
afterAll(() => looking[Symbol.asyncDispose]());

/** A table's lines without what pads them, as cells. */
function cellsOf(table: string): string[][] {
  return table
    .trimEnd()
    .split("\n")
    .map((line) => line.split(/ {2,}/).filter((cell) => cell !== ""));
}

describe("tables for people", () => {
  test("of domains say where each runs, what it has, and who could take it back", async () => {
    const { code, stdout, stderr } = await runSojourn(["list"], looking);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatchInlineSnapshot(`
      "NAME      STATE                          HOST   GEN  MEMORY  VBDS                    REPLICAS     SEEN BY
      web       running                        alpha    3   64MiB  root=4GiB, data=512MiB  beta:?:1MiB  alpha, now
      database  running, pre-copy 25% to beta  alpha    3   64MiB  root=4GiB, data=512MiB  -            beta, 3 s ago
      "
    `);
  });

  test("of hosts", async () => {
    const { stdout } = await runSojourn(["hosts"], looking);
    expect(stdout).toMatchInlineSnapshot(`
      "HOST               STATE    DOMAINS    FREE     RTT  SEEN BY          ADDRESS
      alpha (this host)  alive          1  512MiB       -  alpha, now       /ip4/127.0.0.1/tcp/7000/p2p/12D3KooWAlpha
      beta               suspect        -       -  1.5 ms  alpha, 12 s ago  -
      "
    `);
  });

  test("of a plan give each vbd a line, and a host that cannot take the domain the reason", async () => {
    const { stdout } = await runSojourn(["plan", "web"], looking);
    expect(stdout).toMatchInlineSnapshot(`
      "TO     TOTAL  VBD   RUNG     BLOCKS  BYTES  WHY
      beta    1MiB  root  bitmaps     256   1MiB  beta holds generation 2
                    data  hashes       10  40KiB  beta's copy was written by a stranger
      gamma         -     -             -      -  not reachable
      delta         -     -             -      -  no hypervisor wasm there
      "
    `);
  });

  test("of replicas", async () => {
    const { stdout } = await runSojourn(["replicas", "web"], looking);
    expect(stdout).toMatchInlineSnapshot(`
      "DOMAIN  HOST     GEN  BEHIND  ALLOCATED  SEEN BY
      web     beta  2 of 3    1MiB          -  alpha, now
      "
    `);
  });

  test("of a history", async () => {
    const { stdout } = await runSojourn(["history", "web"], looking);
    expect(stdout).toMatchInlineSnapshot(`
      "GEN  HOST   SINCE                 WRITTEN  HOW      SIGNED BY  RUNG     DISK SENT  DOWNTIME  TOTAL
        1  alpha  2026-01-02T03:04:05Z     2MiB  created  -          -                -         -      -
        2  beta   2026-01-02T04:04:05Z        -  -        -          bitmaps      12MiB     38 ms  2.4 s
      "
    `);
  });

  test("of one domain end with what is safe", async () => {
    const { stdout } = await runSojourn(["show", "web"], looking);
    expect(stdout).toMatchInlineSnapshot(`
      "web (6f0e0b8f-4a55-4c2f-9a3c-7e0d9b110b8f)
        state           running
        host            alpha
        generation      3
        hypervisor      wasm
        memory          64MiB
        vbd root        4GiB, 100MiB allocated, nbd, /srv/root.img
        vbd data        512MiB
        replicas        beta:?:1MiB
        last hop        from alpha, bitmaps, downtime 38 ms
        guest requests  12
        seen by         alpha, now

      web runs on alpha; beta's replica of generation 2 may be kept or dropped.
      "
    `);
  });

  test("of nothing are a heading", async () => {
    await using daemon = await startTestDaemon({ list: () => [] });
    const { code, stdout } = await runSojourn(["list"], daemon);
    expect(code).toBe(0);
    expect(cellsOf(stdout)).toEqual([
      ["NAME", "STATE", "HOST", "GEN", "MEMORY", "VBDS", "REPLICAS", "SEEN BY"],
    ]);
  });

  test("never pass on what would move a terminal's cursor", async () => {
    await using daemon = await startTestDaemon({
      list: () => [{ ...domainRow, name: "\u001b[2Jweb\u009b", hostName: "al\npha" }],
    });
    const { stdout } = await runSojourn(["list"], daemon);
    expect(cellsOf(stdout)[1]!.slice(0, 3)).toEqual(["?[2Jweb?", "running", "al?pha"]);
  });
});

describe("--json", () => {
  const asked: readonly [args: string[], answer: unknown][] = [
    [["list"], [domainRow, migratingRow]],
    [["show", "web"], domainDetail],
    [["plan", "web"], planRows],
    [["replicas"], replicaRows],
    [["history", "web"], historyRows],
    [["hosts"], hostRows],
  ];
  test.each(asked)("prints for %j exactly what the daemon said", async (args, answer) => {
    const { code, stdout, stderr } = await runSojourn([...args, "--json"], looking);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toEqual(answer);
  });

  test("prints a failure as one line on stderr", async () => {
    const body = {
      code: "NODE_NO_SUCH_DOMAIN",
      message: "no domain web",
      detail: { domain: "web" },
      exitCode: 1,
    };
    await using daemon = await startTestDaemon({ show: () => Promise.reject(new ApiError(body)) });
    const { code, stdout, stderr } = await runSojourn(["show", "web", "--json"], daemon);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(JSON.parse(stderr)).toEqual({ error: body });
  });
});

describe("create", () => {
  async function created(args: readonly string[], cwd?: string): Promise<Api["create"]["params"]> {
    const seen: Api["create"]["params"][] = [];
    await using daemon = await startTestDaemon({
      create: (params) => {
        seen.push(params);
        return { domain: "id-1", name: params.name, state: "running" };
      },
    });
    const options = { socketPath: daemon.socketPath, ...(cwd === undefined ? {} : { cwd }) };
    const outcome = await runSojourn(["create", ...args], options);
    expect(outcome).toEqual({ code: 0, stdout: `created ${args[0]} (id-1)\n`, stderr: "" });
    return seen[0]!;
  }

  test("asks for what the command line says, in bytes and absolute paths", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sojourn-cli-"));
    const params = await created(
      // One line of the user's, as the README writes it.
      "web --memory 64MiB --vbd root=4GiB --vbd data=./data.img --image base.img --workload web --seed 7 --fill 512MiB".split(
        " ",
      ),
      folder,
    );
    await rm(folder, { recursive: true });
    expect(params).toEqual({
      name: "web",
      hypervisor: "wasm",
      memoryBytes: 67_108_864,
      vbds: [
        { name: "root", sizeBytes: 4_294_967_296, image: join(folder, "base.img") },
        { name: "data", path: join(folder, "data.img") },
      ],
      config: '{"workload":"web","seed":7,"fillBytes":536870912}',
    });
  });

  test("asks for a flat copy of an image only where there is one", async () => {
    const params = await created(["web", "--memory", "64MiB", "--image", "/srv/web.qcow2", "--flatten"]);
    expect(params.vbds).toEqual([{ name: "root", image: "/srv/web.qcow2", flatten: true }]);
    const outcome = await runSojourn(["create", "web", "--memory", "64MiB", "--flatten"]);
    expect(outcome).toMatchObject({ code: 2, stderr: expect.stringContaining("--image") });
  });

  test("passes another adapter's settings on as they are", async () => {
    const params = await created([
      "vm",
      "--hypervisor",
      "xen",
      "--memory",
      "1GiB",
      "--config",
      '{"vcpus": 2}',
    ]);
    expect(params).toMatchObject({ hypervisor: "xen", vbds: [], config: '{"vcpus": 2}' });
  });
});

describe("a migration", () => {
  const migrate: ApiHandlers["migrate"] = (_, { emit }) => {
    emit(progress);
    emit({ ...progress, sentBytes: 50 << 20, connected: false });
    emit({ ...progress, sentBytes: 99 << 20, connected: false });
    emit({ ...progress, sentBytes: 100 << 20, phase: "post-copy", memoryBytes: 64 << 20 });
    return hopReport;
  };

  test("tells stderr of each change of phase and link, and stdout what it cost", async () => {
    await using daemon = await startTestDaemon({ migrate });
    const { code, stdout, stderr } = await runSojourn(["migrate", "web", "beta"], daemon);
    expect(code).toBe(0);
    expect(stderr).toMatchInlineSnapshot(`
      "web to beta: pre-copy 25%, disk 25MiB of 100MiB, 50MiB/s, dirty 1MiB/s, ETA 1.5 s
      web to beta: pre-copy 50%, disk 50MiB of 100MiB, link down, waiting for the peer
      web to beta: post-copy 100%, disk 100MiB of 100MiB, memory 64MiB, 50MiB/s, dirty 1MiB/s, ETA 1.5 s
      "
    `);
    expect(stdout).toMatchInlineSnapshot(`
      "web moved from alpha to beta: generation 2
        rung        bitmaps: beta holds generation 1
        disk        12MiB sent for 3072 changed blocks in 3 iterations, 17 blocks sent again; 2GiB allocated
        memory      64MiB sent
        post-copy   80 pushed, 3 pulled, 1 superseded
        downtime    38 ms
        disruption  120 ms
        total       2.4 s
        verified    yes
      "
    `);
  });

  test("with --json prints its report and nothing else", async () => {
    await using daemon = await startTestDaemon({ migrate });
    const { code, stdout, stderr } = await runSojourn(["migrate", "web", "beta", "--json"], daemon);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toEqual(hopReport);
  });

  test("takes its options along, and --live as what it is anyway", async () => {
    const seen: unknown[] = [];
    await using daemon = await startTestDaemon({
      migrate: (params) => {
        seen.push(params);
        return hopReport;
      },
    });
    await runSojourn(["migrate", "--live", "web", "beta", "--iterations", "5"], daemon);
    await runSojourn(["migrate", "web", "beta"], daemon);
    expect(seen).toEqual([
      { domain: "web", to: "beta", options: { iterationsMax: 5 } },
      { domain: "web", to: "beta", options: {} },
    ]);
  });

  test.each([1, 3, 4])("that fails with the daemon's exit code %i says so to the shell", async (exitCode) => {
    await using daemon = await startTestDaemon({
      migrate: () =>
        Promise.reject(
          new ApiError({ code: "NODE_TEST", message: "it went wrong", remedy: "run recover", exitCode }),
        ),
    });
    expect(await runSojourn(["migrate", "web", "beta"], daemon)).toEqual({
      code: exitCode,
      stdout: "",
      stderr: "sojourn: it went wrong (NODE_TEST)\n  remedy: run recover\n",
    });
  });

  test("whose vbds differ afterwards does not count as done", async () => {
    await using daemon = await startTestDaemon({ migrate: () => ({ ...hopReport, verified: false }) });
    const { code, stdout } = await runSojourn(["migrate", "web", "beta"], daemon);
    expect(code).toBe(3);
    expect(stdout).toContain("NO: the vbds differ");
  });

  test("whose daemon goes away is undecided", async () => {
    const entered = Promise.withResolvers<void>();
    await using daemon = await startTestDaemon({
      migrate: () => {
        entered.resolve();
        return new Promise(() => undefined);
      },
    });
    const run = runSojourn(["migrate", "web", "beta"], daemon);
    await entered.promise;
    await daemon.server.stop();
    const { code, stderr } = await run;
    expect(code).toBe(4);
    expect(stderr).toContain("journal");
  });

  test("goes on when Ctrl-C detaches its terminal, which is told how to cancel it", async () => {
    const calls: string[] = [];
    const gone = Promise.withResolvers<void>();
    await using daemon = await startTestDaemon({
      migrate: (_, { emit, signal }) => {
        signal.addEventListener("abort", () => gone.resolve());
        emit(progress);
        return new Promise(() => undefined);
      },
      cancel: ({ domain }) => {
        calls.push(domain);
        return { domain, name: domain, migration: "" };
      },
    });
    const child = spawnSojourn(["migrate", "web", "beta"], daemon);
    const closed = once(child, "close");
    const [first] = (await once(child.stderr, "data")) as [Buffer];
    expect(first.toString()).toMatch(/^web to beta: pre-copy/);
    child.kill("SIGINT");
    const rest = await text(child.stderr);
    expect(await closed).toEqual([130, null]);
    expect(rest).toContain("detached: the migration of web to beta goes on");
    expect(rest).toContain("sojourn cancel web");
    await gone.promise;
    expect(calls).toEqual([]);
  });

  test("with --detach returns once it is under way", async () => {
    await using daemon = await startTestDaemon({
      migrate: (_, { emit }) => {
        emit(progress);
        return new Promise(() => undefined);
      },
    });
    const { code, stderr } = await runSojourn(["migrate", "web", "beta", "--detach"], daemon);
    expect(code).toBe(0);
    expect(stderr).toContain("goes on");
  });
});

describe("one word to the daemon", () => {
  test.each([
    ["start", "started web\n"],
    ["stop", "stopped web\n"],
    ["destroy", "destroyed web\n"],
    ["cancel", "cancelled the migration of web: it stays where it is\n"],
  ] as const)("%s says what was done", async (verb, said) => {
    const asked: unknown[] = [];
    const handler = (params: { domain: string }) => {
      asked.push(params);
      return { domain: "id-1", name: params.domain, state: "running" as const, migration: "id-2" };
    };
    await using daemon = await startTestDaemon({ [verb]: handler });
    expect(await runSojourn([verb, "web"], daemon)).toEqual({ code: 0, stdout: said, stderr: "" });
    expect(asked).toEqual([{ domain: "web" }]);
  });

  test("verify exits with 1 when the guest found errors", async () => {
    const report = { domain: "id-1", name: "web", blocksChecked: 1000, pagesChecked: 1, durationMs: 1234 };
    const answers = [
      { ...report, ok: true, errors: 0 },
      { ...report, ok: false, errors: 2, detail: { block: 17 } },
    ];
    await using daemon = await startTestDaemon({ verify: () => answers.shift()! });
    expect(await runSojourn(["verify", "web"], daemon)).toEqual({
      code: 0,
      stdout: "web is whole: 1000 blocks and 1 page checked in 1.2 s\n",
      stderr: "",
    });
    expect(await runSojourn(["verify", "web"], daemon)).toEqual({
      code: 1,
      stdout: "web has 2 errors: 1000 blocks and 1 page checked in 1.2 s\n  block  17\n",
      stderr: "",
    });
  });
});

describe("a command line that cannot be", () => {
  const wrong: readonly [args: string[], complaint: RegExp][] = [
    [["migrat", "web", "beta"], /unknown command 'migrat'; Did you mean migrate\?/],
    [["list", "--jsno"], /unknown option '--jsno'; Did you mean --json\?/],
    [["migrate", "web"], /missing required argument 'host'/],
    [["list", "web"], /too many arguments/],
    [["create", "web", "--hypervisor", "qemu"], /--memory says how much the guest gets/],
    [["create", "--memory", "1MiB"], /the domain needs a name/],
    [["create", "web", "--memory", "much"], /argument 'much' is invalid. It must be a size/],
    [["create", "web", "--memory", "1MiB", "--vbd", "root"], /NAME=SIZE or NAME=PATH/],
    [["create", "web", "--memory", "1MiB", "--seed", "-1"], /argument '-1' is invalid/],
    [["create", "web", "--memory", "1MiB", "--config", "{}", "--workload", "web"], /cannot stand beside/],
    [["create", "web", "--memory", "1MiB", "--config", "{"], /--config is not JSON/],
    [["migrate", "web", "beta", "--iterations", "0"], /whole number from 1/],
  ];
  test.each(wrong)("%j is a usage error with a hint, and asks no daemon", async (args, complaint) => {
    const { code, stdout, stderr } = await runSojourn(args, { socketPath: "/nowhere/api.sock" });
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(complaint);
    expect(stderr).toMatch(/^sojourn: .* \(USAGE\)\n {2}remedy: see `sojourn .*--help`\n$/);
  });

  test("with nothing on it prints the help", async () => {
    const { code, stdout, stderr } = await runSojourn([]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain("Usage: sojourn");
  });

  test("asking for the help of no command prints what commands there are", async () => {
    const { code, stderr } = await runSojourn(["help", "migrat"]);
    expect(code).toBe(2);
    expect(stderr).toContain("Usage: sojourn");
    expect(stderr).toContain("sojourn: there is no such command (USAGE)");
  });

  test("that the daemon refuses is a usage error too", async () => {
    await using daemon = await startTestDaemon({});
    const { code, stderr } = await runSojourn(["create", "../web", "--memory", "1MiB"], daemon);
    expect(code).toBe(2);
    expect(stderr).toContain("CONTROL_BAD_PARAMS");
  });
});

describe("help", () => {
  test("of every command is short and has an example", async () => {
    const { code, stdout } = await runSojourn(["--help"]);
    expect(code).toBe(0);
    const commands = [...stdout.matchAll(/^ {2}([a-z][a-z-]+)(?:\|| )/gm)].map((match) => match[1]!);
    expect(commands.sort().join(" ")).toBe(
      "cancel create destroy doctor drain help history hosts init invite join leave list members migrate nbd-serve " +
        "plan recover repair replicas revoke rotate-secret setup show start stop undrain up verify watch",
    );
    for (const command of commands.filter((name) => name !== "help")) {
      const help = await runSojourn([command, "--help"]);
      expect(help.code, command).toBe(0);
      expect(help.stdout, command).toMatch(new RegExp(`Example:\n {2}sojourn ${command}`));
      expect(help.stdout.split("\n").length, command).toBeLessThan(45);
    }
  });

  test("--version prints the package's", async () => {
    expect(await runSojourn(["--version"])).toEqual({ code: 0, stdout: "0.1.0\n", stderr: "" });
  });
});

describe("without a daemon", () => {
  test("a command names the socket and the remedy", async () => {
    expect(await runSojourn(["list"], { socketPath: "/nowhere/api.sock" })).toEqual({
      code: 1,
      stdout: "",
      stderr:
        "sojourn: no daemon answers at /nowhere/api.sock (CONTROL_NO_DAEMON)\n" +
        "  remedy: start it with `sojourn up`, or name another socket with --address or SOJOURN_ADDR\n",
    });
  });

  test("--address is stronger than SOJOURN_ADDR", async () => {
    const { code } = await runSojourn(["list", "--address", looking.socketPath], { socketPath: "/nowhere" });
    expect(code).toBe(0);
  });
});
