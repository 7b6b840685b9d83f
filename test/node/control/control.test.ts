import { once } from "node:events";
import { mkdtemp, rename, rm, stat, writeFile } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import type { ApiHandlers, Progress } from "../../../node/control/api.ts";
import { ControlClient } from "../../../node/control/client.ts";
import { ApiError } from "../../../node/control/errors.ts";
import { ControlServer } from "../../../node/control/server.ts";
import { hopReport, hostInfo, progress } from "./samples.ts";
import { handlersOf, startTestDaemon } from "./test-daemon.ts";

const silentLog = { debug() {}, info() {}, warn() {}, error() {} };

function clientOf(daemon: { socketPath: string }): Promise<ControlClient> {
  return ControlClient.connect({ socketPath: daemon.socketPath });
}

/** Everything that the server says until it closes, one parsed line each. */
async function readToEnd(socket: Socket): Promise<unknown[]> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  // Closing on us with our bytes unread is what a server may do to a babbler.
  socket.on("error", () => undefined);
  if (!socket.closed) await once(socket, "close");
  const lines = Buffer.concat(chunks).toString().split("\n").filter(Boolean);
  return lines.map((line) => JSON.parse(line) as unknown);
}

describe("a call", () => {
  test("reaches its handler with its parameters and returns its result", async () => {
    await using daemon = await startTestDaemon({
      show: ({ domain }) => Promise.reject(new Error(domain)),
      start: ({ domain }) => ({ domain: "id-1", name: domain, state: "running" }),
    });
    const client = await clientOf(daemon);
    expect(await client.call("start", { domain: "web" })).toEqual({
      domain: "id-1",
      name: "web",
      state: "running",
    });
    await client.close();
  });

  test("shows its events in order before its result", async () => {
    await using daemon = await startTestDaemon({
      migrate: (_, { emit }) => {
        for (let iteration = 1; iteration <= 100; iteration++) emit({ ...progress, iteration });
        return hopReport;
      },
    });
    const client = await clientOf(daemon);
    const seen: number[] = [];
    const report = await client.call(
      "migrate",
      { domain: "web", to: "beta" },
      { onEvent: (event) => seen.push(event.iteration) },
    );
    expect(report).toEqual(hopReport);
    expect(seen).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
    await client.close();
  });

  test("is answered while an earlier one on the same connection still runs", async () => {
    const release = Promise.withResolvers<void>();
    await using daemon = await startTestDaemon({
      migrate: async () => {
        await release.promise;
        return hopReport;
      },
      info: () => hostInfo,
    });
    const client = await clientOf(daemon);
    const migration = client.call("migrate", { domain: "web", to: "beta" });
    expect(await client.call("info", {})).toEqual(hostInfo);
    release.resolve();
    expect(await migration).toEqual(hopReport);
    await client.close();
  });

  test("fails with the code, the facts, the remedy and the exit code of the handler's error", async () => {
    const body = {
      code: "NODE_NO_SUCH_DOMAIN",
      message: "no domain is called web",
      remedy: "see `sojourn list`",
      detail: { domain: "web" },
      exitCode: 1,
    };
    await using daemon = await startTestDaemon({ stop: () => Promise.reject(new ApiError(body)) });
    const client = await clientOf(daemon);
    const error = await client.call("stop", { domain: "web" }).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(ApiError);
    expect((error as ApiError).toBody()).toEqual(body);
    await client.close();
  });

  test("fails with its code also where its facts cannot be told as they are", async () => {
    const circle: { self?: unknown } = {};
    circle.self = circle;
    const details: Record<string, unknown>[] = [{ offset: 2n ** 60n, vbd: "root" }, circle];
    const body = { code: "NODE_TEST", message: "no", exitCode: 3 };
    await using daemon = await startTestDaemon({
      info: () => Promise.reject(new ApiError({ ...body, detail: details.shift()! })),
    });
    const client = await clientOf(daemon);
    for (const detail of [{ offset: "1152921504606846976", vbd: "root" }, {}]) {
      const error = await client.call("info", {}).catch((cause: unknown) => cause);
      expect((error as ApiError).toBody()).toEqual({ ...body, detail });
    }
    await client.close();
  });

  test("that fails by a fault of ours says so, and the log knows the whole error", async () => {
    const fault = new TypeError("undefined is not a domain");
    await using daemon = await startTestDaemon({
      info: () => {
        throw fault;
      },
    });
    const client = await clientOf(daemon);
    await expect(client.call("info", {})).rejects.toMatchObject({ code: "INTERNAL", exitCode: 1 });
    expect(daemon.logged).toEqual([
      { level: "error", message: "control handler failed", fields: { method: "info", error: fault } },
    ]);
    await client.close();
  });

  test("that its caller gives up is over for the caller, and the connection goes on", async () => {
    await using daemon = await startTestDaemon({
      migrate: () => new Promise(() => undefined),
      info: () => hostInfo,
    });
    const client = await clientOf(daemon);
    const leave = new AbortController();
    const call = client.call("migrate", { domain: "web", to: "beta" }, { signal: leave.signal });
    leave.abort(new Error("enough"));
    await expect(call).rejects.toThrow("enough");
    expect(await client.call("info", {})).toEqual(hostInfo);
    await client.close();
  });
});

describe("parameters", () => {
  const vbds = [{ name: "root", sizeBytes: 4096 }];
  const good = { name: "web", hypervisor: "wasm", memoryBytes: 65_536, vbds, config: "{}" };
  const refused: readonly [what: string, method: string, params: unknown, complaint: string][] = [
    ["an empty name", "show", { domain: "" }, "domain:"],
    ["an unknown key", "show", { domain: "web", force: true }, "force"],
    ["a number for a name", "show", { domain: 7 }, "domain:"],
    ["no parameters where one is needed", "show", undefined, "domain:"],
    ["a name that would leave its folder", "create", { ...good, name: "../web" }, "name:"],
    ["half a byte of memory", "create", { ...good, memoryBytes: 0.5 }, "memoryBytes:"],
    ["two vbds of one name", "create", { ...good, vbds: [...vbds, ...vbds] }, "two vbds"],
    ["a vbd of nothing", "create", { ...good, vbds: [{ name: "root" }] }, "vbds.0:"],
    ["a relative path", "create", { ...good, vbds: [{ name: "root", path: "disk" }] }, "vbds.0.path:"],
    ["a path and a size", "create", { ...good, vbds: [{ ...vbds[0], path: "/disk" }] }, "vbds.0:"],
    ["settings that are not JSON", "create", { ...good, config: "{" }, "config:"],
    ["no iteration", "migrate", { domain: "web", to: "b", options: { iterationsMax: 0 } }, "iterationsMax"],
  ];

  test.each(refused)("with %s are refused before the handler of %s", async (_, method, params, complaint) => {
    await using daemon = await startTestDaemon({});
    const client = await clientOf(daemon);
    const call = client.call(method as "show", params as { domain: string });
    await expect(call).rejects.toMatchObject({
      code: "CONTROL_BAD_PARAMS",
      message: expect.stringContaining(complaint),
      exitCode: 2,
    });
    expect(daemon.logged).toEqual([]);
    await client.close();
  });

  test("of a sound create reach the handler as they are", async () => {
    const created: unknown[] = [];
    await using daemon = await startTestDaemon({
      create: (params) => {
        created.push(params);
        return { domain: "id-1", name: params.name, state: "running" };
      },
    });
    const client = await clientOf(daemon);
    await client.call("create", good);
    expect(created).toEqual([good]);
    await client.close();
  });
});

describe("hostile input", () => {
  const hostile: readonly [what: string, bytes: string | Uint8Array, complaint: string][] = [
    ["text", "GET / HTTP/1.1\r\n", "not JSON"],
    ["bytes that are not UTF-8", Uint8Array.of(0x22, 0xff, 0x22, 0x0a), "not JSON"],
    ["an array", "[]\n", "not an object"],
    ["null", "null\n", "not an object"],
    ["a request without an id", '{"method":"info"}\n', "id is not"],
    ["an id that is not an integer", '{"id":1.5,"method":"info"}\n', "id is not"],
    ["a request without a method", '{"id":1}\n', "method is not"],
    ["a method of 65 characters", `{"id":1,"method":"${"x".repeat(65)}"}\n`, "longer than 64"],
    ["a line over 1 MiB", "x".repeat((1 << 20) + 1), "longer than 1048576"],
  ];

  test.each(hostile)("as %s is answered with one error and the end", async (_, bytes, complaint) => {
    await using daemon = await startTestDaemon({});
    const socket = connect(daemon.socketPath);
    socket.write(bytes);
    expect(await readToEnd(socket)).toEqual([
      {
        id: null,
        error: expect.objectContaining({
          code: "CONTROL_BAD_REQUEST",
          message: expect.stringContaining(complaint),
          exitCode: 2,
        }),
      },
    ]);
  });

  test.each(["constructor", "__proto__", "toString", "format-disks"])(
    "as the method %s is refused, and the connection goes on",
    async (method) => {
      await using daemon = await startTestDaemon({ info: () => hostInfo });
      const client = await clientOf(daemon);
      await expect(client.call(method as "info", {})).rejects.toMatchObject({
        code: "CONTROL_UNKNOWN_METHOD",
      });
      expect(await client.call("info", {})).toEqual(hostInfo);
      await client.close();
    },
  );

  test("in single bytes is put together to a request", async () => {
    await using daemon = await startTestDaemon({ info: () => hostInfo });
    const socket = connect(daemon.socketPath);
    await once(socket, "connect");
    for (const byte of Buffer.from('{"id":9,"method":"info"}\n')) {
      await new Promise<void>((resolve) => socket.write(Uint8Array.of(byte), () => resolve()));
    }
    const [answer] = (await once(socket, "data")) as [Buffer];
    expect(JSON.parse(answer.toString())).toEqual({ id: 9, result: hostInfo });
    socket.destroy();
  });

  test("as more requests at once than are held is refused for those that are too many", async () => {
    const release = Promise.withResolvers<void>();
    await using daemon = await startTestDaemon({
      info: async () => {
        await release.promise;
        return hostInfo;
      },
    });
    const client = await clientOf(daemon);
    const calls = Array.from({ length: 65 }, () => client.call("info", {}));
    await expect(calls[64]).rejects.toMatchObject({ code: "CONTROL_TOO_MANY_REQUESTS" });
    release.resolve();
    expect(await Promise.all(calls.slice(0, 64))).toHaveLength(64);
    await client.close();
  });

  test("from a reader that sleeps costs it events, never the result", async () => {
    const emitted = Promise.withResolvers<void>();
    const count = 40_000;
    await using daemon = await startTestDaemon({
      migrate: (_, { emit }) => {
        for (let iteration = 1; iteration <= count; iteration++) emit({ ...progress, iteration });
        emitted.resolve();
        return hopReport;
      },
    });
    const socket = connect(daemon.socketPath);
    socket.write('{"id":1,"method":"migrate","params":{"domain":"web","to":"beta"}}\n');
    await emitted.promise;
    let text = "";
    for await (const chunk of socket) {
      text += String(chunk);
      if (text.endsWith("\n") && text.includes('"result"')) break;
    }
    const lines = text.trimEnd().split("\n");
    expect(lines.length).toBeLessThan(count);
    expect(lines.length).toBeGreaterThan(100);
    expect(JSON.parse(lines.at(-1)!)).toEqual({ id: 1, result: hopReport });
  });
});

describe("a client that leaves", () => {
  test("aborts the signal of its handlers, and nobody else's", async () => {
    const signals: AbortSignal[] = [];
    const entered = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const migrate: ApiHandlers["migrate"] = (_, { signal }) => {
      entered[signals.push(signal) - 1]!.resolve();
      return new Promise(() => undefined);
    };
    await using daemon = await startTestDaemon({ migrate });
    const [leaving, staying] = [await clientOf(daemon), await clientOf(daemon)];
    const left = leaving.call("migrate", { domain: "web", to: "beta" }).catch((cause: unknown) => cause);
    await entered[0]!.promise;
    const stayed = staying.call("migrate", { domain: "db", to: "beta" }).catch((cause: unknown) => cause);
    await entered[1]!.promise;
    const aborted = once(signals[0]!, "abort");
    await leaving.close();
    await aborted;
    expect(await left).toMatchObject({ code: "CONTROL_CONNECTION_LOST", exitCode: 4 });
    expect(signals[1]!.aborted).toBe(false);
    await staying.close();
    await stayed;
  });

  test("leaves what its handler had started to go on", async () => {
    const entered = Promise.withResolvers<(event: Progress) => void>();
    const work = Promise.withResolvers<void>();
    const gone = Promise.withResolvers<void>();
    const finished = Promise.withResolvers<string>();
    await using daemon = await startTestDaemon({
      migrate: async (_, { emit, signal }) => {
        signal.addEventListener("abort", () => gone.resolve());
        entered.resolve(emit);
        await work.promise;
        finished.resolve("the migration is done");
        return hopReport;
      },
    });
    const client = await clientOf(daemon);
    const call = client.call("migrate", { domain: "web", to: "beta" }).catch(() => undefined);
    const emit = await entered.promise;
    await client.close();
    await gone.promise;
    emit(progress);
    work.resolve();
    expect(await finished.promise).toBe("the migration is done");
    await call;
  });
});

describe("a server", () => {
  test("lets only its owner in", async () => {
    await using daemon = await startTestDaemon({});
    expect((await stat(daemon.socketPath)).mode & 0o777).toBe(0o600);
    expect((await stat(dirname(daemon.socketPath))).mode & 0o777).toBe(0o700);
  });

  test("that stops answers who still waits, removes its socket, and may be stopped again", async () => {
    const entered = Promise.withResolvers<void>();
    await using daemon = await startTestDaemon({
      verify: () => {
        entered.resolve();
        return new Promise(() => undefined);
      },
    });
    const client = await clientOf(daemon);
    const call = client.call("verify", { domain: "web" }).catch((cause: unknown) => cause);
    await entered.promise;
    await Promise.all([daemon.server.stop(), daemon.server.stop()]);
    expect(await call).toMatchObject({ code: "CONTROL_STOPPING" });
    await expect(stat(daemon.socketPath)).rejects.toMatchObject({ code: "ENOENT" });
    await expect(client.call("info", {})).rejects.toMatchObject({ code: "CONTROL_CONNECTION_LOST" });
  });

  test("that was never started stops at once", async () => {
    const server = new ControlServer(
      { handlers: handlersOf({}), log: silentLog },
      { socketPath: "/nowhere/api.sock" },
    );
    await expect(server.stop()).resolves.toBeUndefined();
  });

  test("starts once however often it is asked", async () => {
    await using daemon = await startTestDaemon({ info: () => hostInfo });
    await daemon.server.start();
    const client = await clientOf(daemon);
    expect(await client.call("info", {})).toEqual(hostInfo);
    await client.close();
  });

  test("takes over the socket of a daemon that is dead", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sojourn-control-"));
    const socketPath = join(folder, "api.sock");
    // Node removes a listener's file when it closes: bound elsewhere and moved, it stays as after a crash.
    const dead = createServer();
    dead.listen(join(folder, "dead.sock"));
    await once(dead, "listening");
    await rename(join(folder, "dead.sock"), socketPath);
    dead.close();
    await once(dead, "close");
    expect((await stat(socketPath)).isSocket()).toBe(true);

    const server = new ControlServer(
      { handlers: handlersOf({ info: () => hostInfo }), log: silentLog },
      { socketPath },
    );
    await server.start();
    const client = await ControlClient.connect({ socketPath });
    expect(await client.call("info", {})).toEqual(hostInfo);
    await client.close();
    await server.stop();
    await rm(folder, { recursive: true });
  });

  test("refuses to start where another daemon answers, and leaves that one alone", async () => {
    await using daemon = await startTestDaemon({ info: () => hostInfo });
    const second = new ControlServer(
      { handlers: handlersOf({}), log: silentLog },
      { socketPath: daemon.socketPath },
    );
    await expect(second.start()).rejects.toMatchObject({
      code: "CONTROL_SOCKET_IN_USE",
      message: expect.stringContaining("another daemon answers"),
    });
    await second.stop();
    const client = await clientOf(daemon);
    expect(await client.call("info", {})).toEqual(hostInfo);
    await client.close();
  });

  test("does not remove a file that is no socket", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sojourn-control-"));
    const socketPath = join(folder, "precious");
    await writeFile(socketPath, "data");
    const server = new ControlServer({ handlers: handlersOf({}), log: silentLog }, { socketPath });
    await expect(server.start()).rejects.toMatchObject({ code: "CONTROL_BAD_SOCKET_PATH" });
    expect((await stat(socketPath)).size).toBe(4);
    await rm(folder, { recursive: true });
  });

  test("refuses a path that the system would cut", async () => {
    const socketPath = `/tmp/${"x".repeat(103)}`;
    const server = new ControlServer({ handlers: handlersOf({}), log: silentLog }, { socketPath });
    await expect(server.start()).rejects.toMatchObject({
      code: "CONTROL_BAD_SOCKET_PATH",
      message: expect.stringContaining("108 bytes"),
    });
  });
});

describe("a client", () => {
  test("without a daemon names the socket and the remedy", async () => {
    const socketPath = join(tmpdir(), "sojourn-nobody.sock");
    await expect(ControlClient.connect({ socketPath })).rejects.toMatchObject({
      code: "CONTROL_NO_DAEMON",
      message: expect.stringContaining(socketPath),
      remedy: expect.stringContaining("sojourn up"),
    });
  });

  test("whose daemon talks nonsense ends its calls with a clear error", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sojourn-control-"));
    const socketPath = join(folder, "api.sock");
    const liar = createServer((socket) => void socket.end("what?\n"));
    liar.listen(socketPath);
    await once(liar, "listening");
    const client = await ControlClient.connect({ socketPath });
    await expect(client.call("info", {})).rejects.toMatchObject({ code: "CONTROL_BAD_RESPONSE" });
    await client.close();
    liar.close();
    await rm(folder, { recursive: true });
  });
});
