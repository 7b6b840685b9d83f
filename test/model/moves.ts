/** Everything that can happen next in a world. */

import { initial } from "../../protocol/destination.ts";
import { custodyMoves } from "./custody.ts";
import {
  addMachine,
  boot,
  breakLink,
  type Cut,
  destinationMachine,
  die,
  feed,
  machineOf,
  perform,
  readBlocks,
  restoreDestination,
} from "./daemon.ts";
import { arrived, finishDestinationJob } from "./destination-half.ts";
import { contextOf } from "./domain.ts";
import { act, adopt, ask, learn } from "./operator.ts";
import { finishSourceJob } from "./source-half.ts";
import {
  type Draft,
  type Fault,
  type Host,
  type HostName,
  type Link,
  type Machine,
  mayHappen,
  type SourceMachine,
  type World,
} from "./state.ts";

export type Hop = { from: HostName; to: HostName };

export type Move = {
  /** As a transcript says it. */
  label: string;
  /** Undefined: nothing goes wrong in it; such moves alone must lead to a good end. */
  fault?: Fault;
  /** The host whose step it is: it may die half-way. */
  stepOf?: HostName;
  /** Whether it happened; a move that finds nothing to do is none. */
  apply(draft: Draft, cut?: Cut): boolean | undefined;
};

export function movesOf(world: World, plan: readonly Hop[]): Move[] {
  const moves: Move[] = [];
  const may = (fault: Fault): boolean => mayHappen(world, fault);
  for (const host of Object.values(world.hosts)) {
    if (host.daemon === undefined)
      moves.push({ label: `${host.name} starts`, apply: (draft) => does(boot(draft, host.name)) });
    else moves.push(...ofDaemon(world, host));
    if (may("powers") && (host.daemon !== undefined || host.guest !== undefined))
      moves.push(death(host.name, true));
    if (may("crashes") && host.daemon !== undefined) moves.push(death(host.name, false));
  }
  for (const [migration, link] of Object.entries(world.links)) moves.push(...ofLink(world, migration, link));
  moves.push(...ofOperator(world, may));
  const hop = plan[world.hops];
  if (hop !== undefined && mayMigrate(world.hosts[hop.from]!)) moves.push(migrate(hop, `m${world.hops + 1}`));
  return moves;
}

function does(_: unknown): true {
  return true;
}

function death(name: HostName, power: boolean): Move {
  const fault = power ? "powers" : "crashes";
  return {
    label: power ? `${name} loses power` : `${name}'s daemon is killed`,
    fault,
    apply(draft) {
      draft.faultsLeft -= 1;
      die(draft, name, { power });
      return true;
    },
  };
}

// A daemon on its own: answers, work, the guest.

function ofDaemon(world: World, host: Host): Move[] {
  const moves: Move[] = [];
  const { name } = host;
  for (const machine of host.daemon!.machines) {
    for (const [index, entry] of machine.pending.entries()) {
      if ("job" in entry && !mayFinish(world, machine, entry.job.type)) continue;
      const what = "job" in entry ? entry.job.type : entry.type;
      moves.push({
        label: `${name} ${machine.role} ${machine.migration}: ${what} is done`,
        stepOf: name,
        apply(draft, cut) {
          if (machine.role === "source") finishSourceJob(draft, name, machine.migration, index, cut);
          else finishDestinationJob(draft, name, machine.migration, index, cut);
          return true;
        },
      });
    }
    if (machine.role === "source") moves.push(...ofSource(world, host, machine));
  }
  for (const index of host.daemon!.recoveries.keys()) {
    moves.push({
      label: `${name} acts on what it was told`,
      apply: (draft) => does(act(draft, name, index)),
    });
  }
  moves.push(...custodyMoves(world, host));
  const { guest, daemon } = host;
  if (guest?.state === "running" && daemon!.exported !== undefined && world.writesLeft > 0) {
    for (let block = 0; block < host.disk!.now.length; block++) moves.push(write(name, block));
  }
  return moves;
}

/** A state is loaded only while its stream can arrive. */
function mayFinish({ links }: World, { migration }: Machine, job: string): boolean {
  const link = links[migration]!;
  return job !== "load" || (link.attached === "now" && !link.isBroken);
}

function write(name: HostName, block: number): Move {
  return {
    label: `the guest writes block ${block} on ${name}`,
    apply(draft) {
      draft.writesLeft -= 1;
      const host = draft.host(name);
      const value = draft.truth.writes + 1;
      host.disk = { ...host.disk!, now: host.disk!.now.with(block, value) };
      host.tracker = { ...host.tracker, written: host.tracker.written | (1 << block) };
      const daemon = host.daemon!;
      if (daemon.rounds !== undefined) daemon.rounds |= 1 << block;
      host.guest = { ...host.guest!, memory: value };
      if (host.presence !== undefined) {
        const machine = daemon.machines.find(
          ({ role, state }) => role === "destination" && isAtWork(state.phase),
        );
        arrived(host, machine?.role === "destination" ? machine : undefined, block);
        // An overwrite is answered only when it is marked.
        host.presence = { ...host.presence, durable: host.presence.durable & ~(1 << block) };
      }
      const { newest } = draft.truth;
      // What a host writes that was ousted by an adoption it has not heard of is nobody's newest.
      if (isOusted(draft, host)) return true;
      draft.truth = { ...draft.truth, writes: value, memory: value, newest: newest.with(block, value) };
      return true;
    },
  };
}

function isOusted(draft: Draft, { name, journal }: Host): boolean {
  return draft.hostNames.some((other) => {
    const { domain } = draft.peek(other).journal;
    return other !== name && domain?.owner === other && domain.generation > journal.domain!.generation;
  });
}

function isAtWork(phase: string): boolean {
  return phase === "resuming" || phase === "post-copy";
}

function ofSource(world: World, host: Host, machine: SourceMachine): Move[] {
  const { migration, state, stream, peer } = machine;
  const { name } = host;
  const link = world.links[migration]!;
  const moves: Move[] = [];
  if (state.phase === "memory-copy" && stream !== undefined && host.guest?.state === "running") {
    const attempt = stream;
    moves.push({
      label: `${name}: a pass over memory ends`,
      stepOf: name,
      apply(draft, cut) {
        feed(draft, name, migration, { type: "memory-round", attempt, converged: true }, cut);
        return true;
      },
    });
  }
  const hasEnded = state.phase === "completed" || state.phase === "aborted";
  if (!link.sourceIsUp && !hasEnded && world.hosts[peer]!.daemon !== undefined) {
    moves.push({
      label: `${name} opens a session of ${migration}`,
      stepOf: name,
      apply(draft, cut) {
        const next = draft.link(migration);
        if (next.attached === "now") next.attached = "before";
        next.sourceIsUp = true;
        next.isBroken = false;
        next.toDestination = [];
        next.toSource = [];
        feed(draft, name, migration, { type: "connected" }, cut);
        return true;
      },
    });
  }
  if (mayHappen(world, "cancels") && isUndecided(state.phase)) {
    moves.push({
      label: `the operator cancels ${migration}`,
      fault: "cancels",
      stepOf: name,
      apply(draft, cut) {
        draft.faultsLeft -= 1;
        feed(draft, name, migration, { type: "cancel", reason: "cancelled" }, cut);
        return true;
      },
    });
  }
  return moves;
}

function isUndecided(phase: string): boolean {
  return !["aborting", "aborted", "finishing", "completed"].includes(phase);
}

// Links.

function ofLink(world: World, migration: string, link: Link): Move[] {
  const moves: Move[] = [];
  const source = world.hosts[link.source]!;
  const destination = world.hosts[link.destination]!;
  const [toDestination] = link.toDestination;
  const [toSource] = link.toSource;
  if (toDestination !== undefined && destination.daemon !== undefined) {
    const type = toDestination.type === "lazy" ? "blocks" : toDestination.type;
    moves.push({
      label: `${link.source} ── ${type} ──▶ ${link.destination}  (${migration})`,
      stepOf: link.destination,
      apply: (draft, cut) => deliverToDestination(draft, migration, cut),
    });
  }
  if (toSource !== undefined && link.sourceIsUp && source.daemon !== undefined) {
    moves.push({
      label: `${link.source} ◀── ${toSource.type} ── ${link.destination}  (${migration})`,
      stepOf: link.source,
      apply: (draft, cut) => deliverToSource(draft, migration, cut),
    });
  }
  if (source.guest?.state === "running" && world.writesLeft > 0) {
    const index = link.toDestination.findIndex((item) => item.type === "lazy" && item.read === undefined);
    if (index >= 0) moves.push(readEarly(migration, index));
  }
  if (link.sourceIsUp && !link.isBroken && mayHappen(world, "losses")) {
    moves.push({
      label: `the link of ${migration} breaks`,
      fault: "losses",
      apply(draft) {
        draft.faultsLeft -= 1;
        breakLink(draft, draft.link(migration));
        return true;
      },
    });
  }
  if (!link.isBroken) return moves;
  if (link.sourceIsUp && source.daemon !== undefined) {
    moves.push({
      label: `${link.source} notices that the link of ${migration} is lost`,
      stepOf: link.source,
      apply(draft, cut) {
        const next = draft.link(migration);
        next.sourceIsUp = false;
        next.toSource = [];
        if (machineOf(draft.peek(link.source), migration) === undefined) return true;
        feed(draft, link.source, migration, { type: "peer-lost" }, cut);
        return true;
      },
    });
  }
  if (link.attached === "now" && destination.daemon !== undefined) {
    moves.push({
      label: `${link.destination} notices that the link of ${migration} is lost`,
      stepOf: link.destination,
      apply(draft, cut) {
        const next = draft.link(migration);
        next.toDestination = [];
        detach(draft, migration, cut);
        return true;
      },
    });
  }
  return moves;
}

function readEarly(migration: string, index: number): Move {
  return {
    label: `a block of ${migration} is read`,
    apply(draft) {
      const link = draft.link(migration);
      const item = link.toDestination[index]!;
      if (item.type !== "lazy") return false;
      link.toDestination = link.toDestination.with(index, readBlocks(draft.peek(link.source), item));
      return true;
    },
  };
}

/** Ends the session that the destination knows of. */
function detach(draft: Draft, migration: string, cut?: Cut): void {
  const link = draft.link(migration);
  if (link.attached === "none") return;
  link.attached = "none";
  const machine = machineOf(draft.host(link.destination), migration);
  if (machine?.role !== "destination") return;
  machine.pending = machine.pending.filter((entry) => !("job" in entry && entry.job.type === "load"));
  feed(draft, link.destination, migration, { type: "peer-lost" }, cut);
}

/** As `Migrations.#accept`: the first message of a session says which machine it is for. */
function deliverToDestination(draft: Draft, migration: string, cut: Cut | undefined): boolean {
  const link = draft.link(migration);
  const [item, ...rest] = link.toDestination;
  link.toDestination = rest;
  const message = item!.type === "lazy" ? readBlocks(draft.peek(link.source), item!).read! : item!;
  const host = draft.host(link.destination);
  const { name } = host;
  if (link.attached !== "now") {
    if (machineOf(host, migration) === undefined) {
      const entry = host.journal.entries[migration];
      if (message.type === "begin") {
        const busy = host.daemon!.machines.find(({ role, state }) => {
          return role === "destination" && !["idle", "aborted", "completed"].includes(state.phase);
        });
        if (busy !== undefined && busy.peer !== link.source) {
          link.attached = "now";
          return reply(link, { type: "refuse", code: "MIGRATION_BUSY", reason: "" });
        }
        if (busy !== undefined) {
          const abort = { type: "abort", migration: busy.migration, reason: "superseded" } as const;
          feed(draft, name, busy.migration, { type: "received", message: abort });
        }
        addMachine(host, destinationMachine(host, migration, link.source, initial));
      } else if (entry?.role === "destination" && "source" in entry.record) {
        restoreDestination(draft, host, entry.record);
      }
    } else {
      detach(draft, migration);
    }
    link.attached = "now";
  }
  if (machineOf(host, migration) === undefined) {
    return "migration" in message ? reply(link, { type: "aborted", migration }) : true;
  }
  feed(draft, name, migration, { type: "received", message }, cut);
  return true;
}

function reply(link: Link, message: Link["toSource"][number]): true {
  if (!link.isBroken) link.toSource = [...link.toSource, message];
  return true;
}

function deliverToSource(draft: Draft, migration: string, cut: Cut | undefined): boolean {
  const link = draft.link(migration);
  const [message, ...rest] = link.toSource;
  link.toSource = rest;
  if (machineOf(draft.peek(link.source), migration) === undefined) return true;
  feed(draft, link.source, migration, { type: "received", message: message! }, cut);
  return true;
}

// People.

function ofOperator(world: World, may: (fault: Fault) => boolean): Move[] {
  const moves: Move[] = [];
  const hosts = Object.values(world.hosts);
  for (const host of hosts) {
    if (host.daemon === undefined) continue;
    const { name } = host;
    for (const other of hosts) {
      if (other === host || other.daemon === undefined) continue;
      if (may("recovers")) {
        moves.push({
          label: `the operator runs recover on ${name}, which asks ${other.name}`,
          fault: "recovers",
          apply(draft) {
            draft.faultsLeft -= 1;
            return does(ask(draft, name, other.name, 2));
          },
        });
      }
      if (world.truth.adoptions > 0) {
        moves.push({
          label: `${name} hears from ${other.name} where the domain is`,
          apply: (draft) => learn(draft, name, other.name),
        });
      }
    }
    if (may("adopts")) {
      moves.push({
        label: `the operator runs recover --adopt on ${name}`,
        fault: "adopts",
        apply(draft) {
          draft.faultsLeft -= 1;
          return adopt(draft, name);
        },
      });
      for (const rival of hosts.filter((other) => other !== host && other.daemon !== undefined)) {
        moves.push({
          label: `the operator runs recover --adopt on ${name}, against ${rival.name}`,
          fault: "adopts",
          apply(draft) {
            draft.faultsLeft -= 1;
            return adopt(draft, name, rival.name);
          },
        });
      }
    }
  }
  return moves;
}

function mayMigrate(host: Host): boolean {
  if (host.daemon === undefined || host.guest?.state !== "running") return false;
  if (host.journal.domain?.owner !== host.name || host.daemon.exported === undefined) return false;
  return host.daemon.machines.every(({ role, state }) => {
    return role === "source"
      ? !isUndecided(state.phase)
      : ["idle", "aborted", "completed"].includes(state.phase);
  });
}

function migrate({ from, to }: Hop, migration: string): Move {
  return {
    label: `${migration}: the operator migrates the domain from ${from} to ${to}`,
    apply(draft) {
      draft.hops += 1;
      const host = draft.host(from);
      const domain = host.journal.domain!;
      const replicas = host.journal.replicas
        .filter((replica) => replica.host !== from && replica.generation > 0)
        .map(({ host: name, generation }) => ({ host: name, generation }));
      const context = contextOf(domain, { migration, destination: to, log: host.journal.log, replicas });
      const [state, effects] = draft.parts.source.start(context);
      draft.addLink(migration, {
        source: from,
        destination: to,
        isBroken: false,
        sourceIsUp: false,
        attached: "none",
        toDestination: [],
        toSource: [],
      });
      addMachine(host, {
        role: "source",
        migration,
        peer: to,
        context,
        state,
        pending: [],
        stream: undefined,
        written: 0,
      });
      perform(draft, from, migration, effects);
      return true;
    },
  };
}
