/**
 * The vbds of a domain that was handed over, after a restart of its old host: no guest can reach them, they
 * are only read until the destination has every block.
 */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { Generation } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import type { ArrivalCounts, Attachment, Copies, FencedWrites, WrittenBlocks } from "./attachment.ts";

export class FencedAttachment implements Attachment {
  readonly generation: Generation;
  readonly way = "fenced";
  readonly #copies: Copies;

  constructor(copies: Copies, generation: Generation) {
    this.#copies = copies;
    this.generation = generation;
  }

  store(vbd: number): BlockStore {
    return this.#copies.store(vbd);
  }

  arrive(): Promise<void> {
    throw new Error("nothing arrives at a vbd that was handed over");
  }

  flush(): Promise<void> {
    return this.#copies.flush();
  }

  missing(): readonly BlockBitmap[] {
    return this.#copies.missing();
  }

  counts(): ArrivalCounts {
    return this.#copies.counts();
  }

  waitedFor(): readonly [] {
    return [];
  }

  close(): Promise<void> {
    return this.#copies.close();
  }

  async beginWindow(): Promise<void> {}

  async endWindow(): Promise<void> {}

  async harvest(): Promise<void> {}

  startRounds(): readonly WrittenBlocks[] {
    throw new Error("a vbd that was handed over is not migrated again");
  }

  takeRound(): readonly BlockBitmap[] {
    return this.#copies.missing();
  }

  stopRounds(): void {}

  async fence(): Promise<FencedWrites> {
    return { dirty: this.#copies.missing(), written: this.#copies.missing(), durable: Promise.resolve() };
  }

  unfence(): void {}

  written(): readonly BlockBitmap[] {
    return this.#copies.missing();
  }
}
