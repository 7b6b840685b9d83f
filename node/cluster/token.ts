/**
 * An invitation as text: base64url, so that it survives a shell, a chat and a mail.
 *
 *   token = u8 version · name cluster · name inviter · varint expiry (seconds since 1970)
 *           varint count · name address … · secret[32] · checksum[4], the beginning of the SHA-256 of all before
 *
 * The secret is the right to join and the key of the one connection that does it; the inviter knows the token by
 * the key id made of it. Expiry and addresses are for the joiner's eyes: what counts is what the inviter keeps.
 */

import { ADDRESS_LENGTH_MAX, ADDRESSES_MAX, HOST_ID_LENGTH_MAX } from "../../protocol/members/statement.ts";
import { FieldReader, FieldWriter } from "../../protocol/wire/fields.ts";
import { NodeError } from "../errors.ts";
import { sha256 } from "./signing.ts";

export type Token = {
  readonly cluster: string;
  readonly inviter: string;
  readonly expiresAtMs: number;
  /** Where the inviter answers: multiaddrs without its id. */
  readonly addresses: readonly string[];
  readonly secret: Uint8Array;
};

export const TOKEN_LENGTH_MAX = 4096;

const VERSION = 1;
const SECRET_SIZE = 32;
const CHECKSUM_SIZE = 4;
const CLUSTER_ID_LENGTH = 64;
const SECONDS_MAX = 2 ** 40;

export function formatToken({ cluster, inviter, expiresAtMs, addresses, secret }: Token): string {
  const to = new FieldWriter();
  to.integer(VERSION);
  to.name(cluster, CLUSTER_ID_LENGTH);
  to.name(inviter, HOST_ID_LENGTH_MAX);
  to.integer(Math.ceil(expiresAtMs / 1000));
  to.integer(addresses.length);
  for (const address of addresses) to.name(address, ADDRESS_LENGTH_MAX);
  const body = Buffer.concat([to.finish(), secret]);
  return Buffer.concat([body, sha256(body).subarray(0, CHECKSUM_SIZE)]).toString("base64url");
}

/** Throws TOKEN_INVALID. */
export function parseToken(text: string): Token {
  const trimmed = text.trim();
  if (trimmed.length > TOKEN_LENGTH_MAX || !/^[A-Za-z0-9_-]+$/.test(trimmed)) throw invalid("it is not one");
  const bytes = Buffer.from(trimmed, "base64url");
  const body = bytes.subarray(0, -CHECKSUM_SIZE);
  if (
    bytes.length < SECRET_SIZE + CHECKSUM_SIZE ||
    !sha256(body).subarray(0, CHECKSUM_SIZE).equals(bytes.subarray(body.length))
  ) {
    throw invalid("a part of it is missing or was changed");
  }
  try {
    return read(body);
  } catch (cause) {
    throw invalid("it is of another version", cause);
  }
}

function read(body: Buffer): Token {
  const from = new FieldReader("token", body.subarray(0, -SECRET_SIZE), {
    vbds: undefined,
    bitmapBytesMax: 0,
  });
  from.integer("version", { min: VERSION, max: VERSION });
  const cluster = from.name("cluster", CLUSTER_ID_LENGTH);
  const inviter = from.name("inviter", HOST_ID_LENGTH_MAX);
  const expiresAtMs = from.integer("expiry", { min: 0, max: SECONDS_MAX }) * 1000;
  const count = from.integer("addresses", { min: 0, max: ADDRESSES_MAX });
  const addresses = Array.from({ length: count }, () => from.name("address", ADDRESS_LENGTH_MAX));
  from.end();
  return { cluster, inviter, expiresAtMs, addresses, secret: new Uint8Array(body.subarray(-SECRET_SIZE)) };
}

function invalid(reason: string, cause?: unknown): NodeError {
  return new NodeError("TOKEN_INVALID", { reason }, { cause });
}
