/**
 * What stands before every handshake of a host with a key ring: the dialler names the keys it could use, the
 * listener takes the first that it knows.
 *
 *   dialler ── u8 count · count ids of 8 octets ──▶ listener
 *   dialler ◀── the id taken ────────────────────── listener, or nothing: it closes
 *
 * Both ends then mix the key's secret and all that was said here into the handshake proper: into Noise as its
 * prologue, into TLS as a proof over the session. So the ids need no secrecy, and whoever changes them on the way
 * gets no handshake. A listener that knows none of the keys has said nothing of its own when it closes: libp2p's names
 * of protocols, which the two ends exchange before, are all that a stranger hears.
 */

import { createHash } from "node:crypto";
import { type NoiseComponents, noise } from "@chainsafe/libp2p-noise";
import type {
  ConnectionEncrypter,
  MessageStream,
  SecureConnectionOptions,
  SecuredConnection,
} from "@libp2p/interface";
import { AbstractMultiaddrConnection, byteStream } from "@libp2p/utils";
import { assert } from "../../protocol/errors.ts";
import { type AdmissionKey, KEY_ID_SIZE, KEYS_OFFERED_MAX, type KeyRing, sameOctets } from "./key-ring.ts";

/** Carries the reason to the log; the peer is told nothing. */
export class AdmissionRefused extends Error {
  override readonly name = "AdmissionRefused";
}

export type AgreedKey = {
  readonly key: AdmissionKey;
  /** 32 octets that only both ends of this exchange can have. */
  readonly binding: Uint8Array;
};

/**
 * The key of each connection. An upgraded connection and the raw one below it share one timeline object, and
 * nothing else that libp2p shows of both.
 */
const keys = new WeakMap<object, AdmissionKey>();

/** Undefined for a connection whose network has no key ring. */
export function keyOf(connection: { timeline: object }): AdmissionKey | undefined {
  return keys.get(connection.timeline);
}

type Role = "dialler" | "listener";

/** What a peer may send behind the exchange before its handshake is looked at. */
const EARLY_SIZE_MAX = 64 << 10;

/** Throws AdmissionRefused. Bytes that arrive behind the exchange stay in `raw` for the handshake. */
export async function agreeOnKey(
  raw: MessageStream,
  ring: KeyRing,
  { role, remotePeer, signal }: { role: Role } & Pick<SecureConnectionOptions, "remotePeer" | "signal">,
): Promise<AgreedKey> {
  assert(raw instanceof AbstractMultiaddrConnection, "keys are agreed on over the connection of a socket");
  const bytes = byteStream(raw, { maxBufferSize: EARLY_SIZE_MAX });
  const options = signal === undefined ? {} : { signal };
  const octets: Octets = {
    read: async (size) => (await bytes.read({ ...options, bytes: size })).slice(),
    write: (sent) => bytes.write(sent, options),
  };
  try {
    const agreed =
      role === "dialler"
        ? await asDialler(octets, ring.offer(remotePeer?.toString()))
        : await asListener(octets, ring);
    keys.set(raw.timeline, agreed.key);
    return agreed;
  } finally {
    bytes.unwrap();
  }
}

type Octets = { read(size: number): Promise<Uint8Array>; write(octets: Uint8Array): Promise<void> };

async function asDialler(octets: Octets, offered: readonly AdmissionKey[]): Promise<AgreedKey> {
  const ids = offered.slice(0, KEYS_OFFERED_MAX).map(({ id }) => id);
  if (ids.length === 0) throw new AdmissionRefused("we have no key for this host: it is no member");
  const offer = Buffer.concat([Uint8Array.of(ids.length), ...ids]);
  await octets.write(offer);
  const taken = await octets.read(KEY_ID_SIZE).catch((cause: unknown) => {
    throw new AdmissionRefused("the peer knows no cluster secret of ours", { cause });
  });
  const key = offered.find(({ id }) => sameOctets(id, taken));
  if (key === undefined) throw new AdmissionRefused("the peer took a key that was not offered");
  return { key, binding: bindingOf(key, offer) };
}

async function asListener(octets: Octets, ring: KeyRing): Promise<AgreedKey> {
  const head = await octets.read(1);
  const count = head[0]!;
  if (count < 1 || count > KEYS_OFFERED_MAX) throw new AdmissionRefused(`${count} keys offered`);
  const ids = await octets.read(count * KEY_ID_SIZE);
  const named = Array.from({ length: count }, (_, index) =>
    ids.subarray(index * KEY_ID_SIZE, (index + 1) * KEY_ID_SIZE),
  );
  const key = named.map((id) => ring.find(id)).find((found) => found !== undefined);
  if (key === undefined) {
    const text = named.map((id) => Buffer.from(id).toString("hex")).join(" ");
    throw new AdmissionRefused(`unknown, expired or used-up key ${text}`);
  }
  await octets.write(key.id);
  return { key, binding: bindingOf(key, Buffer.concat([head, ids])) };
}

function bindingOf({ id, secret }: AdmissionKey, offer: Uint8Array): Uint8Array {
  const hash = createHash("sha256").update("sojourn admission 1").update(offer).update(id);
  return hash.update(secret).digest();
}

/** Stock Noise behind the agreement on a key. */
export function keyedNoise(ring: KeyRing) {
  return (components: NoiseComponents): ConnectionEncrypter => new KeyedNoise(components, ring);
}

class KeyedNoise implements ConnectionEncrypter {
  readonly protocol = "/sojourn/noise/1.0.0";
  readonly #components: NoiseComponents;
  readonly #ring: KeyRing;

  constructor(components: NoiseComponents, ring: KeyRing) {
    this.#components = components;
    this.#ring = ring;
  }

  secureInbound(raw: MessageStream, options?: SecureConnectionOptions): Promise<SecuredConnection> {
    return this.#secure(raw, "listener", options);
  }

  secureOutbound(raw: MessageStream, options?: SecureConnectionOptions): Promise<SecuredConnection> {
    return this.#secure(raw, "dialler", options);
  }

  async #secure(
    raw: MessageStream,
    role: Role,
    options: SecureConnectionOptions = {},
  ): Promise<SecuredConnection> {
    try {
      const { binding } = await agreeOnKey(raw, this.#ring, { ...options, role });
      // One instance for each connection: the prologue is its own.
      const encrypter = noise({ prologueBytes: binding })(this.#components);
      return await (role === "listener"
        ? encrypter.secureInbound(raw, options)
        : encrypter.secureOutbound(raw, options));
    } catch (error) {
      raw.abort(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }
}
