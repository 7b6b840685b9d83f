/** What a `SourceDriver` is made of. */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { SourceRecord, SourceState } from "../../protocol/source.ts";
import type { Attachment } from "../attachment/attachment.ts";
import type { Clock } from "../clock.ts";
import type { FaultPoints } from "../fault-points.ts";
import type { Hypervisor } from "../hypervisor/hypervisor.ts";
import type { Log } from "../log.ts";
import type { Network } from "../network/network.ts";

export type SourceParts = {
  network: Network;
  hypervisor: Hypervisor;
  attachment: Attachment;
  clock: Clock;
  log: Log;
  faults: FaultPoints;
  /** Durable when it resolves; ownership and replica labels change with it. */
  persist(record: SourceRecord): Promise<void>;
  forget(): Promise<void>;
  /** The last that happens while the domain runs here; the freeze waits for it. */
  beforeFreeze(): Promise<void>;
  /** The vbds become the replica of `generation`: closed, and known again by their identity. */
  keepReplica(generation: number): Promise<void>;
  /** What the generation wrote, once no more can be added: the log's next entry. */
  fenced(written: readonly BlockBitmap[]): void;
  /** After every step. */
  changed(state: SourceState): void;
};

export type SourceOptions = {
  /** The destination's bulk listener. Asked for again at each dial: it may move. */
  address(): Promise<string>;
  stallTimeoutMs: number;
  freezeTimeoutMs: number;
  bandwidthMaxBytesPerSecond?: number;
  reconnectDelayMs: { min: number; max: number };
};
