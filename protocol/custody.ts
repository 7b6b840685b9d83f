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
  /** Generations whose giver knew of no certificate before: nobody vouches that they follow the one shown before. */
  readonly gaps: readonly Generation[];
  /** Generations that an adoption has cut off: they were, and the domain went on from an earlier one. */
  readonly cutOff: readonly Generation[];
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
  const gaps: Generation[] = [];
  const cutOff: Generation[] = [];
  for (const [index, signed] of chain.entries()) {
    const { certificate } = signed;
    const before = chain.slice(0, index).map((earlier) => earlier.certificate);
    if (before.length > 0) {
      const link = linkOf(before, certificate, crypto);
      problems.push(...link.problems);
      if (link.isGap) gaps.push(certificate.generation);
      cutOff.push(...link.cutOff.filter((generation) => !cutOff.includes(generation)));
    }
    const found = signatureProblems(signed, crypto);
    problems.push(...found.problems);
    if (found.isIncomplete) incomplete.push(certificate.generation);
  }
  return { problems, incomplete, gaps, cutOff };
}

/** A handover has its source's signature at least; what was taken back or adopted, its new owner's. */
function signatureProblems(
  { certificate, fromSignature, toSignature }: SignedCertificate,
  crypto: CustodyCrypto,
): { problems: string[]; isIncomplete: boolean } {
  const octets = encodeCertificate(certificate);
  const { generation, from, to, kind } = certificate;
  const required = kind === "handover" ? "from" : "to";
  const problems: string[] = [];
  let isIncomplete = false;
  const ends = [
    { end: "from", host: from, signature: fromSignature },
    { end: "to", host: to, signature: toSignature },
  ] as const;
  for (const { end, host, signature } of ends) {
    if (signature === undefined) {
      if (end === required) problems.push(`generation ${generation}: ${host} has not signed it`);
      else if (kind !== "adopted") isIncomplete = true;
    } else if (!isSignature(signature) || !crypto.verify(host, octets, unhex(signature))) {
      problems.push(`generation ${generation}: the signature is not ${host}'s`);
    }
  }
  return { problems, isIncomplete };
}

/** How a certificate follows those before it, of which there is at least one. */
function linkOf(
  before: readonly Certificate[],
  after: Certificate,
  crypto: CustodyCrypto,
): { problems: string[]; isGap: boolean; cutOff: Generation[] } {
  const at = `generation ${after.generation}`;
  const problems: string[] = [];
  const latest = before.at(-1)!;
  const isAdopted = after.kind === "adopted";
  if (after.domain !== latest.domain) problems.push(`${at}: it is about another domain`);
  const isNext = after.generation === latest.generation + 1;
  if (after.generation <= latest.generation || (!isNext && !isAdopted && after.previous !== "none")) {
    problems.push(`${at}: generation ${latest.generation} comes before it`);
  }
  if (after.previous === "none") return { problems, isGap: true, cutOff: [] };
  const follows = before.findLastIndex((earlier) => certificateId(earlier, crypto) === after.previous);
  // An adopter goes on from what it knows; what it did not know of is cut off by its operator's word.
  if (follows < 0 || (follows < before.length - 1 && !isAdopted)) {
    problems.push(`${at}: it does not follow generation ${latest.generation}`);
    return { problems, isGap: false, cutOff: [] };
  }
  if (!isAdopted && after.from !== latest.to)
    problems.push(`${at}: ${after.from} gives what ${latest.to} had`);
  return { problems, isGap: false, cutOff: before.slice(follows + 1).map(({ generation }) => generation) };
}

/**
 * What is known of a chain with what another host says of it: all certificates of both, with all signatures.
 * `problems`: why it cannot be taken over; nothing of it should be then.
 */
export function merged(
  known: readonly SignedCertificate[],
  offered: readonly SignedCertificate[],
  { domain, crypto }: { domain: DomainId; crypto: CustodyCrypto },
): { chain: readonly SignedCertificate[]; problems: readonly string[] } {
  const all = new Map(known.map((signed) => [signed.certificate.generation, signed]));
  const problems: string[] = [];
  for (const signed of offered) {
    const { generation } = signed.certificate;
    if (signed.certificate.domain !== domain)
      problems.push(`generation ${generation}: it is about another domain`);
    const own = all.get(generation);
    const both = own === undefined ? signed : joined(own, signed, crypto);
    if (both === undefined) problems.push(`generation ${generation}: there are two certificates of it`);
    else all.set(generation, both);
  }
  const chain = [...all.values()].sort((a, b) => a.certificate.generation - b.certificate.generation);
  return { chain, problems: [...problems, ...verifyChain(chain, crypto).problems] };
}

/** A handover's two ends sign it; so do those of one that was taken back: it was given, and given up. */
export function isUnsignedBy(
  { certificate, fromSignature, toSignature }: SignedCertificate,
  host: HostId,
): boolean {
  const { from, to, kind } = certificate;
  if (to === host && toSignature === undefined) return true;
  return kind !== "adopted" && from === host && fromSignature === undefined;
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
