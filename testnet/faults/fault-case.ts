/** What a case of the fault runs is, and what it has to say at its end. */

import type { Stage, Workload } from "./stage.ts";

export type Side = "source" | "destination" | "both" | "link" | "control link";

export type Outcome = {
  /** Where the domain ran when all had settled. */
  host: string;
  generation: number;
  outcome: "completed" | "rolled back";
  /** The longest time in which the guest completed no I/O. */
  pauseMs: number;
  /** Of the migration that was disturbed, where its report survived. */
  rung?: string;
  diskBytesSent?: number;
  /** Of the first migration afterwards. */
  nextRung: string;
};

export type FaultCase = {
  name: string;
  side: Side;
  /** In people's words. */
  fault: string;
  /** Part of the short run, too. */
  isFast: boolean;
  workload: Workload;
  run(stage: Stage, context: { name: string; seed: number; workload: Workload }): Promise<Outcome>;
};

export type CaseResult = { name: string; side: Side; fault: string; ok: boolean; durationMs: number } & (
  | ({ ok: true; verified: true } & Outcome)
  | { ok: false; problem: string; log: Record<string, string> }
);
