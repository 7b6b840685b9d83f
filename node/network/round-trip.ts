/** libp2p's ping on one stream: the peer echoes what it gets. */

import { randomBytes } from "node:crypto";
import type { Stream, StreamCloseEvent } from "@libp2p/interface";
import { Uint8ArrayList } from "uint8arraylist";

const PING_SIZE_BYTES = 32;

/** Milliseconds until the echo. Ends the stream; rejects when it ends first or echoes something else. */
export async function roundTrip(stream: Stream, signal: AbortSignal): Promise<number> {
  const question = randomBytes(PING_SIZE_BYTES);
  const sentAt = performance.now();
  try {
    const answer = echoOf(stream, signal);
    // A stream that ended meanwhile cannot be sent on: nobody waits for an answer, and one is refused all the same.
    answer.catch(() => undefined);
    stream.send(question);
    if (!question.equals(await answer)) throw new Error("the peer echoed something else");
    const elapsedMs = performance.now() - sentAt;
    await stream.close({ signal });
    return elapsedMs;
  } catch (error) {
    stream.abort(error instanceof Error ? error : new Error(String(error)));
    throw error;
  }
}

function echoOf(stream: Stream, signal: AbortSignal): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const received = new Uint8ArrayList();
    stream.addEventListener("message", ({ data }) => {
      received.append(data);
      if (received.byteLength >= PING_SIZE_BYTES) resolve(received.subarray());
    });
    stream.addEventListener("close", (event: StreamCloseEvent) =>
      reject(event.error ?? new Error("closed without an echo")),
    );
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
