/** Ports of 127.0.0.1 that nobody listens on. */

import { randomInt } from "node:crypto";
import { createServer } from "node:net";

/** Below what Linux gives to outgoing connections: there a port that was free may be taken a moment later. */
const FIRST = 20_000;
const LAST = 32_000;
const TRIES_MAX = 1000;

export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  for (let left = TRIES_MAX; ports.size < count; left--) {
    if (left === 0) throw new Error(`no ${count} ports from ${FIRST} to ${LAST} are free on 127.0.0.1`);
    const port = randomInt(FIRST, LAST);
    if (!ports.has(port) && (await isFree(port))) ports.add(port);
  }
  return [...ports];
}

function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port }, () => server.close(() => resolve(true)));
  });
}
