/** How long a suspicion lasts (Lifeguard: dogpile). Times in milliseconds. */

import type { MembershipConfig } from "./config.ts";
import type { Suspicion } from "./member-table.ts";

/**
 * `hosts` counts the accused and us. The time begins at the maximum and shrinks as independent confirmations
 * come. A cluster too small to give them all waits for none and takes the minimum.
 */
export function newSuspicion(config: MembershipConfig, hosts: number, nowMs: number): Suspicion {
  const wanted = config.suspicionMaxMult > 1 ? Math.max(0, config.suspicionMult - 2) : 0;
  const confirmationsMax = hosts - 2 < wanted ? 0 : wanted;
  const minMs = Math.ceil(config.suspicionMult * Math.max(1, Math.log10(hosts)) * config.probeIntervalMs);
  const maxMs = minMs * config.suspicionMaxMult;
  const durationMs = confirmationsMax === 0 ? minMs : maxMs;
  return {
    startedAtMs: nowMs,
    minMs,
    maxMs,
    confirmationsMax,
    confirmations: 0,
    endsAtMs: nowMs + durationMs,
    called: false,
  };
}

/** Counts one more. Logarithmic: the first confirmation says most. */
export function confirm(suspicion: Suspicion): void {
  const { minMs, maxMs, confirmationsMax, startedAtMs } = suspicion;
  suspicion.confirmations += 1;
  const share = Math.log(suspicion.confirmations + 1) / Math.log(confirmationsMax + 1);
  const durationMs = Math.max(minMs, Math.floor(maxMs - share * (maxMs - minMs)));
  suspicion.endsAtMs = startedAtMs + durationMs;
}
