/**
 * Proof that both ends of a TLS session know the cluster secret, which TLS with certificates cannot carry.
 *
 *   client ── HMAC(secret, "client" ‖ session ‖ client ‖ server) ──▶ server
 *   client ◀── HMAC(secret, "server" ‖ session ‖ client ‖ server) ── server
 *
 * `session` is exported from the TLS session (RFC 5705): somebody in the middle has two sessions with two
 * exports, so a proof cannot be passed on. The roles differ, so it cannot be sent back. The secret must be
 * random: a peer that sees a tag can try guesses against it.
 */

import { createHmac, timingSafeEqual } from "node:crypto";
import type { TLSSocket } from "node:tls";

/** Labels of one's own begin so, says the RFC. */
const EXPORT_LABEL = "EXPERIMENTAL sojourn cluster proof v1";
const TAG_SIZE = 32;

export type ProofContext = {
  /** Random, or made of what is. */
  secret: Uint8Array;
  role: "client" | "server";
  client: Uint8Array;
  server: Uint8Array;
  signal: AbortSignal | undefined;
};

/** Rejects unless the peer knows the secret. Nothing of the session was handed to a muxer before. */
export async function proveMembership(tls: TLSSocket, context: ProofContext): Promise<void> {
  const session = tls.exportKeyingMaterial(TAG_SIZE, EXPORT_LABEL, Buffer.alloc(0));
  const tagOf = (role: string): Buffer =>
    createHmac("sha256", context.secret)
      .update(role)
      .update(session)
      .update(context.client)
      .update(context.server)
      .digest();
  const theirs = context.role === "client" ? "server" : "client";
  if (context.role === "client") tls.write(tagOf("client"));
  const tag = await readExactly(tls, TAG_SIZE, context.signal);
  if (!timingSafeEqual(tag, tagOf(theirs))) throw new Error("the peer does not know the cluster secret");
  if (context.role === "server") tls.write(tagOf("server"));
}

/**
 * One listener for the whole wait: attached again and again it fires for a partial message at every tick, and
 * a peer that sends one byte stops the process.
 */
function readExactly(tls: TLSSocket, size: number, signal: AbortSignal | undefined): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const onReadable = (): void => {
      const bytes: Buffer | null = tls.read(size);
      if (bytes === null) return;
      forget();
      if (bytes.byteLength === size) resolve(bytes);
      else reject(new Error("short proof of membership"));
    };
    const onGone = (): void => {
      forget();
      reject(new Error("the peer closed before it proved its membership"));
    };
    const onAbort = (): void => {
      forget();
      reject(signal?.reason);
    };
    const forget = (): void => {
      tls.removeListener("readable", onReadable);
      tls.removeListener("end", onGone);
      tls.removeListener("close", onGone);
      signal?.removeEventListener("abort", onAbort);
    };
    tls.on("readable", onReadable);
    tls.on("end", onGone);
    tls.on("close", onGone);
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted) onAbort();
    else if (tls.destroyed || tls.readableEnded) onGone();
  });
}
