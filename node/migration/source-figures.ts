/** What a migration is measured by, at its source: bytes on the sockets, blocks, times (paper §1.3). */

import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { PostCopyCounts, RungChoice, VbdIndex } from "../../protocol/messages.ts";
import type { SourceState } from "../../protocol/source.ts";
import { BLOCK_SIZE_BYTES, type BlockRun } from "../../protocol/units.ts";
import type { Clock } from "../clock.ts";
import type { HopReport, Progress } from "../control/api.ts";
import type { Connection } from "../network/network.ts";

export type SourceFigures = Omit<HopReport, "migration" | "domain" | "from" | "to" | "generation">;

const ZERO_COUNTS: PostCopyCounts = { pushed: 0, pulled: 0, superseded: 0, late: 0 };

/** Rates are those of the last second or so: an average since the start hides a link that got slow. */
const RATE_WINDOW_MS = 1000;

export class SourceMeter {
  readonly #clock: Clock;
  readonly #startedAtMs: number;
  readonly #sent: readonly BlockBitmap[];
  /** Sent, or written while the migration went on: what the destination lacked, each block once. */
  readonly #lacked: readonly BlockBitmap[];
  #blocksSent = 0;
  #frozenAtMs: number | undefined;
  #resumedAtMs: number | undefined;
  #endedAtMs: number | undefined;
  readonly #connections = { disk: [] as Connection[], memory: [] as Connection[] };
  #choices: readonly RungChoice[] = [];
  #iterations = 0;
  #counts = ZERO_COUNTS;
  #writeShare = 1;
  #blocksLeft = 0;
  #rate = { atMs: 0, bytes: 0, bytesPerSecond: 0 };
  #dirty = { atMs: 0, blocksPerSecond: 0 };

  constructor(clock: Clock, blockCounts: readonly number[]) {
    this.#clock = clock;
    this.#startedAtMs = clock.nowMs();
    this.#sent = blockCounts.map((count) => new BlockBitmap(count));
    this.#lacked = blockCounts.map((count) => new BlockBitmap(count));
    this.#rate.atMs = this.#startedAtMs;
    this.#dirty.atMs = this.#startedAtMs;
  }

  get counts(): PostCopyCounts {
    return this.#counts;
  }

  connected(kind: "disk" | "memory", connection: Connection): void {
    this.#connections[kind].push(connection);
  }

  blocksSent(vbd: VbdIndex, runs: readonly BlockRun[]): void {
    for (const { start, count } of runs) {
      this.#blocksSent += count;
      this.#sent[vbd]!.addRange(start, count);
      this.#lacked[vbd]!.addRange(start, count);
    }
  }

  dirtied(blocks: readonly BlockBitmap[]): void {
    const count = blocks.reduce((sum, bitmap) => sum + bitmap.population, 0);
    const now = this.#clock.nowMs();
    this.#dirty = { atMs: now, blocksPerSecond: (count * 1000) / Math.max(1, now - this.#dirty.atMs) };
    for (const [vbd, bitmap] of blocks.entries()) this.#lacked[vbd]!.union(bitmap);
  }

  /** The domain's writes get `share` of their rate. */
  throttled(share: number): void {
    this.#writeShare = share;
  }

  /** `sinceMs`: how long ago, milliseconds. */
  frozen(sinceMs: number): void {
    this.#frozenAtMs ??= this.#clock.nowMs() - sinceMs;
  }

  thawed(): void {
    this.#frozenAtMs = undefined;
  }

  /** Looks at the machine after each step; phases that were left behind leave their time stamp. */
  observe(state: SourceState): void {
    if ("trip" in state && state.trip !== undefined) {
      this.#choices = state.trip.choices;
      this.#iterations = state.trip.iteration;
    }
    const isOver = state.phase === "finishing" || state.phase === "completed";
    if (state.phase === "preparing") this.#blocksLeft = populationOf(state.trip.sender.toSend);
    if (state.phase === "post-copy" || isOver) this.#resumedAtMs ??= this.#clock.nowMs();
    if (isOver) {
      this.#counts = state.counts;
      this.#endedAtMs ??= this.#clock.nowMs();
    }
  }

  report(): SourceFigures {
    const now = this.#endedAtMs ?? this.#clock.nowMs();
    const frozen = this.#frozenAtMs ?? now;
    const distinct = populationOf(this.#sent);
    const { rung, reason } = costliest(this.#choices);
    const lacked = populationOf(this.#lacked);
    return {
      rung,
      reason,
      diskBytesSent: this.#bytes("disk"),
      blocksChanged: lacked,
      blocksResent: this.#blocksSent - distinct,
      bytesAllocated: rung === "allocated" || rung === "everything" ? lacked * BLOCK_SIZE_BYTES : 0,
      memoryBytesSent: this.#bytes("memory"),
      // After a restart of the source nobody knows when the domain was frozen.
      downtimeMs: this.#frozenAtMs === undefined ? 0 : (this.#resumedAtMs ?? frozen) - frozen,
      disruptionMs: now - frozen,
      totalMs: now - this.#startedAtMs,
      pushed: this.#counts.pushed,
      pulled: this.#counts.pulled,
      superseded: this.#counts.superseded,
      iterations: this.#iterations,
      writeShare: this.#writeShare,
      blocksLeft: this.#blocksLeft,
    };
  }

  progress(state: SourceState): Progress {
    const now = this.#clock.nowMs();
    const disk = this.#bytes("disk");
    const memory = this.#bytes("memory");
    if (now - this.#rate.atMs >= RATE_WINDOW_MS) {
      const bytesPerSecond = ((disk + memory - this.#rate.bytes) * 1000) / (now - this.#rate.atMs);
      this.#rate = { atMs: now, bytes: disk + memory, bytesPerSecond };
    }
    const sender = "sender" in state ? state.sender : "trip" in state ? state.trip?.sender : undefined;
    const remainingBlocks = sender?.remainingBlocks ?? 0;
    const remainingBytes = remainingBlocks * BLOCK_SIZE_BYTES;
    const dirtyRate = this.#dirty.blocksPerSecond * BLOCK_SIZE_BYTES;
    const gain = this.#rate.bytesPerSecond - dirtyRate;
    return {
      phase: state.phase,
      iteration: this.#iterations,
      sentBytes: disk,
      totalBytes: disk + remainingBytes,
      memoryBytes: memory,
      rateBytesPerSecond: this.#rate.bytesPerSecond,
      dirtyRateBytesPerSecond: dirtyRate,
      remainingBlocks,
      // Nothing honest can be said while the guest writes as fast as we send.
      ...(gain > 0 ? { etaSeconds: remainingBytes / gain } : {}),
      connected: "link" in state ? state.link === "up" : true,
    };
  }

  #bytes(kind: "disk" | "memory"): number {
    return this.#connections[kind].reduce((sum, connection) => sum + connection.bytesSent(), 0);
  }
}

const RUNG_ORDER = ["bitmaps", "hashes", "allocated", "everything"] as const;

function costliest(choices: readonly RungChoice[]): RungChoice {
  const none: RungChoice = { rung: "bitmaps", reason: "nothing was sent" };
  return choices.reduce<RungChoice>(
    (worst, choice) =>
      worst === none || RUNG_ORDER.indexOf(choice.rung) > RUNG_ORDER.indexOf(worst.rung) ? choice : worst,
    none,
  );
}

function populationOf(bitmaps: readonly BlockBitmap[]): number {
  return bitmaps.reduce((sum, bitmap) => sum + bitmap.population, 0);
}
