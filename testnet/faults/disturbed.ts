/** A migration that something is done to, and all that must hold after it, whatever was done. */

import { utimes } from "node:fs/promises";
import { pause } from "../waiting.ts";
import type { Outcome } from "./fault-case.ts";
import { GuestWatch } from "./guest-watch.ts";
import type { Actor, Asked, Stage } from "./stage.ts";

export type Expected = "completed" | "rolled back";

/** A replica at the destination that was touched by someone else: only hashes can tell what it lacks. */
export async function withForeignReplica(stage: Stage, actor: Actor): Promise<void> {
  await stage.hop(stage.source, stage.destination, actor);
  await stage.hop(stage.destination, stage.source, actor);
  const { vbdFiles = [] } = await stage.destination.call("show", { domain: actor.name });
  for (const { path } of vbdFiles) await utimes(path, 1, 1);
}

/** A migration that `disturb` does something to, and all that must hold after it. */
export async function disturbed(
  stage: Stage,
  actor: Actor,
  {
    expected,
    disturb,
    check,
  }: {
    expected: Expected;
    disturb(asked: Promise<Asked>): Promise<void>;
    /** With the report, where whoever asked for the migration got one. */
    check?: (ended: Asked) => void | Promise<void>;
  },
): Promise<Outcome> {
  const { source, destination } = stage;
  const before = (await source.call("show", { domain: actor.name })).generation;
  const watch = GuestWatch.start({ source, destination, domain: actor.id });
  let watched: Awaited<ReturnType<GuestWatch["stop"]>>;
  let settled: Awaited<ReturnType<Stage["settled"]>>;
  const { asked } = await stage.migrate(source, destination, actor);
  try {
    await disturb(asked);
    settled = await stage.settled(actor);
  } finally {
    watched = await watch.stop();
  }
  if (watched.problem !== undefined) throw new Error(watched.problem);
  const { host, row } = settled;
  const outcome = host === destination ? "completed" : "rolled back";
  if (outcome !== expected) {
    const ended = await Promise.race([asked, pause(0)]);
    const why = ended !== undefined && "error" in ended ? `: ${ended.error.message}` : "";
    throw new Error(`the migration should have ${expected}, and it ${outcome}${why}`);
  }
  const generation = before + (outcome === "completed" ? 1 : 0);
  if (row.generation !== generation) {
    throw new Error(`the domain is at generation ${row.generation}, not ${generation}`);
  }
  await stage.verify(host, actor);
  const ended = await Promise.race([asked, pause(1000)]);
  if (ended !== undefined) await check?.(ended);
  const other = host === source ? destination : source;
  const there = await stage.hop(host, other, actor);
  await stage.hop(other, host, actor);
  await stage.clear(actor, host);
  return {
    host: host.name,
    generation,
    outcome,
    pauseMs: watched.longestGapMs,
    nextRung: there.rung,
    ...(ended !== undefined && "report" in ended
      ? { rung: ended.report.rung, diskBytesSent: ended.report.diskBytesSent }
      : {}),
  };
}
