/**
 * Metadata contexts: what a client can ask about ranges of an export.
 *
 * `base:allocation` tells holes and zeroes and comes from the store. `x-sojourn:generation/N` comes from whoever knows
 * the generations of the vbd; flag bit 0 of an extent means "written since generation N".
 */
import type { Extent } from "../block-store.ts";
import { EXTENTS_MAX, NBD_STATE_HOLE, NBD_STATE_ZERO } from "./constants.ts";

export const BASE_ALLOCATION = "base:allocation";

/** The context of what was written since a generation. */
export function generationContextName(generation: number): string {
  return `x-sojourn:generation/${generation}`;
}

/** Extents follow each other without a gap; `flags` mean what the context says. */
export type StatusExtent = { readonly length: number; readonly flags: number };

export interface MetadataContext {
  readonly name: string;
  /** Covers the range from its start, in order; only as many are drawn as a reply holds. */
  extentsOf(offset: number, length: number): Iterable<StatusExtent>;
}

/**
 * The names that a LIST query finds: an exact name, a namespace ("x-sojourn:"), a prefix that ends at a
 * separator ("x-sojourn:generation/"), or everything when it is empty.
 */
export function listQueryMatches(query: string, name: string): boolean {
  if (query === "" || query === name) return true;
  return (query.endsWith(":") || query.endsWith("/")) && name.startsWith(query);
}

/** What the store says about allocation, as extents of `base:allocation`; unknown is data. */
export function allocationExtents(extents: readonly Extent[] | undefined, length: number): StatusExtent[] {
  if (extents === undefined) return [{ length, flags: 0 }];
  return extents.map((extent) => ({
    length: extent.length,
    flags: (extent.hole ? NBD_STATE_HOLE : 0) | (extent.zero ? NBD_STATE_ZERO : 0),
  }));
}

/**
 * What goes on the wire: neighbours of equal flags merged, nothing beyond the range, nothing of length zero, and never
 * nothing at all: the specification demands that a reply makes progress.
 */
export function boundedExtents(
  extents: Iterable<StatusExtent>,
  { length, extentsMax = EXTENTS_MAX }: { length: number; extentsMax?: number },
): StatusExtent[] {
  const bounded: { length: number; flags: number }[] = [];
  let left = length;
  for (const extent of extents) {
    const taken = Math.min(extent.length, left);
    if (taken <= 0) continue;
    const last = bounded[bounded.length - 1];
    if (last !== undefined && last.flags === extent.flags) last.length += taken;
    else if (bounded.length === extentsMax) break;
    else bounded.push({ length: taken, flags: extent.flags });
    left -= taken;
    if (left === 0) break;
  }
  if (bounded.length === 0) bounded.push({ length, flags: 0 });
  return bounded;
}
