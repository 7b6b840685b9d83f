/**
 * The `nbd` attachment: the domain's vbds live on our NBD export for good, and our server tracks every write.
 * Works everywhere, without root; an NBD hop is its price (reference figures in DESIGN §3).
 *
 * The stack of one vbd, from the guest down:
 *
 *   export ── TrackedBlockStore ── (MissingBlockStore, in post-copy) ── FileBlockStore
 *             what was written      what has not arrived                bytes
 *
 * An export's name holds a random token and the generation: a client that was told the name of an earlier
 * stay cannot reach the vbd in a later one.
 */

import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { VbdIndex } from "../../protocol/messages.ts";
import { type BlockRun, blockCountOf, type Generation } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import { FdByteFile } from "../../storage/byte-file.ts";
import { DirtyLog, type DirtyLogOptions } from "../../storage/dirty-log.ts";
import { MissingBlockStore } from "../../storage/missing-block-store.ts";
import type { ExportRegistry } from "../../storage/nbd/export-registry.ts";
import type { MetadataContext } from "../../storage/nbd/metadata-contexts.ts";
import { PresenceLog } from "../../storage/presence-log.ts";
import { TrackedBlockStore } from "../../storage/tracked-block-store.ts";
import { type Clock, systemClock } from "../clock.ts";
import type { ArrivalCounts, ArrivedBlocks, Attachment, FencedWrites, WrittenBlocks } from "./attachment.ts";
import { openCopy } from "./copy-attachment.ts";
import { SupersedingStore } from "./superseding-store.ts";
import { ThrottledStore, WriteThrottle } from "./write-throttle.ts";

export type NbdVbd = {
  name: string;
  path: string;
  sizeBytes: number;
  exportName: string;
  dirtyLogPath: string;
  presenceLogPath: string;
};

export type NbdAttachmentOptions = {
  vbds: readonly NbdVbd[];
  generation: Generation;
  bootId: string;
  exports: ExportRegistry;
  /** Of the writes' throttle. */
  clock?: Clock;
  /** Exported with the fence up: no write of the domain lands before `unfence`. */
  fenced?: boolean;
  /** Trackers that are still there to hand over what they saw (`DirtyLog`). */
  trackers?: readonly string[];
  /** Set in post-copy: the migration whose blocks are awaited. */
  incoming?: {
    migration: string;
    pull(vbd: VbdIndex, runs: readonly BlockRun[]): void;
    complete(): void;
    /** A guest's write over a missing block was issued and is not acknowledged: a fault point. */
    superseding?(): Promise<void> | undefined;
  };
  /** Metadata contexts of an export beside `base:allocation`. */
  contexts?: (vbd: VbdIndex, written: () => BlockBitmap) => readonly MetadataContext[];
};

type Stack = {
  vbd: NbdVbd;
  tracked: TrackedBlockStore;
  missing: MissingBlockStore | undefined;
  log: DirtyLog;
  untrusted: string | undefined;
};

export class NbdAttachment implements Attachment {
  readonly generation: Generation;
  readonly way = "nbd";
  readonly #exports: ExportRegistry;
  readonly #stacks: readonly Stack[];
  readonly #throttle: WriteThrottle;
  #closing: Promise<void> | undefined;

  private constructor(
    { generation, exports }: NbdAttachmentOptions,
    stacks: readonly Stack[],
    throttle: WriteThrottle,
  ) {
    this.generation = generation;
    this.#throttle = throttle;
    this.#exports = exports;
    this.#stacks = stacks;
  }

  /** Opens and exports every vbd, or none. */
  static async open(options: NbdAttachmentOptions): Promise<NbdAttachment> {
    // At once: opening them is part of a migration's downtime, and each waits for its disk.
    const opened = await Promise.allSettled(
      options.vbds.map((vbd, index) => openStack(index, vbd, options, () => arrived())),
    );
    const stacks = opened.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    const failure = opened.find((result) => result.status === "rejected");
    if (failure !== undefined) {
      for (const stack of stacks) await closeStack(stack);
      throw failure.reason;
    }
    const throttle = new WriteThrottle(options.clock ?? systemClock);
    const arrived = (): void => {
      if (stacks.every(({ missing }) => missing === undefined || missing.missing.population === 0)) {
        options.incoming?.complete();
      }
    };
    for (const [index, { vbd, tracked, log }] of stacks.entries()) {
      if (options.fenced === true) await tracked.fence();
      const contexts = options.contexts;
      options.exports.add({
        name: vbd.exportName,
        store: new ThrottledStore(tracked, throttle),
        readOnly: false,
        description: `vbd ${vbd.name}, generation ${options.generation}`,
        canMultiConn: true,
        listed: false,
        ...(contexts === undefined ? {} : { contexts: () => contexts(index, () => log.written) }),
      });
    }
    return new NbdAttachment(options, stacks, throttle);
  }

  store(vbd: VbdIndex): BlockStore {
    return this.#stacks[vbd]!.tracked;
  }

  // Our export is in the path for good.

  async beginWindow(): Promise<void> {}

  async endWindow(): Promise<void> {}

  async harvest(): Promise<void> {}

  startRounds(): readonly WrittenBlocks[] {
    this.#throttle.startMeasuring();
    return this.#stacks.map(({ tracked, untrusted }) => {
      tracked.startRound();
      const written = tracked.written.clone();
      const isFull = written.population === written.blockCount;
      // A tracker that was made anew after an untrusted one says "every block", also after a restart.
      const doubt = untrusted ?? (isFull ? "every block counts as written" : undefined);
      return doubt === undefined ? { written } : { written, untrusted: doubt };
    });
  }

  takeRound(): readonly BlockBitmap[] {
    return this.#stacks.map(({ tracked }) => tracked.takeRound());
  }

  throttleWrites(share: number): void {
    if (share < 1) this.#throttle.limitTo(share);
    else this.#throttle.lift();
  }

  stopRounds(): void {
    this.#throttle.lift();
    for (const { tracked } of this.#stacks) tracked.stopRound();
  }

  async fence(): Promise<FencedWrites> {
    await Promise.all(this.#stacks.map(({ tracked }) => tracked.fence()));
    const durable = this.flush();
    // Whoever waits for it hears of it.
    durable.catch(() => undefined);
    return { dirty: this.takeRound(), written: this.written(), durable };
  }

  unfence(): void {
    for (const { tracked } of this.#stacks) tracked.unfence();
  }

  async flush(): Promise<void> {
    await Promise.all(this.#stacks.map(({ tracked }) => tracked.flush()));
  }

  written(): readonly BlockBitmap[] {
    return this.#stacks.map(({ tracked }) => tracked.written.clone());
  }

  // For an attachment of which this one is the window.

  /** Per vbd: the tracker that saw writes which passed us by; empty when there is none. */
  trackers(): readonly string[] {
    return this.#stacks.map(({ log }) => log.owner);
  }

  /** Durable when it completes: see `DirtyLog.setOwner`. */
  async setTracker(tracker: string): Promise<void> {
    await Promise.all(this.#stacks.map(({ log }) => log.setOwner(tracker)));
  }

  /** What passed us by was written too. Durable when it completes. */
  async addWritten(written: readonly BlockBitmap[]): Promise<void> {
    for (const [vbd, { log }] of this.#stacks.entries()) await addToLog(log, written[vbd]!);
  }

  /** Nobody knows what passed us by: every block counts as written. Durable when it completes. */
  async distrust(reason: string): Promise<void> {
    for (const stack of this.#stacks) {
      stack.untrusted = reason;
      await addToLog(stack.log, BlockBitmap.full(stack.log.blockCount));
    }
  }

  /** Per vbd: why the tracking did not see every write, as far as this process knows. */
  untrusted(): readonly (string | undefined)[] {
    return this.#stacks.map(({ untrusted }) => untrusted);
  }

  missing(): readonly BlockBitmap[] {
    return this.#stacks.map(
      ({ missing, vbd }) => missing?.missing.clone() ?? new BlockBitmap(blockCountOf(vbd.sizeBytes)),
    );
  }

  counts(): ArrivalCounts {
    const counts = { pushed: 0, pulled: 0, superseded: 0, late: 0 };
    for (const { missing } of this.#stacks) {
      if (missing === undefined) continue;
      for (const name of Object.keys(counts) as (keyof ArrivalCounts)[]) counts[name] += missing.counts[name];
    }
    return counts;
  }

  async arrive(vbd: VbdIndex, { runs, zeroes, data }: ArrivedBlocks): Promise<void> {
    // Nothing is missing: whatever arrives is late.
    await this.#stacks[vbd]!.missing?.arrive(runs, zeroes, data);
  }

  waitedFor(): readonly { vbd: VbdIndex; runs: readonly BlockRun[] }[] {
    return this.#stacks
      .map(({ missing }, vbd) => ({ vbd, runs: missing?.requestedAgain() ?? [] }))
      .filter(({ runs }) => runs.length > 0);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all(this.#stacks.map(({ vbd }) => this.#exports.remove(vbd.exportName)));
    for (const stack of this.#stacks) await closeStack(stack);
  }
}

async function openStack(
  index: VbdIndex,
  vbd: NbdVbd,
  options: NbdAttachmentOptions,
  arrived: () => void,
): Promise<Stack> {
  const { generation, bootId, incoming, trackers = [] } = options;
  const blockCount = blockCountOf(vbd.sizeBytes);
  const file = openCopy(vbd);
  const logOptions = { generation, bootId, blockCount, owners: trackers };
  const { log, untrusted } = await openDirtyLog(vbd.dirtyLogPath, logOptions);
  if (incoming === undefined) {
    const tracked = new TrackedBlockStore({ store: file, log });
    return { vbd, tracked, missing: undefined, log, untrusted };
  }
  const presence = await PresenceLog.open(FdByteFile.open(vbd.presenceLogPath), {
    generation,
    bootId,
    blockCount,
    migration: incoming.migration,
  });
  const missing = new MissingBlockStore({
    store: file,
    presence,
    pull: (runs) => incoming.pull(index, runs),
    onComplete: arrived,
  });
  const { superseding } = incoming;
  const store = superseding === undefined ? missing : new SupersedingStore(missing, superseding);
  return { vbd, tracked: new TrackedBlockStore({ store, log }), missing, log, untrusted };
}

/** A tracker that died with its host is not trusted: then every block counts as written, and it says why. */
async function openDirtyLog(
  path: string,
  options: DirtyLogOptions,
): Promise<{ log: DirtyLog; untrusted: string | undefined }> {
  const file = FdByteFile.open(path);
  const opened = await DirtyLog.open(file, options);
  if (opened.trusted) return { log: opened.log, untrusted: undefined };
  const log = await DirtyLog.create(file, options, BlockBitmap.full(options.blockCount));
  return { log, untrusted: opened.reason };
}

/** Durable when it completes. */
export async function addToLog(log: DirtyLog, written: BlockBitmap): Promise<void> {
  for (const { start, count } of written.runs()) await log.cover(start, count);
  await log.flush();
}

async function closeStack({ tracked, log }: Stack): Promise<void> {
  await tracked.close();
  await log.close({ clean: true });
}
