/** What one migration sent, against what it had to send: the promise of incremental migration, counted. */
import type {
  BlocksPurpose,
  CopyAtDestination,
  DestinationMessage,
  SourceMessage,
} from "../../protocol/messages.ts";
import type { SourceContext } from "../../protocol/source.ts";
import type { BlockRun } from "../../protocol/units.ts";

export class SourceMeter {
  /** Per vbd: the blocks that were sent at all, and how often in all. */
  readonly #sent: Set<number>[] = [];
  sentBlocks = 0;
  sessions = 0;
  /** Of this session, in post-copy. */
  #pushed = new Set<string>();
  #repeated: string | undefined;
  #copies: readonly CopyAtDestination[] = [];
  #isByBitmaps = false;
  /** A replica of which the bitmaps were not used. */
  #wasted: string | undefined;
  /** Blocks that the guest wrote at the destination before they were sent. */
  #superseded = 0;
  /** Per vbd what was written since the replica, when all went by bitmaps. */
  #changed: readonly ReadonlySet<number>[] | undefined;

  get distinctBlocks(): number {
    return this.#sent.reduce((sum, blocks) => sum + blocks.size, 0);
  }

  sessionBegan(): void {
    this.sessions += 1;
    this.#pushed.clear();
  }

  sessionLost(): void {
    this.#pushed.clear();
  }

  sent(purpose: BlocksPurpose, vbd: number, runs: readonly BlockRun[]): void {
    for (const { start, count } of runs) {
      for (let block = start; block < start + count; block++) {
        this.sentBlocks += 1;
        let blocks = this.#sent[vbd];
        if (blocks === undefined) this.#sent[vbd] = blocks = new Set();
        blocks.add(block);
        if (purpose === "precopy") continue;
        const key = `${vbd}:${block}`;
        if (this.#pushed.has(key)) this.#repeated = key;
        this.#pushed.add(key);
      }
    }
  }

  /** Called with every message: from `accept`, `ladder` and `prepare` follows what had to be sent. */
  observe(context: SourceContext, message: SourceMessage | DestinationMessage): void {
    if (message.type === "accept") this.#copies = message.copies;
    if (message.type === "synchronised") this.#superseded = message.counts.superseded;
    if (message.type === "ladder") {
      for (const [vbd, { rung, reason }] of message.choices.entries()) {
        // Every replica is known to whoever owns the domain, and every tracker here can be trusted.
        if (this.#copies[vbd]!.kind === "replica" && rung !== "bitmaps") this.#wasted = `${rung}: ${reason}`;
      }
    }
    if (message.type === "ladder")
      this.#isByBitmaps = message.choices.every(({ rung }) => rung === "bitmaps");
    if (message.type !== "prepare" || !this.#isByBitmaps) return;
    this.#changed = message.written.map((written, vbd) => {
      const copy = this.#copies[vbd]!;
      const since = copy.kind === "replica" ? context.log.since(copy.generation)![vbd]! : [];
      return new Set([...written, ...since]);
    });
  }

  /** A broken promise, at any time. */
  get violation(): string | undefined {
    if (this.#wasted !== undefined) return this.#wasted;
    return this.#repeated && `block ${this.#repeated} travelled twice in one session of post-copy`;
  }

  /** Why this was not exactly what had changed, or undefined. Only for a migration that was never interrupted. */
  complaint(): string | undefined {
    if (this.sessions !== 1 || this.#changed === undefined) return undefined;
    let absentCount = 0;
    for (const [vbd, blocks] of this.#changed.entries()) {
      const sent = this.#sent[vbd] ?? new Set();
      const extra = [...sent].filter((block) => !blocks.has(block));
      if (extra.length > 0) return `vbd ${vbd}: blocks ${extra.join(", ")} had not changed and were sent`;
      absentCount += [...blocks].filter((block) => !sent.has(block)).length;
    }
    if (absentCount <= this.#superseded) return undefined;
    return `${absentCount} changed blocks were not sent, and ${this.#superseded} superseded`;
  }
}
