/**
 * The chain of custody of a domain: one certificate for each generation after the first, from whom to whom, each
 * naming the hash of the one before it, signed by both hosts. Anyone who has the chain can check it (PROTOCOL.md §15.5).
 *
 *   certificate body = name LABEL, u8 kind, name domain, varint generation, name from, name to,
 *                      name previous, name digest, varint timeMs, text word
 *
 * `handover`: signed by the source before it says `handover`; the destination countersigns when it can. `taken
 * back`: as if the destination handed over what it never ran. `adopted`: the adopter alone, on its operator's
 * word. A body has one encoding, so its hash names what was said, whatever signatures are under it. A chain that
 * was cut short is still one: its oldest certificate names the hash of all that came before.
 */

import type { BlockBitmap } from "./block-bitmap.ts";
import type { DomainId, HostId } from "./messages.ts";
import type { Generation } from "./units.ts";
import { FieldWriter } from "./wire/fields.ts";

export type CertificateKind = "handover" | "taken back" | "adopted";

export type Certificate = {
  readonly kind: CertificateKind;
  readonly domain: DomainId;
  /** That begins with it. */
  readonly generation: Generation;
  readonly from: HostId;
  readonly to: HostId;
  /** `certificateId` of the one before; "none" where this host knows of none. */
  readonly previous: string;
  /** `bitmapsDigest` of the generation that ends; "unknown" where nobody could tell. */
  readonly digest: string;
  readonly timeMs: number;
  /** `adopted`: the operator's reason and name. */
  readonly word: string;
};

/** Signatures in hexadecimal digits; a missing one may be completed later. */
export type SignedCertificate = {
  readonly certificate: Certificate;
  readonly fromSignature?: string;
  readonly toSignature?: string;
};

export type CustodyCrypto = {
  /** SHA-256. */
  hash(octets: Uint8Array): Uint8Array;
  /** False also for what is no host id. */
  verify(host: HostId, octets: Uint8Array, signature: Uint8Array): boolean;
};

export type ChainFindings = {
  /** What is wrong with the chain, in words; empty when nothing is. */
  readonly problems: readonly string[];
  /** Generations that one of the two hosts has yet to sign. */
  readonly incomplete: readonly Generation[];
};

/** The newest are kept; what was before them is in their hashes. */
export const CERTIFICATES_MAX = 1024;

const LABEL = "sojourn custody 1";
const NAME_LENGTH_MAX = 256;
const KIND = { handover: 1, "taken back": 2, adopted: 3 } as const satisfies Record<CertificateKind, number>;
const SIGNATURE_DIGITS = 128;

/** The octets that are signed. */
export function encodeCertificate(certificate: Certificate): Uint8Array {
  const { kind, domain, generation, from, to, previous, digest, timeMs, word } = certificate;
  const writer = new FieldWriter();
  writer.name(LABEL, LABEL.length);
  writer.member(kind, KIND);
  writer.name(domain, NAME_LENGTH_MAX);
  writer.integer(generation);
  writer.name(from, NAME_LENGTH_MAX);
  writer.name(to, NAME_LENGTH_MAX);
  writer.name(previous, NAME_LENGTH_MAX);
  writer.name(digest, NAME_LENGTH_MAX);
  writer.integer(timeMs);
  writer.text(word);
  return writer.finish();
}

/** 64 hexadecimal digits. */
export function certificateId(certificate: Certificate, { hash }: Pick<CustodyCrypto, "hash">): string {
  return hex(hash(encodeCertificate(certificate)));
}

/** Of what a generation wrote, all vbds in their order. */
export function bitmapsDigest(
  written: readonly BlockBitmap[],
  { hash }: Pick<CustodyCrypto, "hash">,
): string {
  const writer = new FieldWriter();
  writer.bitmaps(written);
  return hex(hash(writer.finish()));
}

/** The same certificate with what either copy has of signatures; undefined when they are not the same. */
export function joined(
  one: SignedCertificate,
  other: SignedCertificate,
  crypto: Pick<CustodyCrypto, "hash">,
): SignedCertificate | undefined {
  if (certificateId(one.certificate, crypto) !== certificateId(other.certificate, crypto)) return undefined;
  return { ...other, ...one };
}

/** Checks a chain, oldest first. It needs nothing but the chain: host ids are keys. */
export function verifyChain(chain: readonly SignedCertificate[], crypto: CustodyCrypto): ChainFindings {
  const problems: string[] = [];
  const incomplete: Generation[] = [];
  for (const [index, signed] of chain.entries()) {
    const { certificate } = signed;
    const { generation } = certificate;
    const before = chain[index - 1]?.certificate;
    if (before !== undefined) problems.push(...linkProblems(before, certificate, crypto));
    const octets = encodeCertificate(certificate);
    const { from, to, kind } = certificate;
    const required = kind === "handover" ? "from" : "to";
    const ends = [
      { end: "from", host: from, signature: signed.fromSignature },
      { end: "to", host: to, signature: signed.toSignature },
    ] as const;
    for (const { end, host, signature } of ends) {
      if (signature === undefined) {
        if (end === required) problems.push(`generation ${generation}: ${host} has not signed it`);
        else if (kind !== "adopted") incomplete.push(generation);
      } else if (!isSignature(signature) || !crypto.verify(host, octets, unhex(signature))) {
        problems.push(`generation ${generation}: the signature is not ${host}'s`);
      }
    }
  }
  return { problems, incomplete };
}

function linkProblems(before: Certificate, after: Certificate, crypto: CustodyCrypto): string[] {
  const at = `generation ${after.generation}`;
  const problems: string[] = [];
  if (after.domain !== before.domain) problems.push(`${at}: it is about another domain`);
  if (after.previous !== certificateId(before, crypto)) {
    problems.push(`${at}: it does not follow generation ${before.generation}`);
  }
  const isNext = after.generation === before.generation + 1;
  if (after.kind === "adopted" ? after.generation <= before.generation : !isNext) {
    problems.push(`${at}: generation ${before.generation} comes before it`);
  }
  if (after.kind !== "adopted" && after.from !== before.to) {
    problems.push(`${at}: ${after.from} gives what ${before.to} had`);
  }
  return problems;
}

function isSignature(text: string): boolean {
  return text.length === SIGNATURE_DIGITS && /^[0-9a-f]+$/.test(text);
}

export function hex(octets: Uint8Array): string {
  return Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");
}

function unhex(text: string): Uint8Array {
  return Uint8Array.from({ length: text.length / 2 }, (_, index) =>
    Number.parseInt(text.slice(2 * index, 2 * index + 2), 16),
  );
}
