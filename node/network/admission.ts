/**
 * Who may talk to this host: the encrypters that both ends must pass, the question that a proven identity answers
 * to, and the log of those who were refused.
 */

import { noise } from "@chainsafe/libp2p-noise";
import type { ConnectionGater, MultiaddrConnection, PeerId } from "@libp2p/interface";
import { HandshakeWatch } from "./dial-failure.ts";
import { type KeyRing, singleKey } from "./key-ring.ts";
import { keyedNoise, keyOf } from "./keyed-admission.ts";
import type { NetworkLog } from "./libp2p-network.ts";
import { nativeTls } from "./native-tls.ts";
import type { HostId } from "./network.ts";
import { RefusalLog } from "./refusals.ts";

export type AdmissionOptions = {
  role: "control" | "data";
  /** What both ends must share before the handshake, and whom that lets in. */
  keys?: KeyRing;
  /** Instead of `keys`: one secret of at least 32 random bytes; whoever has another is refused. */
  prologueBytes?: Uint8Array;
  /** Asked with a proven identity, both ways, at each connection and again at each channel. */
  allowPeers?: (peer: HostId) => boolean;
};

type Connected = { timeline: object; remotePeer: PeerId };

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #keys: KeyRing | undefined;
  readonly #refusals: RefusalLog;
  readonly #handshakes = new HandshakeWatch();

  constructor(log: NetworkLog, options: AdmissionOptions) {
    const { keys, prologueBytes, role } = options;
    this.#options = options;
    this.#keys = keys ?? (prologueBytes === undefined ? undefined : singleKey(prologueBytes));
    this.#refusals = new RefusalLog(log, role);
  }

  /** Bulk bytes over TLS where both ends can: a quarter of the CPU. Gossip over the Noise everybody has. */
  encrypters() {
    const keys = this.#keys;
    const isData = this.#options.role === "data";
    const noises = keys === undefined ? noise() : keyedNoise(keys);
    const encrypters = isData ? [nativeTls(keys === undefined ? {} : { keys }), noises] : [noises];
    return encrypters.map((each) => this.#handshakes.watch(each));
  }

  gater(isStopping: () => boolean): ConnectionGater {
    const denies = (peer: PeerId, raw: MultiaddrConnection): boolean => {
      const reason = isStopping() ? "we stop" : this.refusal({ timeline: raw.timeline, remotePeer: peer });
      if (reason === undefined) return false;
      this.log({ peer: peer.toString(), address: raw.remoteAddr.toString(), reason });
      return true;
    };
    return {
      denyDialMultiaddr: () => false,
      denyDialPeer: (peer) => isStopping() || !this.#allows(peer),
      denyInboundEncryptedConnection: denies,
      denyOutboundEncryptedConnection: denies,
    };
  }

  /** Why that peer may not, or no longer, have this connection, or a channel of `protocol` on it. */
  refusal(connection: Connected, protocol?: string): string | undefined {
    const { remotePeer } = connection;
    if (!this.#allows(remotePeer)) return "not on the list of allowed hosts";
    if (this.#keys === undefined) return undefined;
    const key = keyOf(connection);
    if (key === undefined) return "no key was agreed on";
    const reason = this.#keys.refusal(remotePeer.toString(), key);
    if (reason !== undefined) return reason;
    return protocol === undefined || key.allows(protocol) ? undefined : `its key does not allow ${protocol}`;
  }

  log(fields: { peer?: string; address?: string; reason: string }): void {
    this.#refusals.refused(fields);
  }

  /** Why a dial failed, whatever libp2p made of it. */
  outboundFailure(raw: MultiaddrConnection, error: unknown): Error {
    return this.#handshakes.failureOf(raw, error);
  }

  inboundFailed(raw: MultiaddrConnection, error: unknown): void {
    // The gater has said more about these.
    if (error instanceof Error && error.name === "ConnectionInterceptedError") return;
    const { message } = this.#handshakes.failureOf(raw, error);
    this.log({ address: raw.remoteAddr.toString(), reason: message });
  }

  #allows(peer: PeerId): boolean {
    return this.#options.allowPeers?.(peer.toString()) ?? true;
  }
}
