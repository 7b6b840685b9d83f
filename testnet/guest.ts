/** The embedded guest as a scenario sees it, through a daemon's `show`. */

import { z } from "zod";
import type { ClusterHost } from "./cluster.ts";

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

export async function guestFigures(host: ClusterHost, domain: string): Promise<GuestFigures> {
  const { guest, state } = await host.call("show", { domain });
  if (guest === undefined)
    throw new Error(`${host.name} says nothing of the guest of ${domain}: it is ${state}`);
  return GuestFigures.parse(guest);
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
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
