/**
 * What members say about who is a member: signed statements, each of which proves itself.
 *
 *   genesis   the founder makes the cluster; the cluster's id is the hash of these octets
 *   admit     a member lets a host in
 *   revoke    a member shuts a host out for ever. `keeps` names the hosts that the revoked one had admitted and
 *             that stay; what else it had admitted is void
 *   renew     a member's own word about its name and addresses; the highest sequence counts
 *
 *   signed statement = body · signature[64]
 *   body             = name LABEL, u8 kind, fields in the order of the types below; a list is a varint count
 *                      and its items; hosts of `keeps` in ascending order, none twice
 *
 * A body has one encoding only, so a statement's id (the beginning of its body's hash) names what was said,
 * whatever signature is under it. The label keeps a signature from being taken for one of another purpose. No
 * statement holds a time: nothing about them depends on anybody's clock.
 */

import { ProtocolError } from "../errors.ts";
import { NAME_LENGTH_MAX } from "../limits.ts";
import { badField } from "../octets.ts";
import { FieldReader, FieldWriter } from "../wire/fields.ts";

export type HostId = string;

export type Addresses = {
  /** Multiaddrs without the host's id, best first: where it answers questions, and where bulk bytes go. */
  readonly control: readonly string[];
  readonly data: readonly string[];
};

type Described = { readonly name: string; readonly addresses: Addresses };

export type Genesis = { readonly kind: "genesis"; readonly by: HostId; readonly nonce: string } & Described;
export type Admit = {
  readonly kind: "admit";
  readonly cluster: string;
  readonly by: HostId;
  readonly host: HostId;
  readonly nonce: string;
} & Described;
export type Revoke = {
  readonly kind: "revoke";
  readonly cluster: string;
  readonly by: HostId;
  readonly host: HostId;
  readonly reason: string;
  readonly keeps: readonly HostId[];
};
export type Renew = {
  readonly kind: "renew";
  readonly cluster: string;
  readonly by: HostId;
  readonly sequence: number;
} & Described;
export type Statement = Genesis | Admit | Revoke | Renew;

/** What the pure code needs of cryptography. */
export type StatementCrypto = {
  /** SHA-256. */
  hash(bytes: Uint8Array): Uint8Array;
  /** False also for what is no host id. */
  verify(host: HostId, bytes: Uint8Array, signature: Uint8Array): boolean;
};

export type SignedStatement = {
  readonly statement: Statement;
  /** 32 hexadecimal digits. */
  readonly id: string;
  /** As they travel and are kept. */
  readonly bytes: Uint8Array;
};

export const SIGNATURE_SIZE = 64;
export const STATEMENT_ID_SIZE = 16;
/** A revocation that keeps as many hosts as one may. */
export const STATEMENT_SIZE_MAX = 48 << 10;
export const HOST_ID_LENGTH_MAX = 64;
export const ADDRESS_LENGTH_MAX = 256;
export const ADDRESSES_MAX = 8;
export const KEEPS_MAX = 512;
export const REASON_LENGTH_MAX = 256;

const LABEL = "sojourn member statement 1";
const CLUSTER_ID_LENGTH = 64;
const NONCE_LENGTH = 32;
const KIND = { genesis: 1, admit: 2, revoke: 3, renew: 4 } as const satisfies Record<
  Statement["kind"],
  number
>;
const NO_VBDS = { vbds: undefined, bitmapBytesMax: 0 } as const;
const HEX = /^[0-9a-f]+$/;
/** A transport address as text: printable ASCII without blanks. What it means is the transport's to say. */
const ADDRESS = /^\/[\x21-\x7e]+$/;

/** The octets that are signed. */
export function encodeBody(statement: Statement): Uint8Array {
  const to = new FieldWriter();
  to.name(LABEL, LABEL.length);
  to.member(statement.kind, KIND);
  if (statement.kind !== "genesis") to.name(statement.cluster, CLUSTER_ID_LENGTH);
  to.name(statement.by, HOST_ID_LENGTH_MAX);
  switch (statement.kind) {
    case "genesis":
      to.name(statement.nonce, NONCE_LENGTH);
      writeDescribed(to, statement);
      break;
    case "admit":
      to.name(statement.host, HOST_ID_LENGTH_MAX);
      to.name(statement.nonce, NONCE_LENGTH);
      writeDescribed(to, statement);
      break;
    case "revoke":
      to.name(statement.host, HOST_ID_LENGTH_MAX);
      to.name(statement.reason, REASON_LENGTH_MAX);
      writeList(to, statement.keeps, HOST_ID_LENGTH_MAX);
      break;
    case "renew":
      to.integer(statement.sequence);
      writeDescribed(to, statement);
      break;
  }
  return to.finish();
}

/** Throws ProtocolError for anything that `encodeBody` does not give. */
export function decodeBody(body: Uint8Array): Statement {
  const from = new FieldReader("member-statement", body, NO_VBDS);
  if (from.name("label", LABEL.length) !== LABEL) throw from.wrong("label", "another purpose");
  const kind = from.member("kind", KIND);
  const cluster = kind === "genesis" ? "" : hex(from, "cluster", CLUSTER_ID_LENGTH);
  const by = from.name("by", HOST_ID_LENGTH_MAX);
  const statement = readRest(from, { kind, cluster, by });
  from.end();
  return statement;
}

/** Joins what was said with its signature. */
export function joinSigned(
  body: Uint8Array,
  signature: Uint8Array,
  { hash }: Pick<StatementCrypto, "hash">,
): SignedStatement {
  const bytes = new Uint8Array(body.length + signature.length);
  bytes.set(body);
  bytes.set(signature, body.length);
  return { statement: decodeBody(body), id: statementId(body, hash), bytes };
}

/** Reads a statement and checks its signature. Throws ProtocolError. */
export function openSigned(bytes: Uint8Array, { hash, verify }: StatementCrypto): SignedStatement {
  if (bytes.length > STATEMENT_SIZE_MAX) {
    throw new ProtocolError({
      code: "PROTOCOL_FRAME_TOO_LARGE",
      sizeBytes: bytes.length,
      limitBytes: STATEMENT_SIZE_MAX,
    });
  }
  if (bytes.length <= SIGNATURE_SIZE) {
    throw new ProtocolError({
      code: "PROTOCOL_FRAME_TRUNCATED",
      sizeBytes: bytes.length,
      neededBytes: SIGNATURE_SIZE + 1,
    });
  }
  const body = bytes.subarray(0, bytes.length - SIGNATURE_SIZE);
  const statement = decodeBody(body);
  if (!verify(statement.by, body, bytes.subarray(body.length))) {
    throw badField("member-statement.signature", `not by ${statement.by}`);
  }
  // A copy: what arrived is a view of a frame.
  return { statement, id: statementId(body, hash), bytes: bytes.slice() };
}

/** The id of the cluster that a genesis makes. */
export function clusterIdOf(genesis: SignedStatement, { hash }: Pick<StatementCrypto, "hash">): string {
  return hexOf(hash(genesis.bytes.subarray(0, genesis.bytes.length - SIGNATURE_SIZE)));
}

export function hexOf(bytes: Uint8Array): string {
  let text = "";
  for (const octet of bytes) text += octet.toString(16).padStart(2, "0");
  return text;
}

function statementId(body: Uint8Array, hash: StatementCrypto["hash"]): string {
  return hexOf(hash(body).subarray(0, STATEMENT_ID_SIZE));
}

function readRest(
  from: FieldReader,
  { kind, cluster, by }: { kind: Statement["kind"]; cluster: string; by: HostId },
): Statement {
  switch (kind) {
    case "genesis":
      return { kind, by, nonce: hex(from, "nonce", NONCE_LENGTH), ...readDescribed(from) };
    case "admit": {
      const host = from.name("host", HOST_ID_LENGTH_MAX);
      if (host === by) throw from.wrong("host", "admits itself");
      return { kind, cluster, by, host, nonce: hex(from, "nonce", NONCE_LENGTH), ...readDescribed(from) };
    }
    case "revoke": {
      const host = from.name("host", HOST_ID_LENGTH_MAX);
      const reason = from.name("reason", REASON_LENGTH_MAX);
      const keeps = readList(from, "keeps", { countMax: KEEPS_MAX, lengthMax: HOST_ID_LENGTH_MAX });
      for (const [index, kept] of keeps.entries()) {
        if (index > 0 && kept <= keeps[index - 1]!) throw from.wrong("keeps", "not in ascending order");
        if (kept === host) throw from.wrong("keeps", "keeps whom it revokes");
      }
      return { kind, cluster, by, host, reason, keeps };
    }
    case "renew": {
      const sequence = from.integer("sequence", { min: 1, max: Number.MAX_SAFE_INTEGER });
      return { kind, cluster, by, sequence, ...readDescribed(from) };
    }
  }
}

function writeDescribed(to: FieldWriter, { name, addresses }: Described): void {
  to.name(name, NAME_LENGTH_MAX);
  writeList(to, addresses.control, ADDRESS_LENGTH_MAX);
  writeList(to, addresses.data, ADDRESS_LENGTH_MAX);
}

function readDescribed(from: FieldReader): Described {
  const limits = { countMax: ADDRESSES_MAX, lengthMax: ADDRESS_LENGTH_MAX };
  const name = from.name("name", NAME_LENGTH_MAX);
  const control = readList(from, "control", limits);
  const data = readList(from, "data", limits);
  for (const address of [...control, ...data]) {
    if (!ADDRESS.test(address)) throw from.wrong("addresses", "no address");
  }
  return { name, addresses: { control, data } };
}

function writeList(to: FieldWriter, items: readonly string[], lengthMax: number): void {
  to.integer(items.length);
  for (const item of items) to.name(item, lengthMax);
}

function readList(
  from: FieldReader,
  field: string,
  { countMax, lengthMax }: { countMax: number; lengthMax: number },
): string[] {
  const count = from.integer(field, { min: 0, max: countMax });
  const items: string[] = [];
  for (let index = 0; index < count; index++) items.push(from.name(field, lengthMax));
  return items;
}

function hex(from: FieldReader, field: string, length: number): string {
  const text = from.name(field, length);
  if (text.length !== length || !HEX.test(text)) throw from.wrong(field, `not ${length} hexadecimal digits`);
  return text;
}
