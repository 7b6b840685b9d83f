/** A control server with the handlers that a test gives it, in a folder of its own. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ApiHandlers, ApiMethod } from "../../../node/control/api.ts";
import { ControlServer } from "../../../node/control/server.ts";

export type LogLine = { level: string; message: string; fields?: Record<string, unknown> };

export type TestDaemon = AsyncDisposable & {
  folder: string;
  socketPath: string;
  server: ControlServer;
  logged: readonly LogLine[];
};

/** A method that the test did not expect to be called says so to its caller. */
const METHODS: { [M in ApiMethod]: true } = {
  info: true,
  hosts: true,
  members: true,
  watch: true,
  leave: true,
  invite: true,
  join: true,
  revoke: true,
  "rotate-secret": true,
  create: true,
  start: true,
  stop: true,
  destroy: true,
  list: true,
  show: true,
  plan: true,
  migrate: true,
  cancel: true,
  recover: true,
  replicas: true,
  history: true,
  custody: true,
  verify: true,
  "arm-fault": true,
  "stop-daemon": true,
};

export function handlersOf(given: Partial<ApiHandlers>): ApiHandlers {
  const others = Object.keys(METHODS).map((method) => [
    method,
    () => Promise.reject(new Error(`the test has no handler for ${method}`)),
  ]);
  return { ...(Object.fromEntries(others) as ApiHandlers), ...given };
}

export async function startTestDaemon(handlers: Partial<ApiHandlers>): Promise<TestDaemon> {
  const folder = await mkdtemp(join(tmpdir(), "sojourn-control-"));
  const socketPath = join(folder, "run", "api.sock");
  const logged: LogLine[] = [];
  const write =
    (level: string) =>
    (message: string, fields: Record<string, unknown> = {}) =>
      void logged.push({ level, message, fields });
  const log = { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
  const server = new ControlServer({ handlers: handlersOf(handlers), log }, { socketPath });
  await server.start();
  return {
    folder,
    socketPath,
    server,
    logged,
    async [Symbol.asyncDispose]() {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
