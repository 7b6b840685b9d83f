/**
 * The cluster's secrets: 32 random octets each, of which the newest is used and the others are accepted until
 * their overlap ends.
 *
 * A set that only grows, so that members who rotate at the same time agree in the end: the highest epoch is the
 * newest, of one epoch the lowest id. A secret says until when those before it are accepted. Members give each
 * other what they have over connections that an older secret protects (`exchange.ts`); a member that was away for
 * a whole overlap has to join again.
 *
 *   a secret as it travels = u8 version · varint epoch · varint ms since 1970 · secret[32]
 */

import { hexOf } from "../../protocol/members/statement.ts";
import { badField, OctetReader, OctetWriter } from "../../protocol/octets.ts";
import { keyIdOf } from "../network/key-ring.ts";
import { sha256 } from "./signing.ts";

export type ClusterSecret = {
  readonly epoch: number;
  /** When the secrets before it stop to be accepted, milliseconds since 1970. */
  readonly othersEndAtMs: number;
  readonly secret: Uint8Array;
};

export const SECRET_SIZE = 32;
/** More are kept than a key ring offers: what is over is the oldest. */
export const SECRETS_MAX = 8;

const VERSION = 1;
const EPOCH_MAX = 2 ** 32;
/** A member is not believed that the cluster rotated more often than this without us. */
const EPOCH_JUMP_MAX = 1 << 16;
const TIME_MAX = 2 ** 48;

export class SecretSet {
  /** Newest first. */
  #secrets: readonly ClusterSecret[] = [];

  constructor(secrets: readonly ClusterSecret[] = []) {
    for (const secret of secrets) this.#insert(secret);
  }

  all(): readonly ClusterSecret[] {
    return this.#secrets;
  }

  /** Those that open a connection at `nowMs`, newest first. */
  accepted(nowMs: number): readonly ClusterSecret[] {
    return this.#secrets.filter((_, index) =>
      this.#secrets.slice(0, index).every(({ othersEndAtMs }) => nowMs < othersEndAtMs),
    );
  }

  /** The next secret of this cluster. */
  next(secret: Uint8Array, othersEndAtMs: number): ClusterSecret {
    return { epoch: (this.#secrets[0]?.epoch ?? 0) + 1, othersEndAtMs, secret };
  }

  /** False when it was here, or is older than all that is kept. Throws ProtocolError for one that cannot be. */
  add(secret: ClusterSecret): boolean {
    const newest = this.#secrets[0]?.epoch ?? secret.epoch;
    if (secret.epoch > newest + EPOCH_JUMP_MAX) throw badField("cluster-secret.epoch", "far ahead of ours");
    return this.#insert(secret);
  }

  // As a topic of the exchange.

  ids(): string[] {
    return this.#secrets.map(itemId);
  }

  get(id: string): Uint8Array | undefined {
    const found = this.#secrets.find((secret) => itemId(secret) === id);
    return found === undefined ? undefined : encodeSecret(found);
  }

  #insert(secret: ClusterSecret): boolean {
    const id = itemId(secret);
    if (this.#secrets.some((each) => itemId(each) === id)) return false;
    const all = [...this.#secrets, secret].sort(newestFirst);
    this.#secrets = all.slice(0, SECRETS_MAX);
    return this.#secrets.includes(secret);
  }
}

export function encodeSecret({ epoch, othersEndAtMs, secret }: ClusterSecret): Uint8Array {
  const to = new OctetWriter();
  to.u8(VERSION);
  to.varint(epoch);
  to.varint(othersEndAtMs);
  to.octets(secret);
  return to.finish();
}

/** Throws ProtocolError. */
export function decodeSecret(bytes: Uint8Array): ClusterSecret {
  const from = new OctetReader(bytes);
  if (from.u8() !== VERSION) throw badField("cluster-secret.version", "unknown");
  const epoch = from.varint("cluster-secret.epoch", EPOCH_MAX);
  const othersEndAtMs = from.varint("cluster-secret.time", TIME_MAX);
  const secret = from.octets(SECRET_SIZE).slice();
  from.end("cluster-secret");
  return { epoch, othersEndAtMs, secret };
}

function newestFirst(one: ClusterSecret, other: ClusterSecret): number {
  if (one.epoch !== other.epoch) return other.epoch - one.epoch;
  return hexOf(keyIdOf(one.secret)) < hexOf(keyIdOf(other.secret)) ? -1 : 1;
}

/** Of the whole record, not of the secret alone: two ends of one secret must be told apart. */
function itemId(secret: ClusterSecret): string {
  return hexOf(sha256(encodeSecret(secret)).subarray(0, 16));
}
