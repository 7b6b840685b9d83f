/**
 * Whether a chain of custody shows that a domain has gone from its owner to whoever claims it (PROTOCOL.md §15.4).
 * Nobody else's word ends a guest: gossip and testimonies are only why the chain is asked for.
 */

import { type CustodyCrypto, certificateId, type SignedCertificate, verifyChain } from "./custody.ts";
import type { DomainId, HostId } from "./messages.ts";
import type { Generation } from "./units.ts";

export type ClaimFacts = {
  readonly domain: DomainId;
  /** Who says to own the domain, under a higher generation than `held`. */
  readonly claim: { readonly owner: HostId; readonly generation: Generation };
  /** By whom, and under which generation, the domain is owned as far as is known here. */
  readonly self: HostId;
  readonly held: Generation;
  /** The chain as it is known here. */
  readonly known: readonly SignedCertificate[];
  /** Hosts that had the domain or a copy of it, as far as is known here. */
  readonly hadIt: readonly HostId[];
};

/**
 * Why `shown`, the claimant's chain, does not prove the claim; undefined where it does. It has to be sound, to end
 * with the claim, and to go on from what is known here: each certificate after that given by whom the one before gave
 * the domain to, or an adoption by a host that had it. An adoption is its adopter's word alone, but a signed one.
 */
export function doubtOf(
  shown: readonly SignedCertificate[],
  { domain, claim, self, held, known, hadIt }: ClaimFacts,
  crypto: CustodyCrypto,
): string | undefined {
  const [problem] = verifyChain(shown, crypto).problems;
  if (problem !== undefined) return problem;
  const chain = shown.map(({ certificate }) => certificate);
  const last = chain.at(-1);
  if (last === undefined) return "it shows no certificate";
  if (last.domain !== domain) return "its certificates are about another domain";
  if (last.generation !== claim.generation || last.to !== claim.owner) {
    return `its certificates end with generation ${last.generation} of ${last.to}`;
  }
  const ours = new Set(known.map(({ certificate }) => certificateId(certificate, crypto)));
  const fork = chain.findLastIndex((certificate) => ours.has(certificateId(certificate, crypto)));
  const before = chain.slice(0, fork + 1);
  // Where no certificate is known to both, what is older than this host's own stay decides nothing.
  const after = fork < 0 ? chain.filter(({ generation }) => generation > held) : chain.slice(fork + 1);
  if (fork < 0 && after.length === 0) return `it shows nothing after generation ${held}`;
  const rival = known.find(({ certificate }) => certificate.generation > (before.at(-1)?.generation ?? held));
  let given = before.at(-1);
  let holder = given?.to ?? self;
  const had = new Set([self, ...hadIt, ...before.flatMap(({ from, to }) => [from, to])]);
  for (const certificate of after) {
    const { generation, kind, from, to } = certificate;
    if (kind === "adopted") {
      if (!had.has(to)) return `generation ${generation} was adopted by ${to}, which never had the domain`;
    } else {
      if (from !== holder)
        return `generation ${generation} was given by ${from}, and was ${holder}'s to give`;
      if (kind === "taken back" && given?.from !== to) return `generation ${generation} was never ${to}'s`;
      // What this host has by its journal it has not renounced.
      if (kind === "taken back" && from === self) return `generation ${generation} was never given back here`;
      // Its giver has signed two certificates of one generation, unless here it was somebody's word.
      const isSecond = certificate === after[0] && rival !== undefined;
      if (isSecond && rival.certificate.kind !== "adopted") {
        return `generation ${rival.certificate.generation} was given to ${rival.certificate.to} already`;
      }
    }
    given = certificate;
    holder = to;
    had.add(to);
  }
  return undefined;
}
