/**
 * How a domain's vbds reach their bytes on this host, all of them together: what the migration needs of it,
 * whatever stands between guest and disk. `nbd`: our export for good. `qmp`: QEMU itself, and our export for a
 * window only. Every attachment passes `test/contract/attachment.contract.ts`.
 */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { VbdIndex } from "../../protocol/messages.ts";
import type { BlockRun, Generation } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";

/** Per vbd, in the domain's order. `untrusted`: why the tracker did not see every write; then `written` is full. */
export type WrittenBlocks = { written: BlockBitmap; untrusted?: string };

/** `durable`: settles when all that landed before the fence is on the disk. */
export type FencedWrites = {
  dirty: readonly BlockBitmap[];
  written: readonly BlockBitmap[];
  durable: Promise<void>;
};

export type ArrivalCounts = { pushed: number; pulled: number; superseded: number; late: number };

/** A domain's vbds on a host that may be written to by a migration, whether or not the domain runs on them. */
export interface Copies {
  /** What the copier reads, and what blocks that arrive are written to. */
  store(vbd: VbdIndex): BlockStore;
  /** Writes what arrived, unless it is no longer missing: check and write are one step (DESIGN §4 rule 3). */
  arrive(vbd: VbdIndex, blocks: ArrivedBlocks): Promise<void>;
  /** Everything acknowledged to the guest or to the peer is durable. */
  flush(): Promise<void>;
  /** Blocks that have not arrived yet; empty sets outside post-copy. */
  missing(): readonly BlockBitmap[];
  counts(): ArrivalCounts;
  /** Runs that guest reads still wait for. */
  waitedFor(): readonly { vbd: VbdIndex; runs: readonly BlockRun[] }[];
  /** The domain cannot reach its vbds any more; the bytes stay. Idempotent. */
  close(): Promise<void>;
}

export type ArrivedBlocks = { runs: readonly BlockRun[]; zeroes: readonly BlockRun[]; data: Uint8Array };

export interface Attachment extends Copies {
  /** The generation under which the domain may write. */
  readonly generation: Generation;
  /** How the guest reaches its vbds at this moment, in words for people. */
  readonly way: string;
  /**
   * All I/O of the domain goes through us from when this completes, where it did not: before `startRounds`, and
   * before the domain is ended, so that what it wrote is known whatever becomes of it. Throws VBD_RESIZED when a
   * vbd was resized; then, and when the hypervisor refuses, everything is as it was.
   */
  beginWindow(): Promise<void>;
  /** Nobody needs the window: the domain may reach its vbds without us again, where it can. After a start, too. */
  endWindow(): Promise<void>;
  /** Brings `written` up to date with what somebody else tracks outside of a window. */
  harvest(): Promise<void>;
  /** In a window. From now on writes are collected in rounds too. Returns what the generation wrote before. */
  startRounds(): readonly WrittenBlocks[];
  /** What was written since the last call (or `startRounds`); writes in flight belong to the next. */
  takeRound(): readonly BlockBitmap[];
  /** Ends rounds, and `throttleWrites`. Nobody copies: the window ends by itself. */
  stopRounds(): void;
  /**
   * Slows the domain's writes to `share` (above 0) of the rate that they had since `startRounds`; 1 ends it. Absent
   * where the attachment cannot: then the domain keeps its speed, and what it wrote last goes in post-copy.
   */
  throttleWrites?(share: number): void;
  /**
   * No write of the domain can land after this resolves, and all that landed is marked. What has to be durable need not
   * be yet: a frozen guest's memory can follow meanwhile.
   */
  fence(): Promise<FencedWrites>;
  unfence(): void;
  /** What the generation wrote so far, per vbd. */
  written(): readonly BlockBitmap[];
}
