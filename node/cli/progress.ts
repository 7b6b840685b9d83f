/** A running migration on stderr: one line rewritten in place on a terminal, else one line per change. */

import type { Progress } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { formatDuration } from "./format.ts";
import { printable } from "./output.ts";

/** " 41%" of the bytes to send, or nothing where the total is not known. */
export function formatShare(progress: Pick<Progress, "sentBytes" | "totalBytes">): string {
  const { sentBytes, totalBytes } = progress;
  if (totalBytes === undefined || totalBytes <= 0) return "";
  return ` ${Math.min(100, Math.floor((100 * sentBytes) / totalBytes))}%`;
}

export function formatProgress(progress: Progress): string {
  const { phase, iteration, sentBytes, totalBytes, memoryBytes, etaSeconds } = progress;
  const total = totalBytes === undefined ? "" : ` of ${formatSize(totalBytes)}`;
  return [
    `${phase}${iteration > 1 ? ` #${iteration}` : ""}${formatShare(progress)}`,
    `disk ${formatSize(sentBytes)}${total}`,
    ...(memoryBytes > 0 ? [`memory ${formatSize(memoryBytes)}`] : []),
    ...(progress.connected
      ? [
          `${formatSize(progress.rateBytesPerSecond)}/s`,
          `dirty ${formatSize(progress.dirtyRateBytesPerSecond)}/s`,
          ...(etaSeconds === undefined ? [] : [`ETA ${formatDuration(etaSeconds * 1000)}`]),
        ]
      : [isBegun(progress) ? "link down, waiting for the peer" : "connecting to the peer"]),
  ].join(", ");
}

/** Before the first octet there was no link that could be down. */
function isBegun({ phase, sentBytes }: Progress): boolean {
  return phase !== "negotiating" || sentBytes > 0;
}

export interface ProgressPrinter {
  update(progress: Progress): void;
  /** Leaves the terminal at the beginning of an empty line. */
  end(): void;
}

type Terminal = Pick<NodeJS.WriteStream, "write"> & { isTTY?: boolean; columns?: number };

export function progressPrinter(out: Terminal, title: string): ProgressPrinter {
  return out.isTTY ? rewritingPrinter(out, title) : changesPrinter(out, title);
}

function rewritingPrinter(out: Terminal, title: string): ProgressPrinter {
  let shown = false;
  return {
    update(progress) {
      const line = printable(`${title}: ${formatProgress(progress)}`);
      // A line that wraps could not be rewritten.
      out.write(`\r\x1b[K${line.slice(0, (out.columns ?? 80) - 1)}`);
      shown = true;
    },
    end() {
      if (shown) out.write("\r\x1b[K");
      shown = false;
    },
  };
}

function changesPrinter(out: Terminal, title: string): ProgressPrinter {
  let last: string | undefined;
  return {
    update(progress) {
      const key = `${progress.phase} ${progress.connected}`;
      if (key === last) return;
      last = key;
      out.write(`${printable(`${title}: ${formatProgress(progress)}`)}\n`);
    },
    end() {},
  };
}
