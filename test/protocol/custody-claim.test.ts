/** PROTOCOL.md §15.4: on whose word, and on what proof, a host gives a domain up. */

import { createHash, generateKeyPairSync, type KeyObject, sign, verify } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  type Certificate,
  type CustodyCrypto,
  certificateId,
  encodeCertificate,
  hex,
  type SignedCertificate,
} from "../../protocol/custody.ts";
import { type ClaimFacts, doubtOf } from "../../protocol/custody-claim.ts";

const keys = new Map<string, { publicKey: KeyObject; privateKey: KeyObject }>(
  ["A", "B", "C", "M"].map((host) => [host, generateKeyPairSync("ed25519")]),
);
const crypto: CustodyCrypto = {
  hash: (octets) => createHash("sha256").update(octets).digest(),
  verify: (host, octets, signature) => verify(null, octets, keys.get(host)!.publicKey, signature),
};

/** Signed by whom its kind asks for, or by `by`. */
function signed(certificate: Certificate, by?: string): SignedCertificate {
  const end = certificate.kind === "handover" ? "from" : "to";
  const signer = by ?? certificate[end];
  const signature = hex(sign(null, encodeCertificate(certificate), keys.get(signer)!.privateKey));
  return { certificate, [`${end}Signature`]: signature };
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

/** There and back: A has it under generation 3, and B a copy. */
const toB = next(undefined, { to: "B" });
const back = next(toB, { to: "A" });
const known = [toB, back].map((certificate) => signed(certificate));

function doubt(shown: readonly SignedCertificate[], facts: Partial<ClaimFacts> = {}): string | undefined {
  const last = shown.at(-1)?.certificate;
  const claim = { owner: last?.to ?? "M", generation: last?.generation ?? 9 };
  return doubtOf(shown, { domain: "d", claim, self: "A", held: 3, known, hadIt: ["B"], ...facts }, crypto);
}

describe("a claim is proved", () => {
  const adopted = next(back, { kind: "adopted", to: "B" });
  const toC = next(adopted, { to: "C" });

  it("by an adoption of a host that had the domain, and by what that host gave on", () => {
    expect(doubt([...known, signed(adopted)])).toBeUndefined();
    expect(doubt([...known, signed(adopted), signed(toC)])).toBeUndefined();
  });

  it("also where the adopter had not heard of the newest certificates, or nobody here knows any", () => {
    const late = next(toB, { kind: "adopted", generation: 5, to: "B" });
    expect(doubt([known[0]!, signed(late)])).toBeUndefined();
    expect(doubt([known[0]!, signed(late)], { known: [] })).toBeUndefined();
  });

  it("against this host's own adoption, by the line that it did not know of", () => {
    const mine = next(toB, { kind: "adopted", to: "A" });
    const toC3 = next(toB, { to: "C" });
    const toB4 = next(toC3, { to: "B" });
    const chain = [known[0]!, signed(mine)];
    expect(doubt([known[0]!, signed(toC3), signed(toB4)], { known: chain })).toBeUndefined();
  });

  it("by a handover of this host itself that its journal has lost", () => {
    const given = next(back, { to: "C" });
    expect(doubt([...known, signed(given)])).toBeUndefined();
    expect(doubt([signed({ ...given, previous: "none" })], { known: [] })).toBeUndefined();
  });
});

describe("a claim is not believed", () => {
  const adopted = next(back, { kind: "adopted", to: "B" });
  const byMallory = next(back, { kind: "adopted", to: "M" });
  const fromMallory = next(undefined, { generation: 9, from: "M", to: "M" });

  it.each<[string, readonly SignedCertificate[], RegExp, Partial<ClaimFacts>?]>([
    ["of whom shows nothing", [], /no certificate/],
    [
      "of a generation that the chain does not reach",
      known,
      /end with generation 3/,
      { claim: { owner: "B", generation: 9 } },
    ],
    [
      "of another than the chain ends with",
      [...known, signed(adopted)],
      /of B/,
      { claim: { owner: "M", generation: 4 } },
    ],
    ["with an adoption by a host that never had it", [...known, signed(byMallory)], /never had/],
    ["with an adoption that another signed", [...known, signed(adopted, "M")], /signature is not B's/],
    ["with a chain out of nothing", [signed(fromMallory)], /was A's to give/],
    ["with a gap behind a sound chain", [...known, signed({ ...fromMallory, to: "B" })], /was A's to give/],
    [
      "of a domain that its giver gave here before",
      [known[0]!, signed(next(toB, { to: "M" })), signed(next(next(toB, { to: "M" }), { to: "B" }))],
      /given to A already/,
    ],
    [
      "with what this host is said to have renounced",
      [...known, signed(next(back, { kind: "taken back", to: "B", from: "A" }))],
      /never given back here/,
      { known: [known[0]!], hadIt: [] },
    ],
    ["about another domain", [signed({ ...adopted, domain: "other", previous: "none" })], /another domain/],
    ["that is older than what is had here", [known[0]!], /nothing after generation 3/, { known: [] }],
  ])("%s", (_, shown, reason, facts) => {
    expect(doubt(shown, facts)).toMatch(reason);
  });
});
