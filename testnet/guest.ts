/** The embedded guest as a scenario sees it, through a daemon's `show`. */

import { z } from "zod";
import { BLOCK_SIZE_BYTES } from "../protocol/units.ts";
import type { Cluster, ClusterHost } from "./cluster.ts";
import { processesOf } from "./processes.ts";
import { pause } from "./waiting.ts";

const GuestFigures = z.looseObject({
  filled: z.boolean(),
  filledBytes: z.number(),
  fillBytes: z.number(),
  uptimeMs: z.number(),
  steps: z.number(),
  reads: z.number(),
  writes: z.number(),
  bytesWritten: z.number(),
  imageBlocksVerified: z.number(),
  imagePasses: z.number(),
  errors: z.number(),
  firstErrors: z.array(z.string()),
});
export type GuestFigures = z.infer<typeof GuestFigures>;

const POLL_MS = 200;
/** A guest that has written nothing for so long will not go on: its disk or its host is stuck. */
const STALL_MS = 60_000;
/** What a domain leaves behind is cleared away soon after it has left. */
const REMAINS_TIMEOUT_MS = 10_000;

export async function guestFigures(host: ClusterHost, domain: string): Promise<GuestFigures> {
  const { guest, state } = await host.call("show", { domain });
  if (guest === undefined)
    throw new Error(`${host.name} says nothing of the guest of ${domain}: it is ${state}`);
  return GuestFigures.parse(guest);
}

/** Blocks that the guest can have written between two looks, at most: a write that does not begin at an edge has one more. */
export function blocksWritten(before: GuestFigures, after: GuestFigures): number {
  return (
    Math.ceil((after.bytesWritten - before.bytesWritten) / BLOCK_SIZE_BYTES) + after.writes - before.writes
  );
}

/** Resolves when the guest has written what it writes before its workload begins. */
export async function guestIsFilled(
  host: ClusterHost,
  { domain, onFigures }: { domain: string; onFigures(figures: GuestFigures): void },
): Promise<GuestFigures> {
  let filledBytes = -1;
  let movedAtMs = performance.now();
  for (;;) {
    const figures = await guestFigures(host, domain);
    onFigures(figures);
    if (figures.filled) return figures;
    const now = performance.now();
    if (figures.filledBytes !== filledBytes) movedAtMs = now;
    else if (now - movedAtMs > STALL_MS) {
      throw new Error(`the guest has filled nothing for ${STALL_MS} ms, at ${filledBytes} bytes`);
    }
    filledBytes = figures.filledBytes;
    await pause(POLL_MS);
  }
}

/** Names of the hosts that say that they run the domain. */
export async function runningOn({ hosts }: Cluster, domain: string): Promise<string[]> {
  const answers = await Promise.all(
    hosts.map(async (host) => {
      const detail = await host.call("show", { domain }).catch(() => undefined);
      return detail?.host === host.hostId && detail.state === "running" ? [host.name] : [];
    }),
  );
  return answers.flat();
}

/** Processes of guests on all hosts, of one domain once its remains are gone; waits for that, and not for ever. */
export async function guestProcesses({ hosts }: Cluster): Promise<number> {
  const count = (): number => hosts.reduce((sum, { runDir }) => sum + processesOf(runDir).length, 0);
  const deadline = performance.now() + REMAINS_TIMEOUT_MS;
  while (count() > 1 && performance.now() < deadline) await pause(POLL_MS);
  return count();
}
