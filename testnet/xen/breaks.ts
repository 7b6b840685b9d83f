/**
 * Ways to break a migration between Xen hosts, each done on purpose while the guest works: daemons and xls killed,
 * the link cut on both sides of the point of no return, a domain that waits for its handover unpaused by hand.
 */

import type { FaultPoint } from "../../node/fault-points.ts";
import { pause } from "../waiting.ts";
import { daemonLog, type XenCluster } from "./xen-cluster.ts";
import type { XenHost } from "./xen-host.ts";

export type BreakStage = {
  cluster: XenCluster;
  domain: string;
  source: XenHost;
  destination: XenHost;
  /** Begins the migration, and does not care how it ends. */
  migrate(): void;
  say(what: string): void;
};

export type Break = {
  what: string;
  /** Where the domain runs when all has settled. */
  ends: "source" | "destination";
  run(stage: BreakStage): Promise<void>;
};

const REACHED_MS = 600_000;
const OUTAGE_MS = 20_000;
/** Every look costs an emulated host a process, and the migration its time. */
const POLL_MS = 2000;
/** Longer than all that is done meanwhile; a release ends it. */
const STALL = "stall:600000";

export const BREAKS: Readonly<Record<string, Break>> = {
  "receiver-killed": {
    what: "xl migrate-receive is killed in the midst of the stream",
    ends: "source",
    run: (stage) => killXl(stage, { host: stage.destination, pattern: "xl migrate-receive" }),
  },
  "sender-killed": {
    what: "xl migrate is killed in the midst of the stream",
    ends: "source",
    run: (stage) => killXl(stage, { host: stage.source, pattern: "xl migrate -s" }),
  },
  "source-daemon-frozen": daemonKilled("source-frozen", "source"),
  "source-daemon-before-go": daemonKilled("source-before-handover-persist", "source"),
  "source-daemon-after-go": daemonKilled("source-after-handover-persist", "destination"),
  "destination-daemon-ready": daemonKilled("destination-after-prepared-persist", "destination"),
  "destination-daemon-go": daemonKilled("destination-handover-received", "destination"),
  "destination-daemon-owner": daemonKilled("destination-owner-persisted", "destination"),
  "link-before-go": linkCut("source-before-handover-persist"),
  "link-after-go": linkCut("source-after-handover-persist"),
  "orphan-unpaused": {
    what: "what waits at the destination is unpaused by hand, and the migration is cancelled",
    ends: "source",
    run: unpauseByHand,
  },
};

function daemonKilled(point: FaultPoint, ends: Break["ends"]): Break {
  const side = point.startsWith("source") ? "source" : "destination";
  return {
    what: `the ${side}'s daemon is killed at ${point}`,
    ends,
    async run(stage) {
      const victim = stage[side];
      await victim.call("arm-fault", { point, action: "kill" });
      stage.migrate();
      await reached(
        `the daemon of ${victim.name} dies at ${point}`,
        async () => !(await stage.cluster.isUp(victim)),
      );
      stage.say(`the daemon of ${victim.name} is dead, and is started again`);
      await stage.cluster.up(victim);
    },
  };
}

/** A cut of some length, begun while the source stands still at `point`. */
function linkCut(point: FaultPoint): Break {
  return {
    what: `the link is lost for ${OUTAGE_MS / 1000} s at ${point}`,
    ends: "destination",
    async run({ cluster, source, migrate, say }) {
      await stallAt(source, point, migrate);
      say("the link is cut");
      cluster.network.cut();
      await source.call("arm-fault", { point, action: "release" });
      await pause(OUTAGE_MS);
      say("the link is back");
      cluster.network.mend();
    },
  };
}

async function killXl(
  stage: BreakStage,
  { host, pattern }: { host: XenHost; pattern: string },
): Promise<void> {
  stage.migrate();
  await reached(
    `${pattern} runs on ${host.name}`,
    async () => (await host.run(`pgrep -f '^[^ ]*${pattern}'`)).code === 0,
  );
  // The stream is under way: it takes minutes.
  await pause(OUTAGE_MS);
  await host.must(`pkill -KILL -f '^[^ ]*${pattern}'`);
}

async function unpauseByHand({ domain, source, destination, migrate, say }: BreakStage): Promise<void> {
  const point = "source-before-handover-persist";
  await stallAt(source, point, migrate);
  say("xl unpause by hand");
  await destination.must(`xl unpause ${domain}--incoming`);
  await pause(OUTAGE_MS);
  const cancelled = source.call("cancel", { domain });
  await source.call("arm-fault", { point, action: "release" });
  await cancelled;
}

async function stallAt(host: XenHost, point: FaultPoint, migrate: () => void): Promise<void> {
  const times = async (): Promise<number> =>
    (await daemonLog(host, 2000)).split("\n").filter((line) => line.includes("fault point fires")).length;
  const before = await times();
  await host.call("arm-fault", { point, action: STALL });
  migrate();
  await reached(`${host.name} reaches ${point}`, async () => (await times()) > before);
}

async function reached(what: string, look: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + REACHED_MS;
  while (!(await look())) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${REACHED_MS} ms`);
    await pause(POLL_MS);
  }
}
