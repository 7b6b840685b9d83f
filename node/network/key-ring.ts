/**
 * Which keys a host admits others under, and whom.
 *
 * A key is a secret that both ends must know before they speak: a cluster's, or an invitation's. Its id says
 * nothing about it and names it on the wire. Who holds a secret may try; who gets in is decided with the proven
 * identity, by the same ring.
 */

import { createHash } from "node:crypto";
import { assert } from "../../protocol/errors.ts";
import type { Gossip } from "./gossip.ts";
import type { Connection, HostId, Network } from "./network.ts";

export const KEY_ID_SIZE = 8;
export const SECRET_SIZE_MIN = 32;

export type AdmissionKey = {
  /** `KEY_ID_SIZE` octets. */
  readonly id: Uint8Array;
  /** At least `SECRET_SIZE_MIN` random octets. */
  readonly secret: Uint8Array;
  /** Whether a channel of `protocol` may be opened on a connection under this key. */
  allows(protocol: string): boolean;
};

export interface KeyRing {
  /** Keys to try with a host that is dialled, best first, at most `KEYS_OFFERED_MAX`; none: it is not dialled. */
  offer(peer: HostId | undefined): readonly AdmissionKey[];
  /** The key that a dialler names; undefined for one that is not, or no longer, good. */
  find(id: Uint8Array): AdmissionKey | undefined;
  /** Why a host with that proven identity gets no connection under `key`; undefined: it gets one. */
  refusal(peer: HostId, key: AdmissionKey): string | undefined;
}

export const KEYS_OFFERED_MAX = 8;

/** A network with a key ring. */
export interface KeyedNetwork extends Network {
  readonly gossip: Gossip;
  /** The key that the connection was made under. */
  keyOf(connection: Connection): AdmissionKey | undefined;
  /** Calls `listener` for each connection that opens from now on, whoever dialled. */
  onConnection(listener: (connection: Connection) => void): void;
  /** Cuts every connection that would not be let in now. To be called when a host was revoked. */
  recheck(): void;
}

/** The id of a key with this secret: it tells who knows the secret which one is meant, and others nothing. */
export function keyIdOf(secret: Uint8Array): Uint8Array {
  assert(secret.byteLength >= SECRET_SIZE_MIN, "a short secret");
  return createHash("sha256").update("sojourn key id 1").update(secret).digest().subarray(0, KEY_ID_SIZE);
}

/** One secret, and whoever knows it. */
export function singleKey(secret: Uint8Array): KeyRing {
  const id = keyIdOf(secret);
  const key: AdmissionKey = { id, secret, allows: () => true };
  return {
    offer: () => [key],
    find: (named) => (sameOctets(named, id) ? key : undefined),
    refusal: () => undefined,
  };
}

export function sameOctets(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((octet, index) => octet === other[index]);
}
