/** What the source's driver does for its machine, on the model's disk, guest and journal. */

import type { SourceEffect, SourceEvent } from "../../protocol/source.ts";
import { type Cut, commit, EffectFailure, endSession, feed, machineOf, persistSource } from "./daemon.ts";
import {
  bitmapOf,
  type Draft,
  type Host,
  type HostName,
  type SourceJob,
  type SourceMachine,
  Violation,
} from "./state.ts";

export function performSource(
  draft: Draft,
  name: HostName,
  machine: SourceMachine,
  effect: SourceEffect,
): void {
  const host = draft.host(name);
  const daemon = host.daemon!;
  const later = (event: SourceEvent): void => {
    machine.pending = [...machine.pending, event];
  };
  const blockCount = host.disk!.now.length;
  switch (effect.type) {
    case "send":
    case "send-blocks": {
      const link = draft.link(machine.migration);
      if (!link.sourceIsUp || link.isBroken) return;
      const item =
        effect.type === "send" ? effect.message : ({ type: "lazy", effect, read: undefined } as const);
      link.toDestination = [...link.toDestination, item];
      return;
    }
    case "start-tracking": {
      daemon.rounds = 0;
      const { attempt } = effect;
      const { written, isTrusted } = host.tracker;
      const vbds = isTrusted
        ? [{ written: bitmapOf(written, blockCount) }]
        : [{ written: bitmapOf(-1, blockCount), untrusted: "its host lost power" }];
      later({ type: "tracking", attempt, atMs: 0, vbds });
      return;
    }
    // How fast the guest writes is nothing that the model knows.
    case "throttle-writes":
      return;
    case "stop-tracking":
      daemon.rounds = undefined;
      return;
    case "collect-dirty": {
      const blocks = [bitmapOf(daemon.rounds ?? 0, blockCount)];
      daemon.rounds = 0;
      later({ type: "dirty", attempt: effect.attempt, atMs: 0, blocks });
      return;
    }
    case "scan-allocated":
    case "compare-digests":
    case "begin-memory":
    case "destroy-remains":
      machine.pending = [...machine.pending, { job: effect }];
      return;
    case "resume-memory":
    case "forget-memory":
    case "unfence":
      return;
    case "cancel-memory":
      machine.stream = undefined;
      return;
    case "freeze-domain": {
      const { attempt } = effect;
      if (machine.stream === undefined || host.guest?.state !== "running")
        throw new EffectFailure("HYPERVISOR");
      host.guest = { ...host.guest, state: "suspended" };
      later({ type: "domain-frozen", attempt });
      later({ type: "memory-ended", attempt, memoryBytes: host.guest.memory });
      return;
    }
    case "fence": {
      const { attempt } = effect;
      host.disk = { ...host.disk!, durable: host.disk!.now };
      const dirty = [bitmapOf(daemon.rounds ?? 0, blockCount)];
      daemon.rounds = 0;
      machine.written = host.tracker.isTrusted ? host.tracker.written : -1;
      later({ type: "fenced", attempt, dirty, written: [bitmapOf(machine.written, blockCount)] });
      return;
    }
    case "thaw-domain":
      if (machine.stream !== undefined) unfreeze(host);
      return;
    case "unfreeze-domain":
      machine.stream = undefined;
      unfreeze(host);
      return;
    case "persist":
      persistSource(draft, host, machine, effect.record);
      return;
    case "forget":
      commit(host, { journalRemoved: machine.migration });
      return;
    case "keep-replica": {
      endRemains(draft, host, machine);
      daemon.exported = undefined;
      const { generation } = effect;
      const replica = { domain: "d", host: name, generation, updatedAt: 0, state: "whole" } as const;
      commit(host, { replicas: [replica] });
      return;
    }
    case "drop-link":
      endSession(draft, "source", machine.migration);
      return;
  }
}

/** The replica is kept only once the remains are gone. */
function endRemains(draft: Draft, host: Host, machine: SourceMachine): void {
  const jobs = machine.pending.filter((entry) => "job" in entry && entry.job.type === "destroy-remains");
  machine.pending = machine.pending.filter((entry) => !jobs.includes(entry));
  for (const entry of jobs) if ("job" in entry) answerOf(draft, host, machine, entry.job);
}

function unfreeze(host: Host): void {
  if (host.guest?.state === "suspended") host.guest = { ...host.guest, state: "running" };
}

/** Work that was begun comes to its end. */
export function finishSourceJob(
  draft: Draft,
  name: HostName,
  migration: string,
  index: number,
  cut?: Cut,
): void {
  const host = draft.host(name);
  const machine = machineOf(host, migration) as SourceMachine;
  const entry = machine.pending[index]!;
  machine.pending = machine.pending.toSpliced(index, 1);
  const event = "job" in entry ? answerOf(draft, host, machine, entry.job) : entry;
  if (event !== undefined) feed(draft, name, migration, event, cut);
}

function answerOf(draft: Draft, host: Host, machine: SourceMachine, job: SourceJob): SourceEvent | undefined {
  const disk = host.disk!.now;
  switch (job.type) {
    case "scan-allocated": {
      const mask = disk.reduce((sum, value, block) => sum | (value > 0 ? 1 << block : 0), 0);
      return { ...job, type: "allocated", blocks: bitmapOf(mask, disk.length) };
    }
    case "compare-digests": {
      const { level, digests, start, count } = job;
      const differing = Array.from({ length: count }, (_, index) => start + index).filter((index) => {
        const at = (index - start) * 16;
        if (level === "block") return digests[at] !== disk[index];
        return disk.some((value, block) => digests[at + block] !== value);
      });
      return { ...job, type: "compared", differing };
    }
    case "begin-memory":
      if (host.guest?.state !== "running") return { type: "failed", reason: "the domain does not run" };
      machine.stream = job.attempt;
      return undefined;
    case "destroy-remains":
      machine.stream = undefined;
      if (host.guest?.state === "running") throw new Violation("remains are destroyed, and they run");
      if (host.guest?.state === "suspended" && draft.truth.ran <= machine.context.generation) {
        throw new Violation("the last copy of the memory is destroyed before the domain ran elsewhere");
      }
      host.guest = undefined;
      return undefined;
  }
}
