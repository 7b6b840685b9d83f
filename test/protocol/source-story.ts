/** Walks a source through its phases, so that a test can begin where its sentence does. */
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { GenerationLog } from "../../protocol/generation-log.ts";
import type { CopyAtDestination, DestinationMessage } from "../../protocol/messages.ts";
import {
  type SourceContext,
  type SourceEffect,
  type SourceEvent,
  type SourceRecord,
  type SourceState,
  start,
  step,
} from "../../protocol/source.ts";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";

export const BLOCK_COUNT = 16;

export function blocks(...indexes: number[]): BlockBitmap {
  return BlockBitmap.of(BLOCK_COUNT, indexes);
}

export const COUNTS = { pushed: 1, pulled: 2, superseded: 3, late: 4 };

export class SourceStory {
  readonly context: SourceContext;
  state: SourceState;
  effects: readonly SourceEffect[];

  constructor(options: Partial<SourceContext> = {}) {
    const written = [blocks(2)];
    this.context = {
      migration: "m1",
      destination: "B",
      domain: {
        id: "d",
        name: "d",
        hypervisor: "h",
        memoryBytes: 1,
        config: "",
        vbds: [{ name: "root", sizeBytes: BLOCK_COUNT * BLOCK_SIZE_BYTES }],
      },
      dataBytes: 0,
      generation: 4,
      // A replica of generation 2 lacks what generation 3 wrote.
      log: GenerationLog.of([BLOCK_COUNT], [{ first: 3, last: 3, written }]),
      replicas: [{ host: "B", generation: 2 }],
      inFlightBlocksMax: 8,
      iterationsMax: 4,
      totalSentFactorMax: 3,
      remainingBlocksToFreeze: 0,
      hotSendsMax: 2,
      ...options,
    };
    [this.state, this.effects] = start(this.context);
  }

  static restored([state, effects]: readonly [SourceState, readonly SourceEffect[]]): SourceStory {
    const story = new SourceStory();
    story.state = state;
    story.effects = effects;
    return story;
  }

  on(event: SourceEvent): readonly SourceEffect[] {
    [this.state, this.effects] = step(this.state, event, this.context);
    return this.effects;
  }

  receives(message: DestinationMessage): readonly SourceEffect[] {
    return this.on({ type: "received", message });
  }

  /** What the last step sent, by type. */
  get sent(): string[] {
    return this.effects.flatMap((effect) => (effect.type === "send" ? [effect.message.type] : []));
  }

  get names(): string[] {
    return this.effects.map((effect) =>
      effect.type === "send" ? `send ${effect.message.type}` : effect.type,
    );
  }

  get persisted(): SourceRecord[] {
    return this.effects.flatMap((effect) => (effect.type === "persist" ? [effect.record] : []));
  }

  /** Blocks that the last step handed out for sending. */
  get handedOut(): number[] {
    return this.effects.flatMap((effect) => {
      if (effect.type !== "send-blocks") return [];
      return effect.runs.flatMap(({ start, count }) =>
        Array.from({ length: count }, (_, index) => start + index),
      );
    });
  }

  get tickets(): number[] {
    return this.effects.flatMap((effect) => (effect.type === "send-blocks" ? [effect.ticket] : []));
  }

  accepted(
    copy: CopyAtDestination = { kind: "replica", generation: 2 },
    options: { session?: string; memoryTaken?: number } = {},
  ) {
    const { session = "s1", memoryTaken = 0 } = options;
    return this.receives({ type: "accept", version: 1, session, copies: [copy], memoryTaken });
  }

  /** The bitmaps rung: block 2 of generation 3, and what the open generation wrote. */
  toPreCopy(written: BlockBitmap = blocks(5)): this {
    this.on({ type: "connected" });
    this.accepted();
    this.on({ type: "tracking", attempt: 1, atMs: 0, vbds: [{ written }] });
    return this;
  }

  storeAll(): readonly SourceEffect[] {
    for (const ticket of this.tickets) this.receives({ type: "stored", ticket });
    return this.effects;
  }

  dirty(...indexes: number[]): readonly SourceEffect[] {
    return this.on({ type: "dirty", attempt: 1, atMs: 10, blocks: [blocks(...indexes)] });
  }

  toMemoryCopy(): this {
    this.toPreCopy();
    this.storeAll();
    this.dirty();
    return this;
  }

  toFreezing(): this {
    this.toMemoryCopy();
    this.receives({ type: "memory-ready", attempt: 1 });
    this.on({ type: "memory-round", attempt: 1, converged: true });
    this.dirty();
    return this;
  }

  freezes(options: { attempt?: number; dirty?: BlockBitmap; written?: BlockBitmap } = {}): this {
    const { attempt = 1, dirty = blocks(), written = blocks(5) } = options;
    this.on({ type: "domain-frozen", attempt });
    this.on({ type: "fenced", attempt, dirty: [dirty], written: [written] });
    this.on({ type: "memory-ended", attempt, memoryBytes: 100 });
    return this;
  }

  toPreparing(dirty: BlockBitmap = blocks(7)): this {
    return this.toFreezing().freezes({ dirty });
  }

  toHandingOver(): this {
    this.toPreparing();
    this.receives({ type: "prepared" });
    return this;
  }

  toPostCopy(missing: BlockBitmap = blocks(7)): this {
    this.toHandingOver();
    this.receives({ type: "resumed", missing: [missing] });
    return this;
  }

  toFinishing(): this {
    this.toPostCopy();
    this.receives({ type: "synchronised", counts: COUNTS });
    return this;
  }

  reconnects(): readonly SourceEffect[] {
    this.on({ type: "peer-lost" });
    return this.on({ type: "connected" });
  }
}
