/** This host's signature, made at once: what gossip signs is small, and its state machine waits for nobody. */

import { createPrivateKey, type KeyObject, sign } from "node:crypto";
import type { Ed25519PrivateKey } from "@libp2p/interface";

export type HostSigner = (octets: Uint8Array) => Uint8Array;

/** `purpose` goes in front of what is signed and does not say itself what it is for. */
export function hostSigner(privateKey: Ed25519PrivateKey, purpose?: string): HostSigner {
  const key = keyObjectOf(privateKey);
  const prefix = purpose === undefined ? Buffer.alloc(0) : prefixOf(purpose);
  return (octets) => new Uint8Array(sign(null, Buffer.concat([prefix, octets]), key));
}

export type HostVerifier = (host: string, octets: Uint8Array, signature: Uint8Array) => boolean;

/** The other end of `hostSigner`. */
export function hostVerifier(verify: HostVerifier, purpose: string): HostVerifier {
  const prefix = prefixOf(purpose);
  return (host, octets, signature) => verify(host, Buffer.concat([prefix, octets]), signature);
}

function prefixOf(purpose: string): Buffer {
  return Buffer.from(`${purpose}\0`);
}

/** The key's raw form is its seed and its public half, 32 octets each. */
function keyObjectOf({ raw }: Ed25519PrivateKey): KeyObject {
  const [d, x] = [raw.subarray(0, 32), raw.subarray(32)].map((part) =>
    Buffer.from(part).toString("base64url"),
  );
  return createPrivateKey({ key: { kty: "OKP", crv: "Ed25519", d: d!, x: x! }, format: "jwk" });
}
