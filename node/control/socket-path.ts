/** The control socket's path: what the system accepts, and where a client looks for it. */

import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { parseConfigText } from "../config-text.ts";
import { configFile } from "../data-folder.ts";
import { controlError } from "./errors.ts";

/** sun_path holds 108 bytes with its terminator on Linux; a longer path would be cut without a word. */
const SOCKET_PATH_SIZE_MAX = 107;

export function checkSocketPath(socketPath: string): void {
  const sizeBytes = Buffer.byteLength(socketPath);
  if (sizeBytes <= SOCKET_PATH_SIZE_MAX) return;
  throw controlError({
    code: "CONTROL_BAD_SOCKET_PATH",
    socketPath,
    reason: `it is ${sizeBytes} bytes long, and a unix socket's path may have ${SOCKET_PATH_SIZE_MAX}`,
  });
}

/** Root's daemon serves the machine; anybody else's serves its user. `SOJOURN_DATA` chooses otherwise. */
export function defaultDataDir(env: NodeJS.ProcessEnv = process.env): string {
  return env.SOJOURN_DATA || (process.getuid?.() === 0 ? "/var/lib/sojourn" : join(homedir(), ".sojourn"));
}

/** `address` (the command line's), else SOJOURN_ADDR, else what the data directory's configuration says. */
export function findSocketPath({
  address,
  env = process.env,
}: {
  address?: string;
  env?: NodeJS.ProcessEnv;
} = {}): string {
  const dataDir = defaultDataDir(env);
  return address || env.SOJOURN_ADDR || configuredSocketPath(dataDir) || join(dataDir, "api.sock");
}

/**
 * Reads that one key and judges nothing: checking the configuration is the daemon's, and a client must
 * start fast and reach a daemon whose configuration was edited wrongly after its start.
 */
function configuredSocketPath(dataDir: string): string | undefined {
  try {
    const config: unknown = parseConfigText(readFileSync(configFile(dataDir), "utf8"));
    const socketPath = (config as { api?: { socketPath?: unknown } } | null)?.api?.socketPath;
    return typeof socketPath === "string" && socketPath !== "" ? socketPath : undefined;
  } catch {
    return undefined;
  }
}
