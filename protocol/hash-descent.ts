/**
 * The ladder's hash rung for one vbd: both ends digest 4 MiB regions of their copies; of the regions that
 * differ, their blocks. What still differs is what has to be sent. A Merkle tree of two levels: 1 TiB is
 * 262,144 region digests (4 MiB on the wire), and a changed region costs 16 KiB more. PROTOCOL.md §8.7.
 *
 * The source's copy may change meanwhile: its writes are tracked since before the first digest, so a block
 * that is compared too early is sent again as dirty.
 */

import { BlockBitmap } from "./block-bitmap.ts";
import { DIGESTS_PER_MESSAGE_MAX, HASH_REGION_BLOCKS } from "./limits.ts";
import type { HashLevel } from "./messages.ts";

export type HashQuestion = { level: HashLevel; start: number; count: number };

export class HashDescent {
  /** Found to differ so far. */
  readonly differing: BlockBitmap;
  readonly #questions: HashQuestion[] = [];
  /** Asked and not yet compared, by `level:start`. */
  readonly #open = new Map<string, HashQuestion>();

  constructor(blockCount: number) {
    this.differing = new BlockBitmap(blockCount);
    const regionCount = Math.ceil(blockCount / HASH_REGION_BLOCKS);
    for (let start = 0; start < regionCount; start += DIGESTS_PER_MESSAGE_MAX) {
      const count = Math.min(DIGESTS_PER_MESSAGE_MAX, regionCount - start);
      this.#questions.push({ level: "region", start, count });
    }
  }

  /** An independent descent that goes on from here as this one would: for whoever tries several futures. */
  clone(): HashDescent {
    const copy = new HashDescent(this.differing.blockCount);
    copy.differing.union(this.differing);
    copy.#questions.splice(0, Infinity, ...this.#questions);
    for (const [key, question] of this.#open) copy.#open.set(key, question);
    return copy;
  }

  /** Everything that decides what it does next. */
  snapshot(): unknown {
    return [this.differing, this.#questions, [...this.#open.values()]];
  }

  get isDone(): boolean {
    return this.#questions.length === 0 && this.#open.size === 0;
  }

  /** Questions to ask now, so that at most `openMax` are open. */
  ask(openMax: number): HashQuestion[] {
    const asked = this.#questions.splice(0, Math.max(0, openMax - this.#open.size));
    for (const question of asked) this.#open.set(keyOf(question), question);
    return asked;
  }

  /** The open question that an answer belongs to; undefined when nobody asked. */
  openQuestion(level: HashLevel, start: number): HashQuestion | undefined {
    return this.#open.get(keyOf({ level, start }));
  }

  compared(level: HashLevel, start: number, differing: readonly number[]): void {
    if (!this.#open.delete(keyOf({ level, start }))) return;
    for (const index of differing) {
      if (level === "block") this.differing.add(index);
      else this.#questions.unshift(this.#blocksOf(index));
    }
  }

  #blocksOf(region: number): HashQuestion {
    const start = region * HASH_REGION_BLOCKS;
    const count = Math.min(HASH_REGION_BLOCKS, this.differing.blockCount - start);
    return { level: "block", start, count };
  }
}

function keyOf({ level, start }: { level: HashLevel; start: number }): string {
  return `${level}:${start}`;
}
