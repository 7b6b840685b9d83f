/** Walks a destination through its phases, so that a test can begin where its sentence does. */
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import {
  type DestinationEffect,
  type DestinationEvent,
  type DestinationRecord,
  type DestinationState,
  initial,
  step,
} from "../../protocol/destination.ts";
import type { CopyAtDestination, SourceMessage } from "../../protocol/messages.ts";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";

export const BLOCK_COUNT = 16;
export const COUNTS = { pushed: 1, pulled: 2, superseded: 3, late: 4 };

export const DOMAIN = {
  id: "d",
  name: "d",
  hypervisor: "h",
  memoryBytes: 1,
  config: "",
  vbds: [{ name: "root", sizeBytes: BLOCK_COUNT * BLOCK_SIZE_BYTES }],
};

export const BEGUN = { migration: "m1", generation: 4, domain: DOMAIN };

export function blocks(...indexes: number[]): BlockBitmap {
  return BlockBitmap.of(BLOCK_COUNT, indexes);
}

export class DestinationStory {
  state: DestinationState = initial;
  effects: readonly DestinationEffect[] = [];

  static restored([state, effects]: readonly [
    DestinationState,
    readonly DestinationEffect[],
  ]): DestinationStory {
    const story = new DestinationStory();
    story.state = state;
    story.effects = effects;
    return story;
  }

  on(event: DestinationEvent): readonly DestinationEffect[] {
    [this.state, this.effects] = step(this.state, event, { source: "A", session: "s1" });
    return this.effects;
  }

  receives(message: SourceMessage): readonly DestinationEffect[] {
    return this.on({ type: "received", message });
  }

  get names(): string[] {
    return this.effects.map((effect) =>
      effect.type === "send" ? `send ${effect.message.type}` : effect.type,
    );
  }

  get persisted(): DestinationRecord[] {
    return this.effects.flatMap((effect) => (effect.type === "persist" ? [effect.record] : []));
  }

  begins(migration = "m1"): readonly DestinationEffect[] {
    return this.receives({
      type: "begin",
      version: 1,
      migration,
      generation: 4,
      domain: DOMAIN,
      dataBytes: 0,
    });
  }

  handsOver(): readonly DestinationEffect[] {
    return this.receives({ type: "handover", migration: "m1", generation: 5 });
  }

  receivesBlocks(ticket: number, purpose: "precopy" | "push" = "precopy"): readonly DestinationEffect[] {
    const runs = [{ start: 0, count: 1 }];
    return this.receives({
      type: "blocks",
      ticket,
      purpose,
      vbd: 0,
      runs,
      zeroes: [],
      data: new Uint8Array(4096),
    });
  }

  toExamining(): this {
    this.begins();
    return this;
  }

  toReceiving(copy: CopyAtDestination = { kind: "none" }): this {
    this.toExamining().on({ type: "examined", copies: [copy] });
    return this;
  }

  toOpen(): this {
    this.toReceiving().receives({ type: "ladder", choices: [{ rung: "allocated", reason: "none" }] });
    return this;
  }

  toMemory(): this {
    this.toOpen().receives({ type: "log", entries: [], replicas: [{ host: "C", generation: 2 }] });
    this.receives({ type: "memory-begin", attempt: 1 });
    this.on({ type: "memory-ready", attempt: 1 });
    return this;
  }

  prepares(attempt = 1): readonly DestinationEffect[] {
    return this.receives({ type: "prepare", attempt, written: [blocks(5)], missing: [blocks(7)] });
  }

  endsMemory(attempt = 1): readonly DestinationEffect[] {
    return this.receives({ type: "memory-ended", attempt, memoryBytes: 100 });
  }

  toLoading(): this {
    this.toMemory().prepares();
    return this;
  }

  toPrepared(): this {
    this.toLoading().endsMemory();
    this.on({ type: "loaded", attempt: 1 });
    this.on({ type: "durable", attempt: 1 });
    return this;
  }

  toResuming(): this {
    this.toPrepared().handsOver();
    return this;
  }

  /** The domain runs; the source has not been told yet what is missing. */
  toReporting(): this {
    this.toResuming().on({ type: "domain-resumed" });
    return this;
  }

  toPostCopy(): this {
    this.toReporting().on({ type: "missing", blocks: [blocks(7)] });
    return this;
  }

  toCompleted(): this {
    this.toPostCopy().on({ type: "nothing-missing" });
    this.on({ type: "flushed", counts: COUNTS });
    return this;
  }
}
