/**
 * QEMU's own way of moving a guest together with its disks, as libvirt has it done: `blockdev-mirror` into the
 * destination's NBD server until both copies are equal, then `migrate`; the mirrors end while the guest stands still.
 * Both over TLS with a key that both ends know.
 */

import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { QmpClient } from "../../node/qmp/qmp-client.ts";
import { vbdNode } from "../../node/qmp/vbd-nodes.ts";
import { freePorts } from "../free-ports.ts";
import { DOWNTIME_LIMIT_MS, type PlainGuest, type PlainQemu, type PlainVbd } from "./plain-guest.ts";

export type WholeHop = { pauseMs: number; totalMs: number; diskBytes: number; memoryBytes: number };

const SERVER_KEY = "tls-server";
const CLIENT_KEY = "tls-client";
const KEY_USER = "bench";
const KEY_BYTES = 32;

/** Arguments of a QEMU that can be either end. */
export async function tlsArguments(folder: string): Promise<string[]> {
  await mkdir(folder);
  const key = randomBytes(KEY_BYTES).toString("hex");
  await writeFile(join(folder, "keys.psk"), `${KEY_USER}:${key}\n`, { mode: 0o600 });
  return [
    ...["-object", `tls-creds-psk,id=${SERVER_KEY},dir=${folder},endpoint=server`],
    ...["-object", `tls-creds-psk,id=${CLIENT_KEY},dir=${folder},endpoint=client,username=${KEY_USER}`],
  ];
}

/** `vbds`: files of the right size, which the guest will have there. */
export async function migrateWhole(guest: PlainGuest, vbds: readonly PlainVbd[]): Promise<WholeHop> {
  const begunMs = performance.now();
  const [nbdPort, migratePort] = await freePorts(2);
  const source = guest.current;
  const destination = await guest.launch("incoming", vbds, { waits: true });
  await listen(destination.client, { nbdPort: nbdPort!, migratePort: migratePort!, count: vbds.length });
  await mirror(source.client, { nbdPort: nbdPort!, count: vbds.length });
  const hop = await migrate({
    source,
    destination,
    nbdPort: nbdPort!,
    migratePort: migratePort!,
    count: vbds.length,
  });
  const totalMs = performance.now() - begunMs;
  await guest.moveTo(destination);
  return { ...hop, totalMs };
}

async function listen(
  client: QmpClient,
  { nbdPort, migratePort, count }: { nbdPort: number; migratePort: number; count: number },
): Promise<void> {
  const addr = { type: "inet", data: { host: "127.0.0.1", port: `${nbdPort}` } } as const;
  await client.execute("nbd-server-start", { addr, "tls-creds": SERVER_KEY });
  for (let index = 0; index < count; index++) {
    const node = vbdNode(index);
    await client.execute("block-export-add", {
      type: "nbd",
      id: `export-${node}`,
      "node-name": node,
      name: node,
      writable: true,
    });
  }
  await client.execute("migrate-set-parameters", { "tls-creds": SERVER_KEY });
  await client.execute("migrate-incoming", { uri: `tcp:127.0.0.1:${migratePort}` });
}

/** Resolves when every mirror has caught up with the guest. */
async function mirror(
  client: QmpClient,
  { nbdPort, count }: { nbdPort: number; count: number },
): Promise<void> {
  const nodes = Array.from({ length: count }, (_, index) => vbdNode(index));
  const ready = nodes.map((node) => jobIs(client, `mirror-${node}`, "ready"));
  for (const node of nodes) {
    await client.execute("blockdev-add", {
      driver: "nbd",
      "node-name": `${node}-there`,
      server: { type: "inet", host: "127.0.0.1", port: `${nbdPort}` },
      export: node,
      "tls-creds": CLIENT_KEY,
    });
    const target = `${node}-there`;
    await client.execute("blockdev-mirror", {
      "job-id": `mirror-${node}`,
      device: node,
      target,
      sync: "full",
    });
  }
  await Promise.all(ready);
}

async function migrate({
  source: { client },
  destination,
  nbdPort,
  migratePort,
  count,
}: {
  source: PlainQemu;
  destination: PlainQemu;
  nbdPort: number;
  migratePort: number;
  count: number;
}): Promise<Omit<WholeHop, "totalMs">> {
  const stopped = client.nextEvent("STOP");
  const capabilities = ["events", "pause-before-switchover"];
  await client.execute("migrate-set-capabilities", {
    capabilities: capabilities.map((capability) => ({ capability, state: true })),
  });
  await client.execute("migrate-set-parameters", {
    "max-bandwidth": 0,
    "downtime-limit": DOWNTIME_LIMIT_MS,
    "tls-creds": CLIENT_KEY,
  });
  const held = statusIs(client, "pre-switchover");
  const sent = statusIs(client, "completed");
  await destination.client.execute("migrate-set-capabilities", {
    capabilities: [{ capability: "events", state: true }],
  });
  const loaded = statusIs(destination.client, "completed");
  await client.execute("migrate", { uri: `tcp:127.0.0.1:${migratePort}` });
  await held;
  const ids = Array.from({ length: count }, (_, index) => `mirror-${vbdNode(index)}`);
  const over = ids.map((id) => jobIs(client, id, "null"));
  for (const id of ids) await client.execute("block-job-cancel", { device: id });
  await Promise.all(over);
  const diskBytes = await bytesSentTo(nbdPort);
  await client.execute("migrate-continue", { state: "pre-switchover" });
  await Promise.all([sent, loaded]);
  const resumed = destination.client.nextEvent("RESUME");
  await destination.client.execute("nbd-server-stop");
  await destination.client.execute("cont");
  const pauseMs = (await resumed).timestampMs - (await stopped).timestampMs;
  const { ram } = await client.execute("query-migrate");
  return { pauseMs, diskBytes, memoryBytes: ram?.transferred ?? Number.NaN };
}

async function jobIs(client: QmpClient, id: string, status: string): Promise<void> {
  const matches = (data: Readonly<Record<string, unknown>>): boolean =>
    data.id === id && data.status === status;
  await client.nextEvent("JOB_STATUS_CHANGE", { matches });
}

async function statusIs(client: QmpClient, status: string): Promise<void> {
  await client.nextEvent("MIGRATION", { matches: (data) => data.status === status });
}

/** By the open connections to that port of this machine, as the kernel counts them. */
async function bytesSentTo(port: number): Promise<number> {
  const { stdout } = await promisify(execFile)("ss", ["-tinH", "dst", `127.0.0.1:${port}`]);
  return [...stdout.matchAll(/bytes_sent:(\d+)/g)].reduce((sum, [, bytes]) => sum + Number(bytes), 0);
}
