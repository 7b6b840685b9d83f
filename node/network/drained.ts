/**
 * Waiting until a libp2p stream has handed everything over.
 *
 * Not `stream.onDrain()`: its promise is made once and never again, so from the second wait on it resolves
 * at once and a sender that trusts it queues without bound. And not one `drain` event either: a muxer's
 * drain reaches every stream, also those whose own window is used up. What counts is an empty queue.
 */

import type { Stream, StreamCloseEvent } from "@libp2p/interface";

/** Rejects with the stream's error, or with the signal's reason. */
export function drained(stream: Stream, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.reject(signal.reason);
  if (stream.status !== "open") return Promise.reject(new Error(`stream is ${stream.status}`));
  if (isEmpty(stream)) return Promise.resolve();

  return new Promise((resolve, reject) => {
    // The stream tries to send in a microtask of its own after the event: look behind it.
    const onDrain = (): void => queueMicrotask(check);
    const check = (): void => {
      if (!isEmpty(stream)) return;
      forget();
      resolve();
    };
    const onClose = (event: StreamCloseEvent): void => {
      forget();
      reject(event.error ?? new Error("stream closed while waiting to send"));
    };
    const onAbort = (): void => {
      forget();
      reject(signal?.reason);
    };
    const forget = (): void => {
      stream.removeEventListener("drain", onDrain);
      stream.removeEventListener("idle", onDrain);
      stream.removeEventListener("close", onClose);
      signal?.removeEventListener("abort", onAbort);
    };
    stream.addEventListener("drain", onDrain);
    stream.addEventListener("idle", onDrain);
    stream.addEventListener("close", onClose);
    signal?.addEventListener("abort", onAbort);
  });
}

function isEmpty(stream: Stream): boolean {
  return stream.writeBufferLength === 0 && !stream.writableNeedsDrain;
}
