/** How long the guest stood still: from QEMU's own events, which the daemons note in their logs. */

import { readFile } from "node:fs/promises";
import type { ClusterHost } from "../cluster.ts";

/** From the last STOP at the source to the first RESUME after it at the destination, milliseconds, on one clock. */
export async function pauseOf({
  source,
  destination,
  domain,
}: {
  source: ClusterHost;
  destination: ClusterHost;
  domain: string;
}): Promise<number> {
  const stops = await timesOf("STOP", { host: source, domain });
  const resumes = await timesOf("RESUME", { host: destination, domain });
  const stop = stops.at(-1);
  const resume = resumes.find((time) => stop !== undefined && time >= stop);
  if (stop === undefined || resume === undefined) {
    throw new Error(`no STOP and RESUME of the domain in the logs of ${source.name} and ${destination.name}`);
  }
  return resume - stop;
}

async function timesOf(
  event: string,
  { host, domain }: { host: ClusterHost; domain: string },
): Promise<number[]> {
  const lines = (await readFile(host.logPath, "utf8")).split("\n");
  return lines.flatMap((line) => {
    if (!line.includes(`"event":"${event}"`) || !line.includes(domain)) return [];
    return [Number((JSON.parse(line) as { atMs?: unknown }).atMs)];
  });
}
