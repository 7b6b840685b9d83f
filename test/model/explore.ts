/**
 * Breadth-first exploration: every state that can be reached, each once. The first state that breaks a rule
 * gives the shortest trace. Afterwards every state is asked for a fault-free way to a good end.
 */

import { type Cut, die } from "./daemon.ts";
import { type Hop, type Move, movesOf } from "./moves.ts";
import { brokenRule, isGoodEnd, reasonOf } from "./rules.ts";
import { Draft, keyOf, type Parts, Violation, type World } from "./state.ts";

export type Exploration = {
  states: number;
  transitions: number;
  depth: number;
  /** Of processor time: what a machine with other work does not change. */
  cpuSeconds: number;
  /** False: `statesMax` or `depthMax` ended it. */
  isComplete: boolean;
  violation: { rule: string; trace: readonly string[] } | undefined;
  ends: Readonly<Record<string, number>>;
};

export type Limits = { depthMax: number; statesMax: number };

type Edges = { from: number[]; to: number[] };

export function explore(
  start: World,
  { parts, plan }: { parts: Parts; plan: readonly Hop[] },
  { depthMax, statesMax }: Limits,
): Exploration {
  const startedAt = process.cpuUsage();
  const ids = new Map<string, number>();
  const numbers = new Map<string, number>();
  const parents: number[] = [-1];
  const labels: string[] = ["start"];
  const edges: Edges = { from: [], to: [] };
  const good: number[] = [];
  const ends: Record<string, number> = {};
  let transitions = 0;
  let depth = 0;
  let violation: Exploration["violation"];
  let isComplete = true;

  const nameOf = (world: World): string => {
    return keyOf(world)
      .map((text) => {
        let number = numbers.get(text);
        if (number === undefined) numbers.set(text, (number = numbers.size));
        return number.toString(36);
      })
      .join(".");
  };
  const traceTo = (id: number): string[] => {
    const trace: string[] = [];
    for (let at = id; at > 0; at = parents[at]!) trace.unshift(labels[at]!);
    return trace;
  };

  ids.set(nameOf(start), 0);
  let frontier: { id: number; world: World }[] = [{ id: 0, world: start }];
  const reach = (
    from: number,
    world: World,
    label: string,
    isFault: boolean,
  ): { id: number; isNew: boolean } => {
    transitions += 1;
    const name = nameOf(world);
    let id = ids.get(name);
    const isNew = id === undefined;
    if (id === undefined) {
      id = parents.length;
      ids.set(name, id);
      parents.push(from);
      labels.push(label);
    }
    if (!isFault) {
      edges.from.push(from);
      edges.to.push(id);
    }
    return { id, isNew };
  };

  search: while (frontier.length > 0) {
    const next: typeof frontier = [];
    for (const { id, world } of frontier) {
      if (isGoodEnd(world)) {
        good.push(id);
        const running = Object.values(world.hosts).find(({ guest }) => guest?.state === "running");
        const reason = reasonOf(world);
        const isPlain = running !== undefined && reason?.startsWith("conflict") !== true;
        const end = isPlain ? `runs on ${running.name}` : reason!;
        ends[end] = (ends[end] ?? 0) + 1;
      }
      for (const move of movesOf(world, plan)) {
        for (const { label, result, isFault } of outcomes(world, move, parts)) {
          if (typeof result === "string") {
            violation = { rule: result, trace: [...traceTo(id), label] };
            break search;
          }
          const reached = reach(id, result, label, isFault);
          if (!reached.isNew) continue;
          const rule = brokenRule(result);
          if (rule !== undefined) {
            violation = { rule, trace: traceTo(reached.id) };
            break search;
          }
          next.push({ id: reached.id, world: result });
        }
      }
      if (parents.length > statesMax) {
        isComplete = false;
        break search;
      }
    }
    if (next.length > 0) depth += 1;
    frontier = next;
    if (depth >= depthMax && frontier.length > 0) {
      isComplete = false;
      break;
    }
  }
  if (violation === undefined && isComplete) {
    const stuck = firstStuck(parents.length, edges, good);
    if (stuck !== undefined) {
      violation = { rule: "no fault-free way leads to a good end from here", trace: traceTo(stuck) };
    }
  }
  const { user, system } = process.cpuUsage(startedAt);
  const cpuSeconds = (user + system) / 1e6;
  return { states: parents.length, transitions, depth, cpuSeconds, isComplete, violation, ends };
}

/** What comes of a move: its end, and, where its host may still die, each point at which it dies half-way. */
function outcomes(
  world: World,
  move: Move,
  parts: Parts,
): { label: string; result: World | string; isFault: boolean }[] {
  const all: { label: string; result: World | string; isFault: boolean }[] = [];
  const cut: Cut = { effects: Infinity, count: 0 };
  const whole = attempt(world, move, parts, cut);
  if (whole === undefined) return [];
  all.push({ label: move.label, result: whole, isFault: move.fault !== undefined });
  const { stepOf } = move;
  if (stepOf === undefined || world.faultsLeft <= (move.fault === undefined ? 0 : 1)) return all;
  for (const kind of ["crashes", "powers"] as const) {
    if (world.left[kind] === 0) continue;
    for (let effects = 1; effects < cut.count; effects++) {
      const result = attempt(world, move, parts, { effects, count: 0 }, (draft) => {
        draft.spend(kind);
        die(draft, stepOf, { power: kind === "powers" });
      });
      const how = kind === "powers" ? "loses power" : "is killed";
      const label = `${move.label}, and after ${effects} of ${cut.count} effects ${stepOf} ${how}`;
      if (result !== undefined) all.push({ label, result, isFault: true });
    }
  }
  return all;
}

function attempt(
  world: World,
  move: Move,
  parts: Parts,
  cut: Cut,
  then?: (draft: Draft) => void,
): World | string | undefined {
  const draft = new Draft(world, parts);
  try {
    if (move.apply(draft, cut) === false) return undefined;
    then?.(draft);
  } catch (error) {
    if (error instanceof Violation) return error.message;
    throw error;
  }
  return draft.done();
}

/** Backwards from the good ends along fault-free moves; the first state, in the order of discovery, that is not met. */
function firstStuck(states: number, { from, to }: Edges, good: readonly number[]): number | undefined {
  const starts = new Uint32Array(states + 1);
  for (const id of to) starts[id + 1]! += 1;
  for (let id = 0; id < states; id++) starts[id + 1]! += starts[id]!;
  const sources = new Uint32Array(from.length);
  const fill = starts.slice();
  for (const [edge, id] of to.entries()) sources[fill[id]!++] = from[edge]!;
  const met = new Uint8Array(states);
  const queue = [...good];
  for (const id of queue) met[id] = 1;
  while (queue.length > 0) {
    const id = queue.pop()!;
    for (let edge = starts[id]!; edge < starts[id + 1]!; edge++) {
      const source = sources[edge]!;
      if (met[source] === 1) continue;
      met[source] = 1;
      queue.push(source);
    }
  }
  const stuck = met.indexOf(0);
  return stuck < 0 ? undefined : stuck;
}
