/**
 * Watches a domain's guest on two hosts while a migration is disturbed: by the guest's own socket, so that it sees
 * on while a daemon is dead. Finds the longest time in which the guest completed no I/O, and whether both hosts
 * ever ran it.
 */

import type { Hypervisor } from "../../node/hypervisor/hypervisor.ts";
import { WasmHypervisor } from "../../node/hypervisor/wasm/wasm-hypervisor.ts";
import type { ClusterHost } from "../cluster.ts";
import { pause } from "../waiting.ts";

export type Watched = {
  /** As long as a look takes, and what lies between two of them, it may be too large. */
  longestGapMs: number;
  /** Set when the domain ran where it must not. */
  problem: string | undefined;
};

const LOOK_EVERY_MS = 10;

type Look = { isRunning: boolean; operations: number };

export class GuestWatch {
  readonly #domain: string;
  readonly #source: Hypervisor;
  readonly #destination: Hypervisor;
  readonly #stopped = new AbortController();
  readonly #watching: Promise<void>;
  #operations = -1;
  #movedAtMs = performance.now();
  #longestGapMs = 0;
  #ranAtDestination = false;
  #problem: string | undefined;

  private constructor({ source, destination, domain }: WatchParts) {
    this.#domain = domain;
    this.#source = new WasmHypervisor({ runDir: source.runDir });
    this.#destination = new WasmHypervisor({ runDir: destination.runDir });
    this.#watching = this.#watch();
  }

  static start(parts: WatchParts): GuestWatch {
    return new GuestWatch(parts);
  }

  async stop(): Promise<Watched> {
    this.#stopped.abort();
    await this.#watching;
    this.#longestGapMs = Math.max(this.#longestGapMs, performance.now() - this.#movedAtMs);
    return { longestGapMs: Math.round(this.#longestGapMs), problem: this.#problem };
  }

  async #watch(): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      // In this order: a domain that ran at the destination never runs at the source again.
      const destination = await this.#look(this.#destination);
      if (destination?.isRunning) this.#ranAtDestination = true;
      const source = await this.#look(this.#source);
      if (source?.isRunning && this.#ranAtDestination) {
        this.#problem = "the guest ran at the source after it had run at the destination";
      }
      this.#count(Math.max(source?.operations ?? 0, destination?.operations ?? 0));
      await pause(LOOK_EVERY_MS);
    }
  }

  #count(operations: number): void {
    if (operations <= this.#operations) return;
    const now = performance.now();
    if (this.#operations >= 0) this.#longestGapMs = Math.max(this.#longestGapMs, now - this.#movedAtMs);
    this.#operations = operations;
    this.#movedAtMs = now;
  }

  async #look(hypervisor: Hypervisor): Promise<Look | undefined> {
    try {
      const { state, reads, writes } = await hypervisor.inspect(this.#domain);
      return { isRunning: state === "running", operations: Number(reads ?? 0) + Number(writes ?? 0) };
    } catch {
      // No guest there.
      return undefined;
    }
  }
}

type WatchParts = { source: ClusterHost; destination: ClusterHost; domain: string };
