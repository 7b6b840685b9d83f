import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { StorageError } from "../../../storage/errors.ts";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { ExportRegistry } from "../../../storage/nbd/export-registry.ts";
import { ErrorBlockStore } from "../../../storage/nbd/filters/error.ts";
import {
  type NbdClientState,
  type NbdStateChange,
  ReconnectingNbdClient,
  type ReconnectingOptions,
} from "../../../storage/nbd/reconnecting-client.ts";
import { type NbdAddress, NbdServer } from "../../../storage/nbd/server.ts";
import { pattern } from "../../contract/block-store.contract.ts";
import { exportOf, GatedStore, serve, temporaryDirectory } from "./fixtures.ts";

type Watched = {
  client: ReconnectingNbdClient;
  changes: NbdStateChange[];
  until(state: NbdClientState, code?: string): Promise<void>;
};

function watched(address: NbdAddress, options: Partial<ReconnectingOptions> = {}): Watched {
  const changes: NbdStateChange[] = [];
  let wake = (): void => {};
  const onStateChange = (change: NbdStateChange): void => {
    changes.push(change);
    wake();
  };
  const client = new ReconnectingNbdClient(address, {
    exportName: "disk",
    backOffMs: 1,
    backOffMsMax: 5,
    onStateChange,
    ...options,
  });
  onTestFinished(() => client.close());
  const seen = (state: NbdClientState, code?: string): boolean =>
    changes.some((change) => change.state === state && (code === undefined || change.error?.code === code));
  const until = async (state: NbdClientState, code?: string): Promise<void> => {
    while (!seen(state, code)) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    changes.length = 0;
  };
  return { client, changes, until };
}

async function startServer(address: NbdAddress, store: GatedStore): Promise<NbdServer> {
  const exports = new ExportRegistry();
  exports.add(exportOf(store));
  const server = new NbdServer({ exports });
  await server.listen(address);
  onTestFinished(() => server.stop());
  return server;
}

it("waits for a server that does not listen yet, and issues then what was asked before", async () => {
  const address = { unixPath: join(await temporaryDirectory(), "late.sock") };
  const { client, until } = watched(address);
  const data = pattern(4096, 1);
  const done = Promise.all([client.write(0, data), client.read(0, 4096)]);
  await until("connecting", "NBD_CONNECTION_LOST");
  await startServer(address, new GatedStore({ sizeBytes: 1 << 20 }));
  expect(Buffer.compare((await done)[1], data)).toBe(0);
});

it("issues again, in order, what a dead server has not answered, and nothing else", async () => {
  const address = { unixPath: join(await temporaryDirectory(), "dies.sock") };
  const first = new GatedStore({ sizeBytes: 1 << 20 });
  first.gated = () => true;
  const dying = await startServer(address, first);
  const { client, until } = watched(address);
  await until("connected");
  const answered = client.read(8192, 1);
  await first.untilWaiting(1);
  first.release();
  await answered;
  const requests = [
    client.read(0, 512),
    client.write(512, pattern(512, 1)),
    client.trim(4096, 4096),
    client.flush(),
  ];
  await first.untilWaiting(2);
  const stopped = dying.stop();
  await until("connecting", "NBD_CONNECTION_LOST");
  first.release();
  await stopped;
  const second = new GatedStore({ sizeBytes: 1 << 20 });
  await startServer(address, second);
  await Promise.all(requests);
  expect(second.calls).toEqual(["read 0+512", "write 512+512", "trim 4096+4096", "flush"]);
  expect(client.unanswered).toEqual([]);
});

it("takes a removed export for a lost one, and goes on with the next of that name", async () => {
  const store = new GatedStore({ sizeBytes: 1 << 20 });
  const { address, exports } = await serve([exportOf(store)]);
  const { client, until } = watched(address);
  await until("connected");
  await exports.remove("disk");
  const read = client.read(0, 4096);
  await until("connecting", "NBD_EXPORT_UNKNOWN");
  exports.add(exportOf(store));
  expect(await read).toHaveLength(4096);
});

it("takes the refusal of a fenced store for a loss, and backs off until it is served", async () => {
  const memory = new MemoryBlockStore({ sizeBytes: 1 << 20 });
  const failure = () => new StorageError({ code: "STORAGE_FENCED", operation: "write" });
  const fenced = new ErrorBlockStore(memory, { seed: 1, rates: { write: 1 }, failure });
  const { address, exports } = await serve([exportOf(fenced)]);
  const { client, until } = watched(address);
  await until("connected");
  const written = client.write(0, pattern(4096, 1));
  await until("connecting", "NBD_REPLY_ERROR");
  await until("connecting", "NBD_REPLY_ERROR");
  await exports.remove("disk");
  exports.add(exportOf(memory));
  await written;
  const read = new Uint8Array(4096);
  memory.read(0, read);
  expect(Buffer.compare(read, pattern(4096, 1))).toBe(0);
});

it("tells any other error to the one who asked", async () => {
  const memory = new MemoryBlockStore({ sizeBytes: 1 << 20 });
  const failing = new ErrorBlockStore(memory, { seed: 1, rates: { read: 1 } });
  const { address } = await serve([exportOf(failing)]);
  const { client, changes } = watched(address);
  await expect(client.read(0, 4096)).rejects.toMatchObject({ code: "NBD_REPLY_ERROR", detail: { errno: 5 } });
  await client.write(0, pattern(4096, 1));
  expect(changes.map(({ state }) => state)).toEqual(["connected"]);
});

it("issues nothing to an export of another size", async () => {
  const small = new GatedStore({ sizeBytes: 1 << 20 });
  const { address, exports } = await serve([exportOf(small)]);
  const { client, until } = watched(address, { sizeBytes: 2 << 20 });
  const read = client.read(0, 512);
  await until("connecting", "NBD_SIZE_CHANGED");
  expect(small.calls).toEqual([]);
  await exports.remove("disk");
  exports.add(exportOf(new GatedStore({ sizeBytes: 2 << 20 })));
  expect(await read).toHaveLength(512);
});

it("quiesced, it waits for the answers to what is in flight and keeps the rest", async () => {
  const store = new GatedStore({ sizeBytes: 1 << 20 });
  store.gated = (operation) => operation === "read";
  const { address } = await serve([exportOf(store)]);
  const { client, until } = watched(address);
  await until("connected");
  const read = client.read(0, 512);
  await store.untilWaiting(1);
  const quiescing = client.quiesce();
  const flushed = client.flush();
  store.release();
  expect(await quiescing).toMatchObject([{ command: 3 }]);
  expect(await read).toHaveLength(512);
  expect(client.state).toBe("quiesced");
  expect(store.calls).toEqual(["read 0+512"]);
  client.resume();
  await flushed;
  expect(store.calls).toEqual(["read 0+512", "flush"]);
});

it("quiesced without patience, it drops the connection and names what has no answer", async () => {
  const store = new GatedStore({ sizeBytes: 1 << 20 });
  store.gated = () => true;
  const { address } = await serve([exportOf(store)]);
  const { client, until } = watched(address);
  await until("connected");
  const data = pattern(512, 1);
  const requests = [client.write(0, data).catch((error) => error), client.flush().catch((error) => error)];
  await store.untilWaiting(1);
  const unanswered = await client.quiesce({ signal: AbortSignal.abort() });
  expect(unanswered).toMatchObject([{ command: 1, offset: 0, length: 512, data }, { command: 3 }]);
  await client.close();
  for (const request of requests) expect(await request).toMatchObject({ code: "NBD_CLOSED" });
  store.gated = () => false;
  store.release();
});

it("closes while it is connecting, and answers nothing afterwards", async () => {
  const address = { unixPath: join(await temporaryDirectory(), "never.sock") };
  const { client, until } = watched(address);
  const read = client.read(0, 1).catch((error) => error);
  await until("connecting", "NBD_CONNECTION_LOST");
  await client.close();
  expect(await read).toMatchObject({ code: "NBD_CLOSED" });
  await expect(client.flush()).rejects.toMatchObject({ code: "NBD_CLOSED" });
  await expect(client.ready()).rejects.toMatchObject({ code: "NBD_CLOSED" });
});

it("quiesces although its export is suspended and says nothing", async () => {
  const store = new GatedStore({ sizeBytes: 1 << 20 });
  const { address, exports } = await serve([exportOf(store)]);
  const { client, until } = watched(address);
  await until("connected");
  await exports.suspend("disk");
  expect(await client.quiesce()).toEqual([]);
});
