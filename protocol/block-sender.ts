/**
 * What the source still has to send, and what is on its way: the book-keeping below both pre-copy and
 * post-copy. A block's bit is cleared when it is handed out for sending, before anyone reads it, so a
 * guest write that lands later marks it again (DESIGN §4 rule 1).
 *
 * Tickets are acknowledged by the destination. A lost link returns what was not acknowledged.
 */

import { BlockBitmap } from "./block-bitmap.ts";
import { assert } from "./errors.ts";
import { BLOCKS_PER_MESSAGE_MAX } from "./limits.ts";
import type { VbdIndex } from "./messages.ts";
import type { BlockIndex, BlockRun } from "./units.ts";

export type Shipment = { ticket: number; vbd: VbdIndex; runs: readonly BlockRun[]; urgent: boolean };

export class BlockSender {
  readonly blockCounts: readonly number[];
  /** Still to be sent. */
  readonly toSend: readonly BlockBitmap[];
  /** The part of `toSend` that a guest waits for. */
  readonly #urgent: readonly BlockBitmap[];
  /** `#sentTimes[n][vbd]`: blocks that were sent more than `n` times. */
  readonly #sentTimes: readonly (readonly BlockBitmap[])[];
  readonly #inFlight = new Map<number, Shipment>();
  /** The blocks of `#inFlight`. One that was written again waits: two copies of it could overtake each other. */
  readonly #onTheWay: readonly BlockBitmap[];
  #inFlightBlocks = 0;
  #nextTicket = 1;
  #cursor: { vbd: VbdIndex; block: BlockIndex } = { vbd: 0, block: 0 };
  /** Every block handed out, repeats included. */
  sentBlocks = 0;
  /** Handed out although an earlier copy had been sent: it was rewritten since. */
  resentBlocks = 0;

  constructor(blockCounts: readonly number[], { hotSendsMax }: { hotSendsMax: number }) {
    const empty = (): BlockBitmap[] => blockCounts.map((count) => new BlockBitmap(count));
    this.blockCounts = blockCounts;
    this.toSend = empty();
    this.#urgent = empty();
    this.#onTheWay = empty();
    this.#sentTimes = Array.from({ length: Math.max(1, hotSendsMax) }, empty);
  }

  /** An independent sender that does from here on what this one would: for whoever tries several futures. */
  clone(): BlockSender {
    const copy = new BlockSender(this.blockCounts, { hotSendsMax: this.#sentTimes.length });
    const layers = [
      [this.toSend, copy.toSend],
      [this.#urgent, copy.#urgent],
      [this.#onTheWay, copy.#onTheWay],
      ...this.#sentTimes.map((layer, times) => [layer, copy.#sentTimes[times]!] as const),
    ] as const;
    for (const [from, to] of layers) for (const [vbd, bitmap] of from.entries()) to[vbd]!.union(bitmap);
    for (const [ticket, shipment] of this.#inFlight) copy.#inFlight.set(ticket, shipment);
    copy.#inFlightBlocks = this.#inFlightBlocks;
    copy.#nextTicket = this.#nextTicket;
    copy.#cursor = this.#cursor;
    copy.sentBlocks = this.sentBlocks;
    copy.resentBlocks = this.resentBlocks;
    return copy;
  }

  /** Everything that decides what it does next. What it has only counted is left out. */
  snapshot(): unknown {
    const { toSend } = this;
    return [
      toSend,
      this.#urgent,
      this.#onTheWay,
      this.#sentTimes,
      [...this.#inFlight.values()],
      this.#cursor,
    ];
  }

  get inFlightBlocks(): number {
    return this.#inFlightBlocks;
  }

  get remainingBlocks(): number {
    return this.toSend.reduce((sum, bitmap) => sum + bitmap.population, 0);
  }

  /** Nothing to send and nothing on its way. */
  get isIdle(): boolean {
    return this.#inFlight.size === 0 && this.remainingBlocks === 0;
  }

  get hasInFlight(): boolean {
    return this.#inFlight.size > 0;
  }

  /** Distinct blocks that were sent at least once. */
  get distinctBlocks(): number {
    return this.#sentTimes[0]!.reduce((sum, bitmap) => sum + bitmap.population, 0);
  }

  add(blocks: readonly BlockBitmap[]): void {
    assert(blocks.length === this.toSend.length);
    for (const [vbd, bitmap] of blocks.entries()) this.toSend[vbd]!.union(bitmap);
  }

  /** Blocks of `dirty` that were sent so often that sending them again before the freeze is waste. */
  hot(dirty: readonly BlockBitmap[]): readonly BlockBitmap[] {
    const often = this.#sentTimes[this.#sentTimes.length - 1]!;
    return dirty.map((bitmap, vbd) => {
      const hot = bitmap.clone();
      hot.intersect(often[vbd]!);
      return hot;
    });
  }

  /** Replaces all that is to be sent: the destination said what it misses, and counters are not to be trusted. */
  restart(blocks: readonly BlockBitmap[]): void {
    for (const [vbd, bitmap] of blocks.entries()) {
      this.toSend[vbd]!.clear();
      this.toSend[vbd]!.union(bitmap);
      this.#urgent[vbd]!.clear();
    }
    this.#landAll();
  }

  /** A guest waits for `runs`. What was sent already is on its way, or comes back with the lost link. */
  hurry(vbd: VbdIndex, runs: readonly BlockRun[]): void {
    for (const run of runs) {
      for (let block = run.start; block < run.start + run.count; block++) {
        if (this.toSend[vbd]!.has(block)) this.#urgent[vbd]!.add(block);
      }
      // Neighbours of what a guest reads are what it reads next (Hines & Gopalan's fault-centred push).
      this.#cursor = { vbd, block: run.start + run.count };
    }
  }

  /**
   * Hands out shipments until `inFlightBlocksMax` are on their way. Urgent blocks go first and may use
   * the same allowance once more, so that a pull never waits for acknowledgements of pushes.
   */
  take(inFlightBlocksMax: number): Shipment[] {
    const shipments: Shipment[] = [];
    while (this.#inFlightBlocks < 2 * inFlightBlocksMax) {
      const shipment = this.#takeUrgent();
      if (shipment === undefined) break;
      shipments.push(shipment);
    }
    while (this.#inFlightBlocks < inFlightBlocksMax) {
      const shipment = this.#takeNext(inFlightBlocksMax - this.#inFlightBlocks);
      if (shipment === undefined) break;
      shipments.push(shipment);
    }
    return shipments;
  }

  /** Returns whether the ticket was on its way. */
  acknowledge(ticket: number): boolean {
    const shipment = this.#inFlight.get(ticket);
    if (shipment === undefined) return false;
    this.#inFlight.delete(ticket);
    this.#inFlightBlocks -= countOf(shipment.runs);
    for (const { start, count } of shipment.runs) this.#onTheWay[shipment.vbd]!.deleteRange(start, count);
    return true;
  }

  /** The link is lost: what was not acknowledged counts as never sent. */
  takeBack(): void {
    for (const { vbd, runs } of this.#inFlight.values()) {
      for (const { start, count } of runs) {
        this.toSend[vbd]!.addRange(start, count);
        for (let block = start; block < start + count; block++) this.#uncountSend(vbd, block);
      }
    }
    this.#landAll();
  }

  #landAll(): void {
    this.#inFlight.clear();
    this.#inFlightBlocks = 0;
    for (const bitmap of this.#onTheWay) bitmap.clear();
  }

  #takeUrgent(): Shipment | undefined {
    for (const [vbd, urgent] of this.#urgent.entries()) {
      const run = urgent.nextRun(0, BLOCKS_PER_MESSAGE_MAX);
      if (run !== undefined) return this.#ship(vbd, [run], true);
    }
    return undefined;
  }

  /** Sweeps all vbds once from the cursor, gathering runs until a message is full. */
  #takeNext(allowance: number): Shipment | undefined {
    for (let turn = 0; turn <= this.toSend.length; turn++) {
      const vbd = (this.#cursor.vbd + turn) % this.toSend.length;
      const from = turn === 0 ? this.#cursor.block : 0;
      const runs = this.#gather(vbd, from, Math.min(allowance, BLOCKS_PER_MESSAGE_MAX));
      if (runs.length === 0) continue;
      const last = runs[runs.length - 1]!;
      this.#cursor = { vbd, block: last.start + last.count };
      return this.#ship(vbd, runs, false);
    }
    return undefined;
  }

  #gather(vbd: VbdIndex, from: BlockIndex, blocksMax: number): BlockRun[] {
    const runs: BlockRun[] = [];
    let left = blocksMax;
    let next = from;
    while (left > 0 && next < this.blockCounts[vbd]!) {
      const run = this.toSend[vbd]!.nextRun(next, left);
      if (run === undefined) break;
      const busy = this.#onTheWay[vbd]!.next(run.start) ?? run.start + run.count;
      const count = Math.min(run.count, busy - run.start);
      if (count > 0) runs.push({ start: run.start, count });
      left -= count;
      next = run.start + Math.max(1, count);
    }
    return runs;
  }

  #ship(vbd: VbdIndex, runs: readonly BlockRun[], urgent: boolean): Shipment {
    for (const { start, count } of runs) {
      this.toSend[vbd]!.deleteRange(start, count);
      this.#urgent[vbd]!.deleteRange(start, count);
      this.#onTheWay[vbd]!.addRange(start, count);
      for (let block = start; block < start + count; block++) this.#countSend(vbd, block);
    }
    const shipment = { ticket: this.#nextTicket++, vbd, runs, urgent };
    this.#inFlight.set(shipment.ticket, shipment);
    this.#inFlightBlocks += countOf(runs);
    this.sentBlocks += countOf(runs);
    return shipment;
  }

  #countSend(vbd: VbdIndex, block: BlockIndex): void {
    for (const [times, layer] of this.#sentTimes.entries()) {
      if (layer[vbd]!.has(block)) {
        if (times === 0) this.resentBlocks += 1;
        continue;
      }
      layer[vbd]!.add(block);
      return;
    }
  }

  #uncountSend(vbd: VbdIndex, block: BlockIndex): void {
    for (const layer of this.#sentTimes.toReversed()) {
      if (layer[vbd]!.delete(block)) return;
    }
  }
}

export function countOf(runs: readonly BlockRun[]): number {
  return runs.reduce((sum, run) => sum + run.count, 0);
}
