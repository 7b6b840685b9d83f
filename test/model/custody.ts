/**
 * The chain of custody beside the machines: made in the commit of each handover by the real `certify`, fetched,
 * checked and countersigned afterwards as `node/recovery/custody-keeper.ts` does it. Keys are names here: what a
 * host signs is a hash of its name and the octets.
 */

import { createHash } from "node:crypto";
import { certify, countersigned } from "../../node/recovery/certificates.ts";
import {
  type Certificate,
  type CustodyCrypto,
  certificateId,
  encodeCertificate,
  hex,
  isUnsignedBy,
  joined,
  merged,
  type SignedCertificate,
} from "../../protocol/custody.ts";
import { doubtOf } from "../../protocol/custody-claim.ts";
import { DOMAIN_ID } from "./domain.ts";
import type { Move } from "./moves.ts";
import { type Draft, type Host, type HostName, mayHappen, Violation, type World } from "./state.ts";

export const crypto: CustodyCrypto = {
  hash: (octets) => createHash("sha256").update(octets).digest(),
  verify: (host, octets, signature) => signerOf(host)(octets).equals(signature),
};

/** Takes whatever is not wrongly signed: the seeded bug of one who does not ask for both signatures. */
export const credulous: CustodyCrypto = { ...crypto, verify: () => true };

function signerOf(host: string): (octets: Uint8Array) => Buffer {
  return (octets) => createHash("sha512").update(host).update(octets).digest();
}

/** The next certificate in the name of `host`. Noted as true: this is the only place where one comes to be honestly. */
export function certified(
  draft: Draft,
  host: Host,
  facts: Pick<Certificate, "kind" | "generation" | "from" | "to">,
): void {
  const { custody } = host.journal;
  if (custody === undefined) return;
  const before = custody.at(-1);
  if (before !== undefined && before.certificate.generation >= facts.generation) return;
  const next = certify(
    { ...facts, domain: DOMAIN_ID, timeMs: 0, word: "", before, written: undefined },
    { self: host.name, sign: signerOf(host.name) },
  );
  host.journal = { ...host.journal, custody: [...custody, next] };
  draft.truth = { ...draft.truth, given: [...new Set([...draft.truth.given, factOf(next)])].sort() };
}

export function factOf({ certificate }: SignedCertificate): string {
  const { kind, generation, from, to } = certificate;
  return `${generation} ${kind} ${from} ${to}`;
}

export function custodyMoves(world: World, host: Host): Move[] {
  const { custody, domain } = host.journal;
  const { name } = host;
  const lies = claims(world, host);
  if (custody === undefined || domain === undefined || domain.owner !== name || domain.generation === 1)
    return lies;
  const moves: Move[] = [...lies];
  const source = sourceOf(host);
  if (custody.at(-1)?.certificate.generation !== domain.generation && source !== undefined) {
    if (world.hosts[source]!.daemon !== undefined) moves.push(...fetches(world, name, source));
  }
  if (custody.some((signed) => isUnsignedBy(signed, name))) {
    moves.push({
      label: `${name} signs what names it`,
      apply(draft) {
        const own = draft.host(name);
        const sign = signerOf(name);
        const all = own.journal.custody!.map((signed) => {
          return isUnsignedBy(signed, name) ? countersigned(signed, { self: name, sign }) : signed;
        });
        own.journal = { ...own.journal, custody: all };
        return true;
      },
    });
  }
  for (const signed of custody) {
    const { from, to, kind, generation } = signed.certificate;
    const peer = (from === name ? to : from) as HostName;
    const other = world.hosts[peer];
    const theirs = other?.journal.custody?.find((known) => known.certificate.generation === generation);
    if (kind === "adopted" || other?.daemon === undefined || theirs === undefined) continue;
    const whole = joined(theirs, signed, crypto);
    if (whole === undefined || signaturesOf(whole) === signaturesOf(theirs)) continue;
    moves.push({
      label: `${name} tells ${peer} of its signature under generation ${generation}`,
      apply(draft) {
        const told = draft.host(peer);
        const all = told.journal.custody!.map((known) => (known === theirs ? whole : known));
        told.journal = { ...told.journal, custody: all };
        return true;
      },
    });
  }
  return moves;
}

function signaturesOf({ fromSignature, toSignature }: SignedCertificate): string {
  return `${fromSignature !== undefined}${toSignature !== undefined}`;
}

/** Who handed it over to this host. */
function sourceOf({ journal }: Host): HostName | undefined {
  const { generation } = journal.domain!;
  const handed = Object.values(journal.entries).find(({ role, record }) => {
    return role === "destination" && "source" in record && record.generation === generation - 1;
  });
  if (handed?.role === "destination" && "source" in handed.record) return handed.record.source as HostName;
  return journal.replicas.find((replica) => replica.generation === generation - 1)?.host as
    | HostName
    | undefined;
}

/** Why a host that has the domain does not give it up to `from`; undefined: it does. As `node/recovery/recovery.ts`. */
export function doubted(
  draft: Draft,
  { name, journal }: Host,
  claim: { owner: string; generation: number },
  shown: readonly SignedCertificate[] = draft.peek(claim.owner as HostName).journal.custody ?? [],
): string | undefined {
  const { domain, custody, replicas, entries } = journal;
  if (custody === undefined || domain?.owner !== name || draft.parts.daemon.believesClaims) return undefined;
  const peers = Object.values(entries).flatMap(({ record }) => {
    return "destination" in record ? [record.destination] : "source" in record ? [record.source] : [];
  });
  const hadIt = [...replicas.map(({ host }) => host), ...peers];
  const facts = { domain: DOMAIN_ID, claim, self: name, held: domain.generation, known: custody, hadIt };
  return doubtOf(shown, facts, crypto);
}

/** Behind what it knows it puts that it gave the domain to itself, under the next generation. */
function claims(world: World, { name, journal }: Host): Move[] {
  const { custody, domain } = journal;
  if (custody === undefined || domain?.owner !== name || !mayHappen(world, "forgeries")) return [];
  const liars = Object.values(world.hosts).filter((host) => host.name !== name);
  return liars.map((liar) => ({
    label: `${liar.name} tells ${name} that it has the domain, with a chain that it made up`,
    fault: "forgeries" as const,
    apply(draft) {
      draft.faultsLeft -= 1;
      const generation = domain.generation + 1;
      const facts = { kind: "handover", domain: DOMAIN_ID, from: liar.name, to: liar.name } as const;
      const made = certify(
        { ...facts, generation, timeMs: 0, word: "", before: undefined, written: undefined },
        { self: liar.name, sign: signerOf(liar.name) },
      );
      const shown = [...liar.journal.custody!, made];
      if (doubted(draft, draft.peek(name), { owner: liar.name, generation }, shown) === undefined) {
        throw new Violation(`${name} gives the domain up for a chain that ${liar.name} made up`);
      }
      return true;
    },
  }));
}

function fetches(world: World, name: HostName, source: HostName): Move[] {
  const take = (
    label: string,
    chainOf: (source: Host) => readonly SignedCertificate[],
    fault?: "forgeries",
  ): Move => ({
    label,
    ...(fault === undefined ? {} : { fault }),
    apply(draft) {
      if (fault !== undefined) draft.faultsLeft -= 1;
      const host = draft.host(name);
      const rules = {
        domain: DOMAIN_ID,
        crypto: draft.parts.daemon.believesOneSignature ? credulous : crypto,
      };
      const { chain, problems } = merged(host.journal.custody!, chainOf(draft.peek(source)), rules);
      // One that cannot be taken over is asked for again.
      if (problems.length > 0 || chain.length === host.journal.custody!.length) return fault !== undefined;
      host.journal = { ...host.journal, custody: chain };
      return true;
    },
  });
  const moves = [take(`${name} asks ${source} for the chain of custody`, ({ journal }) => journal.custody!)];
  if (mayHappen(world, "forgeries")) {
    moves.push(take(`${source} answers ${name} with a chain that it made up`, forged, "forgeries"));
  }
  return moves;
}

/** It says that it once had the domain from somebody who never gave it. All else is as it should be. */
function forged({ name, journal }: Host): SignedCertificate[] {
  const [first, ...rest] = journal.custody!;
  if (first === undefined || rest.length > 0) return [...journal.custody!];
  const sign = signerOf(name);
  const facts = {
    kind: "handover",
    domain: DOMAIN_ID,
    from: "nobody",
    to: name,
    timeMs: 0,
    digest: "unknown",
  } as const;
  const certificate = { ...facts, generation: first.certificate.generation - 1, previous: "none", word: "" };
  const signature = hex(sign(encodeCertificate(certificate)));
  const next = { ...first.certificate, previous: certificateId(certificate, crypto) };
  return [
    { certificate, fromSignature: signature, toSignature: signature },
    countersigned({ certificate: next }, { self: name, sign }),
  ];
}
