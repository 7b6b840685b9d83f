/** PROTOCOL.md §15.5: who had the domain when, so that anybody can check it. */

import { createHash, generateKeyPairSync, type KeyObject, sign, verify } from "node:crypto";
import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import {
  bitmapsDigest,
  type Certificate,
  type CustodyCrypto,
  certificateId,
  encodeCertificate,
  hex,
  joined,
  merged,
  type SignedCertificate,
  verifyChain,
} from "../../protocol/custody.ts";

const keys = new Map<string, { publicKey: KeyObject; privateKey: KeyObject }>(
  ["A", "B", "C"].map((host) => [host, generateKeyPairSync("ed25519")]),
);
const crypto: CustodyCrypto = {
  hash: (octets) => createHash("sha256").update(octets).digest(),
  verify: (host, octets, signature) => verify(null, octets, keys.get(host)!.publicKey, signature),
};

function signatureOf(host: string, certificate: Certificate): string {
  return hex(sign(null, encodeCertificate(certificate), keys.get(host)!.privateKey));
}

function signed(certificate: Certificate, ...by: ("from" | "to")[]): SignedCertificate {
  return {
    certificate,
    ...(by.includes("from") ? { fromSignature: signatureOf(certificate.from, certificate) } : {}),
    ...(by.includes("to") ? { toSignature: signatureOf(certificate.to, certificate) } : {}),
  };
}

function next(before: Certificate | undefined, facts: Partial<Certificate>): Certificate {
  return {
    kind: "handover",
    domain: "d",
    generation: (before?.generation ?? 1) + 1,
    from: before?.to ?? "A",
    to: "B",
    previous: before === undefined ? "none" : certificateId(before, crypto),
    digest: "unknown",
    timeMs: 1,
    word: "",
    ...facts,
  };
}

const first = next(undefined, { to: "B" });
const second = next(first, { to: "C" });
const third = next(second, { to: "A" });
const chain = [first, second, third].map((certificate) => signed(certificate, "from", "to"));

const SOUND = { problems: [], incomplete: [], gaps: [], cutOff: [] };

describe("a chain of custody", () => {
  it("is sound when every certificate is signed by both its hosts and names the one before it", () => {
    expect(verifyChain(chain, crypto)).toEqual(SOUND);
  });

  it("is still one when its oldest certificates are gone", () => {
    expect(verifyChain(chain.slice(1), crypto)).toEqual(SOUND);
  });

  it("may lack a countersignature, and says where", () => {
    const open = chain.with(1, signed(second, "from"));
    expect(verifyChain(open, crypto)).toEqual({ ...SOUND, incomplete: [3] });
    const whole = joined(open[1]!, signed(second, "to"), crypto);
    expect(verifyChain(chain.with(1, whole!), crypto)).toEqual(SOUND);
  });

  it.each([
    ["the source has not signed", chain.with(1, signed(second, "to")), /has not signed/],
    ["a certificate is left out", chain.toSpliced(1, 1), /does not follow/],
    ["two change places", [chain[1]!, chain[0]!], /comes before/],
    [
      "another signed for the source",
      chain.with(1, { ...chain[1]!, fromSignature: signatureOf("C", second) }),
      /not B's/,
    ],
    ["a field was changed", chain.with(2, { ...chain[2]!, certificate: { ...third, timeMs: 2 } }), /not C's/],
    [
      "one gives what it never had",
      [...chain, signed(next(third, { from: "B", to: "C" }), "from", "to")],
      /gives what A had/,
    ],
    [
      "it is of two domains",
      [...chain, signed(next(third, { domain: "e" }), "from", "to")],
      /another domain/,
    ],
    [
      "a generation is skipped",
      [...chain, signed(next(third, { generation: 9 }), "from", "to")],
      /comes before/,
    ],
    ["a signature is no signature", chain.with(0, { ...chain[0]!, toSignature: "zz" }), /not B's/],
  ])("is not sound when %s", (_, broken, problem) => {
    expect(verifyChain(broken, crypto).problems.join("; ")).toMatch(problem);
  });

  it("names the generation whose giver knew of nothing before, and does not call that a break", () => {
    const ignorant = next(second, { from: "C", previous: "none" });
    const gapped = [...chain.slice(0, 2), signed(ignorant, "from", "to")];
    expect(verifyChain(gapped, crypto)).toEqual({ ...SOUND, gaps: [4] });
  });

  it("names what an adoption cut off, where the adopter did not know of it", () => {
    const adopted = next(first, { kind: "adopted", generation: 9, from: "B", to: "A", word: "C burnt down" });
    const onwards = next(adopted, { from: "A", to: "C" });
    const forked = [...chain, signed(adopted, "to"), signed(onwards, "from", "to")];
    expect(verifyChain(forked, crypto)).toEqual({ ...SOUND, cutOff: [3, 4] });
    const handedOver = next(first, { generation: 5, from: "A", to: "C" });
    expect(verifyChain([...chain, signed(handedOver, "from", "to")], crypto).problems).not.toEqual([]);
  });

  it("takes an adoption on the adopter's signature alone, with its word, and over a gap", () => {
    const adopted = next(third, { kind: "adopted", generation: 9, from: "A", to: "B", word: "A burnt down" });
    expect(verifyChain([...chain, signed(adopted, "to")], crypto)).toEqual(SOUND);
    const reworded = { ...signed(adopted, "to"), certificate: { ...adopted, word: "nothing burnt" } };
    expect(verifyChain([...chain, reworded], crypto).problems).not.toEqual([]);
  });
});

describe("what two hosts know of one chain", () => {
  const known = [signed(first, "from", "to"), signed(second, "from")];

  it("is brought together with all signatures", () => {
    const told = [signed(second, "to"), signed(third, "from", "to")];
    const both = merged(known, told, { domain: "d", crypto });
    expect(both.problems).toEqual([]);
    expect(both.chain.map(({ certificate }) => certificate.generation)).toEqual([2, 3, 4]);
    expect(verifyChain(both.chain, crypto)).toEqual(SOUND);
  });

  it.each([
    [
      "two certificates of one generation",
      [signed({ ...second, timeMs: 7 }, "from", "to")],
      /two certificates/,
    ],
    ["another domain's", [signed({ ...third, domain: "e" }, "from", "to")], /another domain/],
    [
      "what follows nothing known here",
      [signed(next(third, { from: "A" }), "from", "to")],
      /does not follow/,
    ],
    ["what only the taker signed", [signed(third, "to")], /has not signed/],
  ])("cannot be brought together with %s", (_, told, problem) => {
    expect(merged(known, told, { domain: "d", crypto }).problems.join("; ")).toMatch(problem);
  });
});

describe("a digest of bitmaps", () => {
  it("is another one for other blocks, and for the same blocks of another vbd", () => {
    const none = new BlockBitmap(8);
    const one = BlockBitmap.of(8, [3]);
    const digests = [[none, one], [one, none], [none, none], [one]].map((written) =>
      bitmapsDigest(written, crypto),
    );
    expect(new Set(digests).size).toBe(4);
    expect(bitmapsDigest([none, one.clone()], crypto)).toBe(digests[0]);
  });
});
