/**
 * Exploration of every state that can be reached, each once. States with no fault come first, then those that take
 * one, and so on, each layer breadth first: a state is met with the most faults left that it can be met with, so that
 * it need not be told apart by how many are left, and the first that breaks a rule has a trace with the fewest faults.
 * Afterwards every state is asked for a fault-free way to a good end.
 */

import { type Cut, die } from "./daemon.ts";
import { type Hop, type Move, movesOf } from "./moves.ts";
import { WorldNames } from "./names.ts";
import { brokenRule, isGoodEnd, reasonOf } from "./rules.ts";
import { Draft, mayHappen, type Parts, Violation, type World } from "./state.ts";
import { Numbers, TupleTable } from "./table.ts";

export type Exploration = {
  states: number;
  transitions: number;
  /** Moves from the start to the state that takes the most. */
  depth: number;
  /** Of processor time: what a machine with other work does not change. */
  cpuSeconds: number;
  /** False: `statesMax` ended it. */
  isComplete: boolean;
  violation: { rule: string; trace: readonly string[] } | undefined;
  ends: Readonly<Record<string, number>>;
};

export type Limits = { statesMax: number };

type Found = { id: number; world: World };
type Problem = { rule: string; at: number; last?: string };
/** A seed of a later layer: not met before all that take fewer faults were. */
type Seed = { world: World; from: number; choice: number };

export function explore(
  start: World,
  { parts, plan }: { parts: Parts; plan: readonly Hop[] },
  limits: Limits,
): Exploration {
  const startedAt = process.cpuUsage();
  const search = new Search(start, parts, plan);
  const problem = search.run(limits);
  const isComplete = problem === undefined && search.states <= limits.statesMax;
  const stuck = isComplete ? search.firstStuck() : undefined;
  const found =
    stuck === undefined ? problem : { rule: "no fault-free way leads to a good end from here", at: stuck };
  const { user, system } = process.cpuUsage(startedAt);
  return {
    states: search.states,
    transitions: search.transitions,
    depth: search.depth,
    cpuSeconds: (user + system) / 1e6,
    isComplete,
    violation: found === undefined ? undefined : { rule: found.rule, trace: search.traceTo(found) },
    ends: search.ends,
  };
}

class Search {
  transitions = 0;
  readonly ends: Record<string, number> = {};
  readonly #start: World;
  readonly #parts: Parts;
  readonly #plan: readonly Hop[];
  readonly #names = new WorldNames();
  readonly #known: TupleTable;
  /** By state: where it was met first, by which choice there, and how many moves that is from the start. */
  readonly #parents = new Numbers();
  readonly #choices = new Numbers();
  readonly #depths = new Numbers();
  /** Fault-free moves. */
  readonly #edges = { from: new Numbers(), to: new Numbers() };
  readonly #good: number[] = [];

  constructor(start: World, parts: Parts, plan: readonly Hop[]) {
    this.#start = start;
    this.#parts = parts;
    this.#plan = plan;
    this.#known = new TupleTable(Object.keys(start.hosts).length + plan.length + 2);
  }

  get states(): number {
    return this.#known.size;
  }

  get depth(): number {
    return this.#depths.all().reduce((most, depth) => Math.max(most, depth), 0);
  }

  /** The first state that breaks a rule; undefined also where there are more than `statesMax`. */
  run({ statesMax }: Limits): Problem | undefined {
    let seeds: Seed[] = [{ world: this.#start, from: 0, choice: 0 }];
    let layer: Found[] = [];
    while (seeds.length > 0 || layer.length > 0) {
      for (const seed of seeds) {
        const problem = this.#meet(seed, layer);
        if (problem !== undefined) return problem;
      }
      const isLast = layer[0]?.world.faultsLeft === 0;
      const queue = new Queue(layer, { keeps: !isLast });
      for (let found = queue.next(); found !== undefined; found = queue.next()) {
        const problem = this.#goOn(found, layer);
        if (problem !== undefined) return problem;
        if (this.states > statesMax) return undefined;
      }
      const next: Found[] = [];
      const later: Seed[] = [];
      if (!isLast) {
        for (const found of layer) {
          const problem = this.#goWrong(found, next, later);
          if (problem !== undefined) return problem;
        }
      }
      layer = next;
      seeds = later;
    }
    return undefined;
  }

  /** Backwards from the good ends along fault-free moves; the first state, in the order of discovery, that is not met. */
  firstStuck(): number | undefined {
    const { from, to } = this.#edges;
    const starts = new Uint32Array(this.states + 1);
    for (const id of to.all()) starts[id + 1]! += 1;
    for (let id = 0; id < this.states; id++) starts[id + 1]! += starts[id]!;
    const sources = new Uint32Array(from.size);
    const fill = starts.slice();
    for (const [edge, id] of to.all().entries()) sources[fill[id]!++] = from.at(edge);
    const met = new Uint8Array(this.states);
    const queue = [...this.#good];
    for (const id of queue) met[id] = 1;
    for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
      for (const source of sources.subarray(starts[id]!, starts[id + 1]!)) {
        if (met[source] === 1) continue;
        met[source] = 1;
        queue.push(source);
      }
    }
    const stuck = met.indexOf(0);
    return stuck < 0 ? undefined : stuck;
  }

  /** What happened up to the problem, by going the same way again. */
  traceTo({ at, last }: Problem): string[] {
    const choices: number[] = [];
    for (let id = at; id > 0; id = this.#parents.at(id)) choices.unshift(this.#choices.at(id));
    const trace: string[] = [];
    let world = this.#start;
    for (const choice of choices) {
      const { move, kind, effects } = unpacked(choice);
      const chosen = movesOf(world, this.#plan)[move]!;
      const count = countOf(world, chosen, this.#parts);
      trace.push(effects === 0 ? chosen.label : cutLabel(chosen, { kind, effects, count }));
      world = (effects === 0 ? whole : cutShort)(world, chosen, this.#parts, { kind, effects }) as World;
    }
    return last === undefined ? trace : [...trace, last];
  }

  /** All that can happen without a fault. */
  #goOn({ id, world }: Found, layer: Found[]): Problem | undefined {
    this.#end(id, world);
    for (const [index, move] of movesOf(world, this.#plan).entries()) {
      if (move.fault !== undefined) continue;
      const result = whole(world, move, this.#parts);
      if (result === undefined) continue;
      if (typeof result === "string") return { rule: result, at: id, last: move.label };
      const choice = packed({ move: index, kind: "crashes", effects: 0 });
      const problem = this.#meet({ world: result, from: id, choice }, layer, { isEdge: true });
      if (problem !== undefined) return problem;
    }
    return undefined;
  }

  /** All that takes a fault, into the next layer; what takes two, to be met in the one after that. */
  #goWrong({ id, world }: Found, next: Found[], later: Seed[]): Problem | undefined {
    for (const [index, move] of movesOf(world, this.#plan).entries()) {
      const isFault = move.fault !== undefined;
      const results: { choice: number; result: World | string | undefined; label: string }[] = [];
      if (isFault) {
        const choice = packed({ move: index, kind: "crashes", effects: 0 });
        results.push({ choice, result: whole(world, move, this.#parts), label: move.label });
      }
      if (move.stepOf !== undefined && world.faultsLeft > (isFault ? 1 : 0)) {
        const count = countOf(world, move, this.#parts);
        for (const kind of DEATHS.filter((death) => mayHappen(world, death))) {
          for (let effects = 1; effects < count; effects++) {
            const result = cutShort(world, move, this.#parts, { kind, effects });
            const label = cutLabel(move, { kind, effects, count });
            results.push({ choice: packed({ move: index, kind, effects }), result, label });
          }
        }
      }
      for (const { choice, result, label } of results) {
        if (result === undefined) continue;
        if (typeof result === "string") return { rule: result, at: id, last: label };
        const seed: Seed = { world: result, from: id, choice };
        if (result.faultsLeft < world.faultsLeft - 1) later.push(seed);
        else {
          const problem = this.#meet(seed, next);
          if (problem !== undefined) return problem;
        }
      }
    }
    return undefined;
  }

  /** A state that was reached: adds it to `layer` when it is new. */
  #meet({ world, from, choice }: Seed, layer: Found[], { isEdge = false } = {}): Problem | undefined {
    this.transitions += 1;
    const isKnown = this.#known.size;
    const id = this.#known.add(this.#names.nameOf(world, this.#plan.length));
    if (isEdge) {
      this.#edges.from.push(from);
      this.#edges.to.push(id);
    }
    if (id < isKnown) return undefined;
    this.#parents.push(from);
    this.#choices.push(choice);
    this.#depths.push(id === 0 ? 0 : this.#depths.at(from) + 1);
    layer.push({ id, world });
    const rule = brokenRule(world);
    return rule === undefined ? undefined : { rule, at: id };
  }

  #end(id: number, world: World): void {
    if (!isGoodEnd(world)) return;
    this.#good.push(id);
    const running = Object.values(world.hosts).find(({ guest }) => guest?.state === "running");
    const reason = reasonOf(world);
    const isPlain = running !== undefined && reason?.startsWith("conflict") !== true;
    const end = isPlain ? `runs on ${running.name}` : reason!;
    this.ends[end] = (this.ends[end] ?? 0) + 1;
  }
}

/** Walks along a list that grows; without `keeps` it lets go of what it has passed. */
class Queue {
  readonly #items: (Found | undefined)[];
  readonly #keeps: boolean;
  #at = 0;

  constructor(items: (Found | undefined)[], { keeps }: { keeps: boolean }) {
    this.#items = items;
    this.#keeps = keeps;
  }

  next(): Found | undefined {
    const item = this.#items[this.#at];
    if (!this.#keeps) this.#items[this.#at] = undefined;
    this.#at += 1;
    return item;
  }
}

// One move: as a whole, or until its host dies half-way.

const DEATHS = ["crashes", "powers"] as const;
type CutShort = { kind: (typeof DEATHS)[number]; effects: number };
const EFFECTS_MAX = 64;

/** `effects` 0: the whole move. */
function packed({ move, kind, effects }: CutShort & { move: number }): number {
  return (move * DEATHS.length + DEATHS.indexOf(kind)) * EFFECTS_MAX + effects;
}

function unpacked(choice: number): CutShort & { move: number } {
  const rest = Math.floor(choice / EFFECTS_MAX);
  const kind = DEATHS[rest % DEATHS.length]!;
  return { move: Math.floor(rest / DEATHS.length), kind, effects: choice % EFFECTS_MAX };
}

function cutLabel({ label, stepOf }: Move, { kind, effects, count }: CutShort & { count: number }): string {
  const how = kind === "powers" ? "loses power" : "is killed";
  return `${label}, and after ${effects} of ${count} effects ${stepOf} ${how}`;
}

function whole(world: World, move: Move, parts: Parts): World | string | undefined {
  return attempt(world, move, parts, { effects: Infinity, count: 0 });
}

function cutShort(
  world: World,
  move: Move,
  parts: Parts,
  { kind, effects }: CutShort,
): World | string | undefined {
  return attempt(world, move, parts, { effects, count: 0 }, (draft) => {
    draft.faultsLeft -= 1;
    die(draft, move.stepOf!, { power: kind === "powers" });
  });
}

/** How many effects the move has. */
function countOf(world: World, move: Move, parts: Parts): number {
  const cut: Cut = { effects: Infinity, count: 0 };
  return attempt(world, move, parts, cut) === undefined ? 0 : cut.count;
}

/** Undefined: there was nothing to do. Text: the rule that the step itself broke. */
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
