/**
 * Updates that wait to be told: the newest about each host, those told least often first. Each is told
 * `limit` times, whichever message takes it along. One per host, so it is no larger than the member table.
 */

import type { HostId, Update } from "./messages.ts";
import { encodeUpdate } from "./wire.ts";

type Entry = { readonly update: Update; transmits: number };

export class UpdateQueue {
  /** By how often they were told; within one, the oldest first. */
  readonly #tiers: Map<HostId, Entry>[] = [];
  readonly #entries = new Map<HostId, Entry>();

  get size(): number {
    return this.#entries.size;
  }

  has(update: Update): boolean {
    return this.#entries.get(update.record.host)?.update === update;
  }

  /** Replaces what was still to be told about the same host. */
  add(update: Update): void {
    const { host } = update.record;
    this.delete(host);
    const entry = { update, transmits: 0 };
    this.#entries.set(host, entry);
    this.#tier(0).set(host, entry);
  }

  delete(host: HostId): void {
    const entry = this.#entries.get(host);
    if (entry === undefined) return;
    this.#entries.delete(host);
    this.#tiers[entry.transmits]!.delete(host);
  }

  /** What fits into `sizeMax` octets, counted as told once. */
  take({ sizeMax, limit }: { sizeMax: number; limit: number }): Update[] {
    if (this.#entries.size === 0) return [];
    const taken: Entry[] = [];
    let size = 0;
    for (const tier of this.#tiers) {
      for (const entry of tier.values()) {
        const octets = encodeUpdate(entry.update).length;
        if (size + octets > sizeMax) return this.#told(taken, limit);
        size += octets;
        taken.push(entry);
      }
    }
    return this.#told(taken, limit);
  }

  #told(taken: readonly Entry[], limit: number): Update[] {
    for (const entry of taken) {
      const { host } = entry.update.record;
      this.#tiers[entry.transmits]!.delete(host);
      entry.transmits += 1;
      if (entry.transmits >= limit) this.#entries.delete(host);
      else this.#tier(entry.transmits).set(host, entry);
    }
    return taken.map(({ update }) => update);
  }

  #tier(transmits: number): Map<HostId, Entry> {
    while (this.#tiers.length <= transmits) this.#tiers.push(new Map());
    return this.#tiers[transmits]!;
  }
}

/** How often an update is told by each host, so that with high probability all `hosts` hear it. */
export function retransmitLimit(retransmitMult: number, hosts: number): number {
  return retransmitMult * Math.ceil(Math.log10(hosts + 1));
}
