/**
 * The link between two daemons cut or stalled for a while, in every phase of a migration: nothing starts over, the
 * guest sees a pause at most, and the migration goes on by itself. Phases that pass in a moment are held by a fault
 * point while the link breaks.
 */

import type { HopReport } from "../../node/control/api.ts";
import type { FaultPoint } from "../../node/fault-points.ts";
import { blocksWritten, type GuestFigures, guestFigures } from "../guest.ts";
import { bytesMax } from "../tour-checks.ts";
import { pause, until } from "../waiting.ts";
import { disturbed, withForeignReplica } from "./disturbed.ts";
import type { FaultCase } from "./fault-case.ts";
import { type Actor, type Asked, FaultLog, IN_FLIGHT_BLOCKS, MEMORY_BYTES, type Stage } from "./stage.ts";

type Break = "cut" | "stall";

/** Brings a migration to where the link is to break: `arrange` before it was asked for, what it returns afterwards. */
type Phase = { name: string; arrange(stage: Stage, actor: Actor): Promise<() => Promise<void>> };

const OUTAGES_MS = [1000, 5000, 30_000];
/** So that a phase which moves bytes lasts. */
const SLOW_BYTES_PER_SECOND = 12 << 20;
const CRAWL_BYTES_PER_SECOND = 2 << 20;
/** How long a held phase lasts: time enough to break the link. */
const HOLD_MS = 1000;
/** The default of `migration.stallTimeoutMs`: how long a host that never answered is waited for. */
const NEGOTIATION_PATIENCE_MS = 15_000;
const PAGE_BYTES = 4096;
/** What the sockets held, and the guest's request buffers, which are written without being counted as touched. */
const MEMORY_SLACK_BYTES = 6 << 20;

const PHASES: readonly Phase[] = [
  {
    name: "negotiating",
    async arrange(stage, actor) {
      return () => stage.inPhase(actor, ({ phase }) => phase === "negotiating");
    },
  },
  {
    name: "reconciling",
    async arrange(stage, actor) {
      await withForeignReplica(stage, actor);
      return hold(stage, "source", "source-reconciling");
    },
  },
  {
    name: "pre-copy",
    async arrange(stage, actor) {
      limit(stage, SLOW_BYTES_PER_SECOND);
      return () =>
        stage.inPhase(actor, ({ phase, sentBytes }) => phase === "pre-copy" && sentBytes > 8 << 20);
    },
  },
  {
    name: "memory-copy",
    async arrange(stage, actor) {
      limit(stage, SLOW_BYTES_PER_SECOND);
      return async () => {
        await stage.inPhase(actor, ({ phase }) => phase === "memory-copy");
        limit(stage, CRAWL_BYTES_PER_SECOND);
        await stage.inPhase(actor, ({ memoryBytes }) => memoryBytes > 1 << 20);
      };
    },
  },
  heldAt("freezing", "source", "source-freezing"),
  heldAt("preparing", "source", "source-frozen"),
  heldAt("loading", "destination", "destination-before-prepared-persist"),
  heldAt("handing-over", "source", "source-after-handover-persist"),
  heldAt("resuming", "destination", "destination-owner-persisted"),
  heldAt("post-copy", "source", "source-postcopy"),
  heldAt("post-copy-storing", "destination", "destination-postcopy"),
];

export function linkCases(): FaultCase[] {
  return OUTAGES_MS.flatMap((outageMs) =>
    (["cut", "stall"] as const).flatMap((how) => PHASES.map((phase) => linkCase(phase, how, outageMs))),
  );
}

function heldAt(name: string, side: "source" | "destination", point: FaultPoint): Phase {
  return { name, arrange: (stage) => hold(stage, side, point) };
}

async function hold(
  stage: Stage,
  side: "source" | "destination",
  point: FaultPoint,
): Promise<() => Promise<void>> {
  const log = new FaultLog(stage[side]);
  await stage[side].call("arm-fault", { point, action: `stall:${HOLD_MS}` });
  return async () => {
    await log.fired(point);
  };
}

function limit(stage: Stage, bytesPerSecondMax: number | undefined): void {
  for (const { data } of stage.cluster.linksBetween("alpha", "beta")) data.limit(bytesPerSecondMax);
}

function linkCase(phase: Phase, how: Break, outageMs: number): FaultCase {
  const seconds = outageMs / 1000;
  return {
    name: `link-${how}-${seconds}s-${phase.name}`,
    side: "link",
    fault: `data link ${how === "cut" ? "cut" : "stalled"} for ${seconds} s, ${phase.name}`,
    isFast: outageMs === OUTAGES_MS[0] && (how === "cut" || phase.name === "post-copy"),
    workload: "web",
    async run(stage, options) {
      const actor = await stage.perform(options.name, options);
      return breakLink(stage, actor, { phase, how, outageMs });
    },
  };
}

async function breakLink(
  stage: Stage,
  actor: Actor,
  { phase, how, outageMs }: { phase: Phase; how: Break; outageMs: number },
) {
  const links = stage.cluster.linksBetween("alpha", "beta").map(({ data }) => data);
  const all = (what: Break | "heal"): Promise<unknown> => Promise.all(links.map((link) => link[what]()));
  const before = await guestFigures(stage.source, actor.name);
  const reach = await phase.arrange(stage, actor);
  // Nothing was sent that a longer wait could save: whoever asked hears that the host is not there.
  const givesUp = phase.name === "negotiating" && outageMs > NEGOTIATION_PATIENCE_MS;
  // A link that is down before anyone dials: there is no other way to be sure of that phase.
  if (phase.name === "negotiating") await all(how);
  try {
    return await disturbed(stage, actor, {
      expected: givesUp ? "rolled back" : "completed",
      async disturb(asked) {
        await Promise.race([reach(), failed(asked)]);
        await all(how);
        await pause(outageMs);
        limit(stage, undefined);
        await all("heal");
      },
      async check(ended) {
        if ("error" in ended && givesUp && ended.error.message.includes("cannot be reached")) return;
        if ("error" in ended) throw ended.error;
        checkBytes(ended.report, before, await guestFigures(stage.destination, actor.name));
      },
    });
  } finally {
    limit(stage, undefined);
    await all("heal");
  }
}

/** A migration that has failed waits for nothing. */
async function failed(asked: Promise<Asked>): Promise<void> {
  const ended = await asked;
  if ("error" in ended) throw ended.error;
  return new Promise(() => {});
}

/** Nothing started over: what is sent twice was in flight when the link broke, or was written again since. */
function checkBytes(report: HopReport, before: GuestFigures, after: GuestFigures): void {
  const { blocksChanged, blocksResent, diskBytesSent, memoryBytesSent } = report;
  const resentMax = IN_FLIGHT_BLOCKS + blocksWritten(before, after);
  if (blocksResent > resentMax) {
    throw new Error(`${blocksResent} blocks were sent again, at most ${resentMax} had reason to`);
  }
  const diskMax = bytesMax(blocksChanged, resentMax);
  if (diskBytesSent > diskMax) throw new Error(`${diskBytesSent} disk bytes were sent, ${diskMax} at most`);
  const touched = Number(after.memoryPagesTouched) - Number(before.memoryPagesTouched);
  const memoryMax = MEMORY_BYTES + touched * PAGE_BYTES + MEMORY_SLACK_BYTES;
  if (memoryBytesSent > memoryMax) {
    throw new Error(`${memoryBytesSent} memory bytes were sent, ${memoryMax} at most`);
  }
}

/** The link that daemons talk over: a migration does not need it. */
export function controlLinkCases(): FaultCase[] {
  return (["cut", "stall"] as const).map((how) => ({
    name: `control-link-${how}-5s`,
    side: "control link" as const,
    fault: `control link ${how === "cut" ? "cut" : "stalled"} for 5 s during a migration`,
    isFast: how === "cut",
    workload: "web" as const,
    async run(stage, options) {
      const actor = await stage.perform(options.name, options);
      const links = stage.cluster.linksBetween("alpha", "beta").map(({ control }) => control!);
      limit(stage, SLOW_BYTES_PER_SECOND);
      try {
        return await disturbed(stage, actor, {
          expected: "completed",
          async disturb(asked) {
            await stage.inPhase(actor, ({ phase }) => phase === "pre-copy");
            await Promise.all(links.map((link) => link[how]()));
            limit(stage, undefined);
            await pause(5000);
            const ended = await Promise.race([asked, pause(30_000)]);
            if (ended === undefined || "error" in ended) {
              throw new Error("a migration needs the control link", { cause: ended?.error });
            }
            await Promise.all(links.map((link) => link.heal()));
            await until("the hosts see each other again", async () => {
              const hosts = await stage.source.call("hosts", {});
              return hosts.every(({ state }) => state === "alive") ? true : undefined;
            });
          },
        });
      } finally {
        limit(stage, undefined);
        await Promise.all(links.map((link) => link.heal()));
      }
    },
  }));
}
