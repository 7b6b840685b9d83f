/** TLS 1.3 on a connected socket, with the choices that libp2p's specification makes. Verifies nobody yet. */

import type { Socket } from "node:net";
import { connect, createServer, type TLSSocket } from "node:tls";

/** Says that no muxer was chosen by ALPN. Every list must hold it; a peer that is not libp2p has none. */
export const ALPN_LIBP2P = "libp2p";

export type Credentials = { cert: string; key: string };

export type HandshakeOptions = {
  role: "client" | "server";
  credentials: Credentials;
  /** Muxers to negotiate on the way, in order of preference. */
  muxers: readonly string[];
  signal: AbortSignal | undefined;
};

/** AES-128 first: the cheapest where the processor has it. */
const CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/** A paused TLSSocket after the handshake; the caller attaches its listeners and resumes it. */
export function handshake(socket: Socket, options: HandshakeOptions): Promise<TLSSocket> {
  const { role, signal } = options;
  return new Promise((resolve, reject) => {
    const begun = role === "client" ? asClient(socket, options) : asServer(socket, options);
    const fail = (error: unknown): void => {
      forget();
      begun.destroy();
      reject(error);
    };
    const onAbort = (): void => fail(signal?.reason);
    const onClose = (): void => fail(new Error("closed during the TLS handshake"));
    const forget = (): void => {
      signal?.removeEventListener("abort", onAbort);
      socket.removeListener("close", onClose);
    };
    signal?.addEventListener("abort", onAbort);
    socket.once("close", onClose);
    begun.done.then((secured) => {
      forget();
      // Between here and the caller's own listener an error must not be nobody's.
      secured.on("error", () => {});
      secured.pause();
      resolve(secured);
    }, fail);
    if (signal?.aborted) onAbort();
  });
}

type Begun = { done: Promise<TLSSocket>; destroy(): void };

function asClient(socket: Socket, { credentials, muxers }: HandshakeOptions): Begun {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  const tls = connect({ socket, ...common(credentials), ALPNProtocols: [...muxers, ALPN_LIBP2P] });
  tls.once("secureConnect", () => resolve(tls));
  tls.on("error", reject);
  return { done: promise, destroy: () => destroy(tls, socket) };
}

/**
 * Through a server that never listens: Node's documented way for a socket that is already connected, and the
 * only one in which errors after the handshake reach the socket. A server for each connection also means
 * keys for tickets of its own, so no session is ever resumed.
 */
function asServer(socket: Socket, { credentials, muxers }: HandshakeOptions): Begun {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  const server = createServer({
    ...common(credentials),
    requestCert: true,
    honorCipherOrder: true,
    ALPNCallback: ({ protocols }) => {
      if (!protocols.includes(ALPN_LIBP2P)) return undefined;
      return protocols.find((name) => muxers.includes(name)) ?? ALPN_LIBP2P;
    },
  });
  let tls: TLSSocket | undefined;
  server.once("secureConnection", (secured) => {
    tls = secured;
    resolve(secured);
  });
  server.on("tlsClientError", (error, failed) => {
    tls = failed;
    reject(error);
  });
  server.on("error", reject);
  server.emit("connection", socket);
  return { done: promise, destroy: () => destroy(tls, socket) };
}

function destroy(tls: TLSSocket | undefined, socket: Socket): void {
  tls?.on("error", () => {});
  tls?.destroy();
  socket.destroy();
}

/** The certificates are self-signed, so Node's own check cannot succeed; ours follows and must not be left out. */
function common(credentials: Credentials) {
  return {
    ...credentials,
    minVersion: "TLSv1.3" as const,
    maxVersion: "TLSv1.3" as const,
    ciphers: CIPHERS,
    rejectUnauthorized: false,
  };
}
