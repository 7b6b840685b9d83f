/** Who waits for which missing blocks, and which of them the source was asked for. */

import type { BlockIndex, BlockRun } from "../protocol/units.ts";

type Wait = { blocksLeft: number; resolve: () => void; reject: (error: Error) => void };

export class BlockWaits {
  readonly #pull: (runs: readonly BlockRun[]) => void;
  /** Whether asking for a block makes sense: it is missing, and nothing that would end that is in progress. */
  readonly #wanted: (block: BlockIndex) => boolean;
  readonly #waits = new Map<BlockIndex, Wait[]>();
  readonly #requested = new Set<BlockIndex>();

  constructor(pull: (runs: readonly BlockRun[]) => void, wanted: (block: BlockIndex) => boolean) {
    this.#pull = pull;
    this.#wanted = wanted;
  }

  /** Completes when every block of `runs` was resolved. Asks for those that nobody has asked for. */
  wait(runs: readonly BlockRun[]): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const wait: Wait = { blocksLeft: 0, resolve, reject };
    for (const block of blocksOf(runs)) {
      const waits = this.#waits.get(block);
      if (waits === undefined) this.#waits.set(block, [wait]);
      else waits.push(wait);
      wait.blocksLeft++;
    }
    if (wait.blocksLeft === 0) resolve();
    this.#request(blocksOf(runs));
    return promise;
  }

  /** Asks for the blocks that are waited for and wanted, and were not asked for. */
  requestNew(): void {
    if (this.#waits.size > 0) this.#request([...this.#waits.keys()].sort((a, b) => a - b));
  }

  /** All blocks that are waited for and wanted, as if they had just been asked for and nothing before. */
  requestAll(): readonly BlockRun[] {
    const blocks = [...this.#waits.keys()].filter(this.#wanted).sort((a, b) => a - b);
    this.#requested.clear();
    for (const block of blocks) this.#requested.add(block);
    return runsOf(blocks);
  }

  /** Of `run`, the blocks that somebody had asked for. */
  countRequested(run: BlockRun): number {
    return [...this.#among(this.#requested, run)].length;
  }

  /** The blocks are present: wakes those who wait for no other. */
  resolve(run: BlockRun): void {
    for (const block of this.#among(this.#requested, run)) this.#requested.delete(block);
    for (const block of this.#among(this.#waits, run)) {
      const waits = this.#waits.get(block)!;
      this.#waits.delete(block);
      for (const wait of waits) if (--wait.blocksLeft === 0) wait.resolve();
    }
  }

  rejectAll(error: Error): void {
    const all = [...this.#waits.values()].flat();
    this.#waits.clear();
    this.#requested.clear();
    for (const wait of new Set(all)) wait.reject(error);
  }

  #request(blocks: Iterable<BlockIndex>): void {
    const fresh: BlockIndex[] = [];
    for (const block of blocks) {
      if (this.#requested.has(block) || !this.#wanted(block)) continue;
      this.#requested.add(block);
      fresh.push(block);
    }
    // Last, as the answer may come in the call.
    if (fresh.length > 0) this.#pull(runsOf(fresh));
  }

  /** The members of a set or map that lie in `run`; few are waited for, and a run may be long. */
  *#among(
    members: { size: number; has(block: BlockIndex): boolean; keys(): Iterable<BlockIndex> },
    run: BlockRun,
  ) {
    if (members.size === 0) return;
    if (members.size < run.count) {
      for (const block of [...members.keys()]) {
        if (block >= run.start && block < run.start + run.count) yield block;
      }
      return;
    }
    for (let block = run.start; block < run.start + run.count; block++) if (members.has(block)) yield block;
  }
}

function* blocksOf(runs: readonly BlockRun[]): Generator<BlockIndex> {
  for (const run of runs) for (let block = run.start; block < run.start + run.count; block++) yield block;
}

/** `blocks` in rising order, as runs. */
function runsOf(blocks: readonly BlockIndex[]): readonly BlockRun[] {
  const runs: { start: BlockIndex; count: number }[] = [];
  for (const block of blocks) {
    const last = runs.at(-1);
    if (last !== undefined && last.start + last.count === block) last.count++;
    else runs.push({ start: block, count: 1 });
  }
  return runs;
}
