/**
 * `kill -9` of daemons, both processes at once, at each point that PROTOCOL.md names. The guest runs on meanwhile,
 * as it would on any hypervisor. After the restart the domain runs on exactly one host: where the handover was in
 * the source's journal, at the destination; else, where the source itself died, at the source.
 */

import type { FaultPoint } from "../../node/fault-points.ts";
import type { ClusterHost } from "../cluster.ts";
import { within } from "../waiting.ts";
import { disturbed, type Expected, withForeignReplica } from "./disturbed.ts";
import type { FaultCase } from "./fault-case.ts";
import { type Actor, FaultLog, gone, type Stage, type Workload } from "./stage.ts";

/** A source that died before it had handed over takes the domain back; every other migration goes on. */
const EXPECTED: { readonly [P in Exclude<FaultPoint, "restoring">]: Expected } = {
  "source-reconciling": "rolled back",
  "source-precopy": "rolled back",
  "source-memory-copy": "rolled back",
  "source-freezing": "rolled back",
  "source-frozen": "rolled back",
  "source-before-handover-persist": "rolled back",
  "source-after-handover-persist": "completed",
  "source-handover-sent": "completed",
  "source-resumed": "completed",
  "source-postcopy": "completed",
  "source-completed": "completed",
  "destination-receiving": "completed",
  "destination-before-prepared-persist": "completed",
  "destination-after-prepared-persist": "completed",
  "destination-prepared": "completed",
  "destination-handover-received": "completed",
  "destination-owner-persisted": "completed",
  "destination-resumed": "completed",
  "destination-postcopy": "completed",
  "destination-superseding-write": "completed",
  "destination-before-synchronised-persist": "completed",
};

type Point = keyof typeof EXPECTED;

/** Where the domain is frozen until the destination is back: nobody may say that it runs. */
const FROZEN_WHILE_DOWN: ReadonlySet<FaultPoint> = new Set<FaultPoint>([
  "destination-handover-received",
  "destination-owner-persisted",
]);

export function killCases(): FaultCase[] {
  const points = Object.keys(EXPECTED) as Point[];
  const once = points.map((point) => killCase(point, point === SUPERSEDING ? "writes" : "web"));
  // A guest at full rate has requests in flight whenever its daemon dies.
  const busy = points
    .filter((point) => point !== SUPERSEDING)
    .map((point) => killCase(point, "diabolical"))
    .map((busyCase) => ({ ...busyCase, name: `${busyCase.name}-busy`, isFast: false }));
  return [...once, ...busy, ...repeatedCases(), ...restoringCases(), ...bothCases(), ...dataProcessCases()];
}

const SUPERSEDING = "destination-superseding-write";

function killCase(point: Point, workload: Workload): FaultCase {
  const side = point.startsWith("source") ? "source" : "destination";
  return {
    name: `kill-${point}`,
    side,
    fault: `kill -9 at ${point}${workload === "web" ? "" : `, ${workload}`}`,
    isFast: true,
    workload,
    async run(stage, options) {
      const actor = await stage.perform(options.name, options);
      if (point === "source-reconciling") await withForeignReplica(stage, actor);
      const victim = stage[side];
      // The guest has to write to a block before a push or a pull of it: they begin when it has.
      if (point === SUPERSEDING) {
        await stage.source.call("arm-fault", { point: "source-postcopy", action: "stall:60000" });
      }
      await victim.call("arm-fault", { point, action: "kill" });
      const pids = victim.pids();
      return disturbed(stage, actor, {
        expected: EXPECTED[point],
        async disturb() {
          await within(`${victim.name} dies at ${point}`, victim.exited());
          await gone(pids);
          await checkFrozen(stage, actor, { victim, point });
          await victim.start();
          if (point === SUPERSEDING) {
            await stage.source.call("arm-fault", { point: "source-postcopy", action: "release" });
          }
        },
      });
    },
  };
}

/** While one daemon is dead: no guest on two hosts, and one that runs nowhere is said to be frozen. */
async function checkFrozen(
  stage: Stage,
  actor: Actor,
  { victim, point }: { victim: ClusterHost; point: FaultPoint },
): Promise<void> {
  const running = await stage.running(actor);
  if (running.length > 1) throw new Error(`the guest runs on ${running.join(" and ")}`);
  if (!FROZEN_WHILE_DOWN.has(point)) return;
  if (running.length > 0) throw new Error(`the guest runs on ${running[0]} after it was handed over`);
  const survivor = stage.hosts.find((host) => host !== victim)!;
  const { state, advice } = await survivor.call("show", { domain: actor.name });
  if (state !== "undecided" || !advice.includes("frozen")) {
    throw new Error(`the guest is frozen, and ${survivor.name} says that it is ${state}: ${advice}`);
  }
}

function repeatedCases(): FaultCase[] {
  return (["source", "destination"] as const).map((side) => ({
    name: `kill-${side}-postcopy-3-times`,
    side,
    fault: "kill -9 in post-copy, after the restart again, and again",
    isFast: false,
    workload: "web" as const,
    async run(stage, options) {
      const actor = await stage.perform(options.name, options);
      const victim = stage[side];
      const point: Point = `${side}-postcopy`;
      await victim.call("arm-fault", { point, action: "kill" });
      let pids = victim.pids();
      return disturbed(stage, actor, {
        expected: "completed",
        async disturb() {
          for (let left = 3; left > 0; left--) {
            await within(`${victim.name} dies at ${point}, ${left} times more`, victim.exited());
            await gone(pids);
            // The next one dies at the first block of its life.
            await victim.start(left > 1 ? { SOJOURN_FAULT: `${point}:kill` } : {}).catch((error: unknown) => {
              // It may be so quick that it dies before it answers.
              if (left === 1) throw error;
            });
            pids = victim.pids();
          }
        },
      });
    },
  }));
}

/** Whoever is started again is not at once the one it was: its peer comes back earlier than its journal is read. */
function restoringCases(): FaultCase[] {
  const points = [
    "source-after-handover-persist",
    "destination-receiving",
    "destination-owner-persisted",
  ] as const;
  const ways = [
    ["slow", "stall:3000", "slow to read its journal after the restart"],
    ["again", "kill", "killed again before it has read its journal"],
  ] as const;
  return points.flatMap((point) =>
    ways.map(([name, action, words]) => ({
      name: `restoring-${name}-${point}`,
      side: point.startsWith("source") ? ("source" as const) : ("destination" as const),
      fault: `kill -9 at ${point}, then ${words}`,
      isFast: point === "destination-receiving",
      workload: "web" as const,
      async run(stage: Stage, options: Parameters<FaultCase["run"]>[1]) {
        const actor = await stage.perform(options.name, options);
        const victim = stage[point.startsWith("source") ? "source" : "destination"];
        await victim.call("arm-fault", { point, action: "kill" });
        const pids = victim.pids();
        return disturbed(stage, actor, {
          expected: EXPECTED[point],
          async disturb() {
            await within(`${victim.name} dies at ${point}`, victim.exited());
            await gone(pids);
            const restarted = victim.start({ SOJOURN_FAULT: `restoring:${action}` });
            if (action !== "kill") return restarted;
            // It is not up before it has read its journal.
            await restarted.then(
              () => Promise.reject(new Error(`${victim.name} does not die when it restores`)),
              () => victim.exited(),
            );
            await victim.start();
          },
        });
      },
    })),
  );
}

/** A power cut of the whole room. */
function bothCases(): FaultCase[] {
  const points = [
    ["source-precopy", "rolled back"],
    ["source-frozen", "rolled back"],
    ["source-after-handover-persist", "completed"],
    ["source-handover-sent", "completed"],
    ["source-postcopy", "completed"],
  ] as const;
  return points.map(([point, expected]) => ({
    name: `kill-both-${point}`,
    side: "both" as const,
    fault: `kill -9 of both daemons at ${point}`,
    isFast: point === "source-postcopy",
    workload: "web" as const,
    async run(stage, options) {
      const actor = await stage.perform(options.name, options);
      const log = new FaultLog(stage.source);
      await stage.source.call("arm-fault", { point, action: "stall:5000" });
      return disturbed(stage, actor, {
        expected,
        async disturb() {
          await log.fired(point);
          await Promise.all(stage.hosts.map((host) => host.kill9()));
          await Promise.all(stage.hosts.map((host) => host.start()));
        },
      });
    },
  }));
}

/** One of a daemon's two processes: the other starts it again, and nobody else has to do anything. */
function dataProcessCases(): FaultCase[] {
  const points = [
    "source-precopy",
    "source-after-handover-persist",
    "source-postcopy",
    "destination-receiving",
    "destination-owner-persisted",
    "destination-postcopy",
  ] as const;
  return points.map((point) => {
    const side = point.startsWith("source") ? "source" : "destination";
    return {
      name: `data-process-ends-${point}`,
      side,
      fault: `the data process alone ends at ${point}`,
      isFast: false,
      workload: "web",
      async run(stage, options) {
        const actor = await stage.perform(options.name, options);
        const log = new FaultLog(stage[side]);
        await stage[side].call("arm-fault", { point, action: "exit" });
        return disturbed(stage, actor, {
          expected: EXPECTED[point],
          async disturb() {
            await log.fired(point);
          },
        });
      },
    };
  });
}
