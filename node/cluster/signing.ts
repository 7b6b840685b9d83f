/** Signatures of hosts: a host id is an Ed25519 public key as text, so anybody can check what a host signed. */

import { createHash, createPublicKey, type KeyObject, verify } from "node:crypto";
import type { Ed25519PrivateKey } from "@libp2p/interface";
import { peerIdFromString } from "@libp2p/peer-id";
import {
  encodeBody,
  joinSigned,
  type SignedStatement,
  type Statement,
  type StatementCrypto,
} from "../../protocol/members/statement.ts";

/** A cluster's hosts and some strangers: making a key of its text costs more than a check with it. */
const KEYS_MAX = 8192;
const keys = new Map<string, KeyObject>();

export const statementCrypto: StatementCrypto = { hash: sha256, verify: verifyByHost };

export function sha256(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

/** Whether `host` signed `bytes`. False also for what is no id of an Ed25519 key, or not its only spelling. */
export function verifyByHost(host: string, bytes: Uint8Array, signature: Uint8Array): boolean {
  const key = keyOf(host);
  return key !== undefined && verify(null, bytes, key, signature);
}

export async function signStatement(
  privateKey: Ed25519PrivateKey,
  statement: Statement,
): Promise<SignedStatement> {
  const body = encodeBody(statement);
  return joinSigned(body, await privateKey.sign(body), statementCrypto);
}

function keyOf(host: string): KeyObject | undefined {
  const known = keys.get(host);
  if (known !== undefined) return known;
  try {
    const peer = peerIdFromString(host);
    if (peer.type !== "Ed25519" || peer.toString() !== host) return undefined;
    const x = Buffer.from(peer.publicKey.raw).toString("base64url");
    const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    if (keys.size >= KEYS_MAX) keys.delete(keys.keys().next().value!);
    keys.set(host, key);
    return key;
  } catch {
    return undefined;
  }
}
