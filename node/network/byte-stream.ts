/**
 * A plain stream of bytes over a channel: a hypervisor's memory stream, a pipe of a child process. Such
 * streams come in pieces of any size; they travel as frames of a bounded one, and the reader sees bytes again.
 */

import { pipe } from "it-pipe";
import { MEMORY_CHUNK_SIZE_MAX } from "../../protocol/limits.ts";
import type { Channel } from "./network.ts";

/** Sends `source` to its end, then ends our side of the channel; a source that fails aborts it. */
export function sendBytes(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  channel: Channel,
  { chunkSizeMax = MEMORY_CHUNK_SIZE_MAX }: { chunkSizeMax?: number } = {},
): Promise<void> {
  return pipe(source, (pieces) => cut(pieces, chunkSizeMax), channel.sink);
}

/** A piece is not held back to fill a frame: at its end a hypervisor waits for an answer to its last bytes. */
async function* cut(
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  sizeMax: number,
): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) {
    for (let offset = 0; offset < piece.byteLength; offset += sizeMax) {
      yield piece.subarray(offset, offset + sizeMax);
    }
  }
}
