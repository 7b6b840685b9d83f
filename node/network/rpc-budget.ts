/**
 * How much one peer may gossip. What is above it is neither dropped nor an offence at once: its stream is not read for
 * a while, so that the peer's own queue grows and not ours.
 */

import type { Stream } from "@libp2p/interface";
import type { Uint8ArrayList } from "uint8arraylist";

export type RpcLimits = {
  /** Octets of one message of the stream; above it `onOversized` is called, once. */
  rpcSizeMax: number;
  /** A peer's first burst, and what it may send from then on. */
  burst: { rpcs: number; bytes: number };
  perSecond: { rpcs: number; bytes: number };
  /** In debt for so long, or by so much: that is no burst. */
  floodAfterMs: number;
};

export const RPC_LIMITS: RpcLimits = {
  // An answer to IWANT holds several messages.
  rpcSizeMax: 512 << 10,
  // All domains of some hundred hosts at once, after a power cut.
  burst: { rpcs: 2_000, bytes: 8 << 20 },
  perSecond: { rpcs: 100, bytes: 512 << 10 },
  floodAfterMs: 5_000,
};

type Listener = { onOversized(sizeBytes: number): void; onFlood(): void };

/** Of one peer, whichever stream it uses: a new connection brings no new burst. */
export class RpcBudget {
  readonly #limits: RpcLimits;
  readonly #now: () => number;
  #rpcs: number;
  #bytes: number;
  #atMs: number;

  constructor(limits: RpcLimits = RPC_LIMITS, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#now = now;
    this.#rpcs = limits.burst.rpcs;
    this.#bytes = limits.burst.bytes;
    this.#atMs = now();
  }

  /** Takes what was received; returns how long the peer must be left alone, milliseconds. */
  take({ rpcs, bytes }: { rpcs: number; bytes: number }): number {
    const { burst, perSecond } = this.#limits;
    const now = this.#now();
    const seconds = (now - this.#atMs) / 1000;
    this.#atMs = now;
    this.#rpcs = Math.min(burst.rpcs, this.#rpcs + seconds * perSecond.rpcs) - rpcs;
    this.#bytes = Math.min(burst.bytes, this.#bytes + seconds * perSecond.bytes) - bytes;
    return Math.max(0, -this.#rpcs / perSecond.rpcs, -this.#bytes / perSecond.bytes) * 1000;
  }

  /** Reads `stream` no faster than the budget allows. */
  govern(stream: Stream, { onOversized, onFlood }: Listener): void {
    const { rpcSizeMax, floodAfterMs } = this.#limits;
    const lengths = new PrefixedLengths();
    let indebtedSinceMs: number | undefined;
    let waking: NodeJS.Timeout | undefined;
    const rest = (debtMs: number): void => {
      if (waking !== undefined || stream.status !== "open") return;
      indebtedSinceMs ??= this.#now();
      if (debtMs > floodAfterMs || this.#now() - indebtedSinceMs > floodAfterMs) {
        indebtedSinceMs = this.#now();
        onFlood();
      }
      // Not in the handler of a message: a pause inside a resume is undone by the muxer.
      waking = setTimeout(() => {
        if (stream.status !== "open") return;
        stream.pause();
        waking = setTimeout(() => {
          waking = undefined;
          if (stream.status === "open" && stream.readStatus === "paused") stream.resume();
        }, debtMs);
        waking.unref();
      }, 0);
    };
    stream.addEventListener("message", ({ data }) => {
      const { rpcs, longest } = lengths.follow(data);
      if (longest > rpcSizeMax) return onOversized(longest);
      const debtMs = this.take({ rpcs, bytes: data.byteLength });
      if (debtMs > 0) rest(debtMs);
      else if (waking === undefined) indebtedSinceMs = undefined;
    });
    stream.addEventListener("close", () => clearTimeout(waking), { once: true });
  }
}

/** Follows messages that each begin with their length as a varint, without keeping any of them. */
class PrefixedLengths {
  #length = 0;
  #scale = 1;
  #bodyLeft = 0;

  /** How many messages began in `data`, and the longest that was announced. */
  follow(data: Uint8Array | Uint8ArrayList): { rpcs: number; longest: number } {
    let [rpcs, longest] = [0, 0];
    for (const bytes of data instanceof Uint8Array ? [data] : data) {
      for (let offset = 0; offset < bytes.byteLength; ) {
        if (this.#bodyLeft > 0) {
          const skipped = Math.min(this.#bodyLeft, bytes.byteLength - offset);
          this.#bodyLeft -= skipped;
          offset += skipped;
          continue;
        }
        const octet = bytes[offset++]!;
        this.#length += (octet & 0x7f) * this.#scale;
        this.#scale *= 0x80;
        longest = Math.max(longest, this.#length);
        if (octet >= 0x80) continue;
        rpcs += 1;
        this.#bodyLeft = this.#length;
        this.#length = 0;
        this.#scale = 1;
      }
    }
    return { rpcs, longest };
  }
}
