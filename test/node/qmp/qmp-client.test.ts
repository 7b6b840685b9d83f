import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { QmpClient } from "../../../node/qmp/qmp-client.ts";
import { QmpConnections } from "../../../node/qmp/qmp-connections.ts";
import { hasQemu, type Qemu, QemuFolder } from "./qemu.ts";

let folder: QemuFolder;
beforeEach(() => {
  folder = new QemuFolder();
});
afterEach(() => folder.remove());

describe.skipIf(!hasQemu)("with a real QEMU", () => {
  let qemu: Qemu;
  let qmp: QmpClient;
  beforeEach(async () => {
    qemu = await folder.start();
    qmp = await QmpClient.connect(qemu.qmpPath);
  });
  afterEach(() => qmp.close());

  test("the greeting tells QEMU's version, as a query does", async () => {
    const { qemu: version } = await qmp.execute("query-version");
    expect(qmp.version).toEqual({ major: version.major, minor: version.minor, micro: version.micro });
    expect(qmp.version.major).toBeGreaterThan(5);
  });

  test("commands that are sent at once are answered each with its own", async () => {
    const [status, uuid, nodes] = await Promise.all([
      qmp.execute("query-status"),
      qmp.execute("query-uuid"),
      qmp.execute("query-named-block-nodes", { flat: true }),
    ]);
    expect(status.status).toBe("prelaunch");
    expect(uuid.UUID).toMatch(/^[0-9a-f-]{36}$/);
    expect(nodes).toEqual([]);
  });

  test("a refused command names itself and says QEMU's own words", async () => {
    await expect(qmp.execute("blockdev-del", { "node-name": "none-such" })).rejects.toMatchObject({
      code: "QMP_ERROR",
      detail: { command: "blockdev-del", class: "GenericError" },
      message: expect.stringContaining("none-such"),
    });
    expect((await qmp.execute("query-status")).running).toBe(false);
  });

  test("an event is seen by those who waited before the command, with its data", async () => {
    const resumed = qmp.nextEvent("RESUME");
    const seen: string[] = [];
    const remove = qmp.onEvent(({ event }) => seen.push(event));
    await qmp.execute("cont");
    expect((await resumed).timestampMs).toBeGreaterThan(1.7e12);
    const stopped = qmp.nextEvent("STOP");
    remove();
    await qmp.execute("stop");
    await stopped;
    expect(seen).toEqual(["RESUME"]);
  });

  test("a wait for an event ends with its signal", async () => {
    const controller = new AbortController();
    const waiting = qmp.nextEvent("RESUME", { signal: controller.signal });
    controller.abort(new Error("enough"));
    await expect(waiting).rejects.toThrow("enough");
  });

  test("QEMU's death rejects every command and every wait, and the commands after it", async () => {
    const lost = new Promise((resolve) => qmp.onLoss(resolve));
    const waiting = expect(qmp.nextEvent("STOP")).rejects.toMatchObject({ code: "QMP_CLOSED" });
    await qemu.kill();
    await waiting;
    await expect(lost).resolves.toMatchObject({ code: "QMP_CLOSED" });
    expect(qmp.isClosed).toBe(true);
    await expect(qmp.execute("query-status")).rejects.toMatchObject({
      code: "QMP_CLOSED",
      detail: { operation: "query-status", path: qemu.qmpPath },
    });
    await expect(QmpClient.connect(qemu.qmpPath)).rejects.toMatchObject({ code: "QMP_UNREACHABLE" });
  });

  test("a second client is told that the socket is held, and connects once the first has left", async () => {
    await expect(QmpClient.connect(qemu.qmpPath, { greetingTimeoutMs: 50 })).rejects.toMatchObject({
      code: "QMP_UNREACHABLE",
      message: expect.stringContaining("another client"),
    });
    qmp.close();
    const second = await QmpClient.connect(qemu.qmpPath);
    expect((await second.execute("query-status")).status).toBe("prelaunch");
    second.close();
  });
});

describe.skipIf(!hasQemu)("connections", () => {
  test("of one socket are shared, outlive each part's release, and are made anew after a loss", async () => {
    const qemu = await folder.start();
    const connections = new QmpConnections();
    const [first, second] = await Promise.all([
      connections.acquire(qemu.qmpPath),
      connections.acquire(qemu.qmpPath),
    ]);
    expect(first.client).toBe(second.client);
    first.release();
    first.release();
    expect((await second.client.execute("query-status")).status).toBe("prelaunch");
    second.client.close();
    const third = await connections.acquire(qemu.qmpPath);
    expect(third.client).not.toBe(second.client);
    second.release();
    expect(third.client.isClosed).toBe(false);
    third.release();
    expect(await new Promise((resolve) => third.client.onLoss(resolve))).toMatchObject({
      code: "QMP_CLOSED",
    });
  });

  test("that cannot be made are tried again by the next", async () => {
    const connections = new QmpConnections();
    const path = join(folder.path, "none");
    for (let attempt = 0; attempt < 2; attempt++) {
      await expect(connections.acquire(path)).rejects.toMatchObject({ code: "QMP_UNREACHABLE" });
    }
  });
});

describe("with a peer that does not keep to QMP", () => {
  const GREETING =
    '{"QMP": {"version": {"qemu": {"major": 9, "minor": 0, "micro": 1}}, "capabilities": []}}\n';
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
  });

  async function peer(serve: (socket: Socket) => void): Promise<string> {
    const path = join(folder.path, `peer-${servers.length}`);
    const server = createServer((socket) => {
      socket.on("error", () => {});
      serve(socket);
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return path;
  }

  test.each([
    ["says no JSON", "hello\n"],
    ["says a list", "[]\n"],
    ["answers nothing that was asked", '{"return": {}, "id": 99}\n'],
    ["refuses without naming what", '{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n'],
    ["sends a line without an end", "x".repeat(2000)],
  ])("the connection is refused when it %s", async (_what, words) => {
    const path = await peer((socket) => socket.write(words));
    await expect(QmpClient.connect(path, { lineSizeMax: 1000 })).rejects.toMatchObject({
      code: "QMP_BAD_PEER",
    });
  });

  test("a line that is too long later rejects what waits, with the reason", async () => {
    const path = await peer((socket) => {
      socket.write(GREETING);
      socket.once("data", () => {
        socket.write('{"return": {}, "id": 1}\n');
        socket.once("data", () => socket.write(`{"return": "${"x".repeat(2000)}`));
      });
    });
    const qmp = await QmpClient.connect(path, { lineSizeMax: 1000 });
    await expect(qmp.execute("query-status")).rejects.toMatchObject({
      code: "QMP_BAD_PEER",
      message: expect.stringContaining("1000"),
    });
  });

  test("lines that come in pieces, and several in one piece, are read whole", async () => {
    const path = await peer((socket) => {
      socket.write(GREETING.slice(0, 20));
      socket.once("data", () => {
        const event = '{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 500}}';
        socket.write('{"return": {}, "id": 1}\n');
        socket.once("data", () => socket.write(`${event}\n{"return": {}, "id": 2}\n`));
      });
      setImmediate(() => socket.write(GREETING.slice(20)));
    });
    const qmp = await QmpClient.connect(path);
    const stopped = qmp.nextEvent("STOP");
    expect(await qmp.execute("stop")).toEqual({});
    expect(await stopped).toEqual({ event: "STOP", data: {}, timestampMs: 1000.5 });
    qmp.close();
  });
});
