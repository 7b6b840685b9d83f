/**
 * libp2p's standard TLS 1.3 (/tls/1.0.0), with `node:tls` directly on the TCP socket.
 *
 * The record layer then runs in C++ and never in JavaScript: about a quarter of the CPU time of Noise for
 * bulk bytes. The bytes on the wire are those of any libp2p; with a key ring both ends agree on a key first
 * (`keyed-admission.ts`), a proof of it follows the handshake, and the protocol has a name of its own.
 *
 * AES-GCM should not seal more than some 2^24 full records with one key, and OpenSSL does not change it: a
 * connection must not carry more than `CONNECTION_SIZE_MAX` bytes.
 */

import type { TLSSocket } from "node:tls";
import {
  type ComponentLogger,
  type ConnectionEncrypter,
  InvalidCryptoExchangeError,
  type Logger,
  type MessageStream,
  type PeerId,
  type PrivateKey,
  type SecureConnectionOptions,
  type SecuredConnection,
  type StreamMuxerFactory,
  UnexpectedPeerError,
  type Upgrader,
} from "@libp2p/interface";
import { peerIdFromPrivateKey } from "@libp2p/peer-id";
import { AbstractMultiaddrConnection } from "@libp2p/utils";
import { assert } from "../../protocol/errors.ts";
import { proveMembership } from "./cluster-proof.ts";
import { socketOf } from "./counted-tcp.ts";
import { type KeyRing, singleKey } from "./key-ring.ts";
import { type AgreedKey, agreeOnKey } from "./keyed-admission.ts";
import { TlsConnection, takeOver } from "./tls-connection.ts";
import { ALPN_LIBP2P, type Credentials, handshake } from "./tls-handshake.ts";

/** A third of what one key may seal: open another connection in time. */
export const CONNECTION_SIZE_MAX = 128 * 2 ** 30;

const TLS_PROTOCOL = "/tls/1.0.0";
const CLUSTER_TLS_PROTOCOL = "/sojourn/tls/1.0.0";

export type NativeTlsComponents = { privateKey: PrivateKey; logger: ComponentLogger; upgrader: Upgrader };

export type NativeTlsOptions = {
  /** Keys to agree on before the handshake. */
  keys?: KeyRing;
  /** Instead of `keys`: random bytes that every host of the cluster has; a peer without them is refused. */
  clusterSecret?: Uint8Array;
  /** Makes the certificate of this process. */
  credentials?: (privateKey: PrivateKey) => Promise<Credentials>;
};

export function nativeTls(options: NativeTlsOptions = {}) {
  return (components: NativeTlsComponents): ConnectionEncrypter => new NativeTls(components, options);
}

/** Loaded by the first handshake: 5 MiB that the control process, and a host at rest, do without. */
function certificates(): Promise<typeof import("@libp2p/tls/utils")> {
  return import("@libp2p/tls/utils");
}

async function generateCredentials(privateKey: PrivateKey): Promise<Credentials> {
  const { generateCertificate } = await certificates();
  return generateCertificate(privateKey);
}

const NONE: ReadonlyMap<string, StreamMuxerFactory> = new Map();

type Role = "client" | "server";

type ProofOf = { agreed: AgreedKey; role: Role; remotePeer: PeerId; signal: AbortSignal | undefined };

class NativeTls implements ConnectionEncrypter {
  readonly protocol: string;
  readonly #components: NativeTlsComponents;
  readonly #log: Logger;
  readonly #keys: KeyRing | undefined;
  readonly #self: PeerId;
  readonly #certify: (privateKey: PrivateKey) => Promise<Credentials>;
  /** One for the process: the specification asks for no more, and it is half the cost of a handshake. */
  #credentials: Promise<Credentials> | undefined;

  constructor(components: NativeTlsComponents, options: NativeTlsOptions) {
    const { clusterSecret, credentials = generateCredentials } = options;
    this.#keys = options.keys ?? (clusterSecret === undefined ? undefined : singleKey(clusterSecret));
    this.protocol = this.#keys === undefined ? TLS_PROTOCOL : CLUSTER_TLS_PROTOCOL;
    this.#components = components;
    this.#log = components.logger.forComponent("sojourn:native-tls");
    this.#self = peerIdFromPrivateKey(components.privateKey);
    this.#certify = credentials;
  }

  secureInbound(stream: MessageStream, options?: SecureConnectionOptions): Promise<SecuredConnection> {
    return this.#secure(stream, options, "server");
  }

  secureOutbound(stream: MessageStream, options?: SecureConnectionOptions): Promise<SecuredConnection> {
    return this.#secure(stream, options, "client");
  }

  async #secure(
    raw: MessageStream,
    options: SecureConnectionOptions | undefined,
    role: Role,
  ): Promise<SecuredConnection> {
    assert(raw instanceof AbstractMultiaddrConnection, "TLS needs the connection of a socket");
    const socket = socketOf(raw);
    const signal = options?.signal;
    let tls: TLSSocket | undefined;
    try {
      this.#credentials ??= this.#certify(this.#components.privateKey);
      const credentials = await this.#credentials;
      const agreed = await this.#agree(raw, role, options);
      await takeOver(raw, socket);
      const muxers = options?.skipStreamMuxerNegotiation === true ? NONE : this.#muxers();
      tls = await handshake(socket, { role, credentials, muxers: [...muxers.keys()], signal });
      const remotePeer = await this.#verified(tls, options?.remotePeer);
      const streamMuxer = chosenMuxer(tls, muxers);
      if (agreed !== undefined) await this.#prove(tls, { agreed, role, remotePeer, signal });
      signal?.throwIfAborted();
      if (tls.destroyed || raw.status !== "open") throw new Error("closed during the handshake");
      const connection = new TlsConnection(raw, tls);
      // Paused since the handshake; a listener alone does not undo that.
      tls.resume();
      return { connection, remotePeer, ...(streamMuxer === undefined ? {} : { streamMuxer }) };
    } catch (error) {
      tls?.destroy();
      raw.abort(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }

  /** Whose session this is: TLS itself was told to accept any certificate. */
  async #verified(tls: TLSSocket, expected: PeerId | undefined): Promise<PeerId> {
    const certificate = tls.getPeerX509Certificate();
    if (certificate === undefined) throw new InvalidCryptoExchangeError("the peer sent no certificate");
    if (tls.isSessionReused()) throw new InvalidCryptoExchangeError("resumed sessions are not accepted");
    // Without the name that is expected: the answer is the same, and a bad certificate stays a bad one.
    const { verifyPeerCertificate } = await certificates();
    const peer = await verifyPeerCertificate(new Uint8Array(certificate.raw), undefined, this.#log);
    if (expected !== undefined && !expected.equals(peer)) throw new UnexpectedPeerError();
    return peer;
  }

  async #agree(
    raw: MessageStream,
    role: Role,
    options: SecureConnectionOptions = {},
  ): Promise<AgreedKey | undefined> {
    if (this.#keys === undefined) return undefined;
    return agreeOnKey(raw, this.#keys, { ...options, role: role === "client" ? "dialler" : "listener" });
  }

  async #prove(tls: TLSSocket, { agreed, role, remotePeer, signal }: ProofOf): Promise<void> {
    const ours = this.#self.toMultihash().bytes;
    const theirs = remotePeer.toMultihash().bytes;
    const [client, server] = role === "client" ? [ours, theirs] : [theirs, ours];
    await proveMembership(tls, { secret: agreed.binding, role, client, server, signal });
  }

  #muxers(): ReadonlyMap<string, StreamMuxerFactory> {
    return this.#components.upgrader.getStreamMuxers();
  }
}

function chosenMuxer(
  tls: TLSSocket,
  muxers: ReadonlyMap<string, StreamMuxerFactory>,
): StreamMuxerFactory | undefined {
  const { alpnProtocol } = tls;
  if (alpnProtocol === ALPN_LIBP2P) return undefined;
  const muxer = typeof alpnProtocol === "string" ? muxers.get(alpnProtocol) : undefined;
  if (muxer === undefined) throw new InvalidCryptoExchangeError(`no muxer by ALPN: ${alpnProtocol}`);
  return muxer;
}
