/** What this host says about where its domains are: one record each, told to the others when it changed. */

import type { Metadata } from "../../storage/metadata.ts";
import type { DomainRecord, PlacementRecord } from "../../storage/records.ts";
import type { Clock } from "../clock.ts";
import type { Peers } from "./peers.ts";

export type PlacementsParts = {
  self: string;
  hostName: string;
  metadata: Metadata;
  peers: Peers;
  clock: Clock;
};

export class Placements {
  readonly #parts: PlacementsParts;

  constructor(parts: PlacementsParts) {
    this.#parts = parts;
  }

  all(): Promise<PlacementRecord[]> {
    return this.#parts.metadata.placements.list();
  }

  async updateAll(): Promise<void> {
    for (const { id } of await this.#parts.metadata.domains.list()) await this.update(id);
  }

  /** A host speaks only for the domains that it has. */
  async update(domain: string): Promise<void> {
    const { metadata, peers, self } = this.#parts;
    const record = await metadata.domains.get(domain);
    const known = await metadata.placements.get(domain);
    if (record === undefined) {
      if (known?.host === self) await metadata.placements.remove(domain, { sync: false });
      return;
    }
    if (record.owner !== self) return;
    const same =
      known?.host === self && known.generation === record.generation && known.state === record.state;
    if (same) return;
    const placement = this.#placementOf(record, known);
    await metadata.placements.put(placement, { sync: false });
    peers.announce([placement]);
  }

  #placementOf(
    { id, name, generation, state }: DomainRecord,
    known: PlacementRecord | undefined,
  ): PlacementRecord {
    const { self, hostName, clock } = this.#parts;
    return {
      domain: id,
      name,
      host: self,
      hostName,
      generation,
      state,
      seq: (known?.seq ?? 0) + 1,
      updatedAt: clock.wallMs(),
      from: self,
    };
  }
}
