/** The reply to a BLOCK_STATUS: a chunk per context that the client selected. */
import type { Extent } from "../block-store.ts";
import { EXTENTS_MAX } from "./constants.ts";
import type { SelectedContext } from "./handshake.ts";
import { allocationExtents, BASE_ALLOCATION, boundedExtents } from "./metadata-contexts.ts";
import { blockStatusChunk, type Cookie } from "./transmission.ts";

export type StatusRequest = {
  cookie: Cookie;
  offset: number;
  length: number;
  requestOne: boolean;
  contexts: readonly SelectedContext[];
};

/** `allocation` is what the store says about the range, for `base:allocation`. */
export function statusReply(request: StatusRequest, allocation: readonly Extent[] | undefined): Buffer {
  const { cookie, offset, length, contexts } = request;
  const extentsMax = request.requestOne ? 1 : EXTENTS_MAX;
  const chunks = contexts.map(({ id, context }, index) => {
    const found =
      context.name === BASE_ALLOCATION
        ? allocationExtents(allocation, length)
        : context.extentsOf(offset, length);
    const done = index === contexts.length - 1;
    return blockStatusChunk(cookie, { id, extents: boundedExtents(found, { length, extentsMax }), done });
  });
  return Buffer.concat(chunks);
}
