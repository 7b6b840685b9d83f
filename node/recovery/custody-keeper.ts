/**
 * Keeps the chains of custody whole. A certificate is made and signed by the source in the commit of its handover,
 * and none of it is in the way of the domain: the new owner fetches the chain afterwards, checks it, signs what
 * names it, and tells the other end. Whatever fails is tried again with the next look.
 */

import {
  type ChainFindings,
  isUnsignedBy,
  joined,
  merged,
  type SignedCertificate,
  verifyChain,
} from "../../protocol/custody.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { HostSigner } from "../host-signer.ts";
import type { Log } from "../log.ts";
import { countersigned, custodyCrypto } from "./certificates.ts";
import type { RecoveryAsker } from "./questions.ts";

export type CustodyKeeperParts = {
  self: string;
  metadata: Metadata;
  asker: Pick<RecoveryAsker, "chain" | "signed">;
  sign: HostSigner;
  log: Log;
};

const ASK_TIMEOUT_MS = 5_000;
const CERTIFICATES_PER_MESSAGE_MAX = 16;

export class CustodyKeeper {
  readonly #parts: CustodyKeeperParts;
  /** The generation up to which a domain's chain needs nothing more of this host. */
  readonly #settled = new Map<string, number>();

  constructor(parts: CustodyKeeperParts) {
    this.#parts = parts;
  }

  chain(domain: string): Promise<SignedCertificate[]> {
    return this.#parts.metadata.custody.list(domain);
  }

  /** As another host shows it, unchecked; undefined when it does not. */
  async shownBy(host: string, domain: string): Promise<SignedCertificate[] | undefined> {
    try {
      return await this.#parts.asker.chain(host, domain, AbortSignal.timeout(ASK_TIMEOUT_MS));
    } catch (error) {
      this.#parts.log.debug("a chain of custody was not told", {
        domain,
        source: host,
        reason: (error as Error).message,
      });
      return undefined;
    }
  }

  async verify(domain: string): Promise<{ chain: SignedCertificate[] } & ChainFindings> {
    const chain = await this.chain(domain);
    return { chain, ...verifyChain(chain, custodyCrypto) };
  }

  /** The other end of `records` has signed them: what is its own to sign is taken over. */
  async signed(peer: string, records: readonly SignedCertificate[]): Promise<void> {
    const { metadata } = this.#parts;
    for (const record of records) {
      const { domain, from, to } = record.certificate;
      if (peer !== from && peer !== to) continue;
      const known = (await this.chain(domain)).find(
        (own) => own.certificate.generation === record.certificate.generation,
      );
      const whole = known === undefined ? undefined : joined(known, record, custodyCrypto);
      if (whole === undefined || verifyChain([whole], custodyCrypto).problems.length > 0) continue;
      await metadata.custody.put([whole], { sync: true });
    }
  }

  /** Sees to it that the chain reaches the domain's present generation, and that this host has signed its part. */
  async complete(domain: string): Promise<void> {
    const { metadata, self } = this.#parts;
    const generation = await this.#generationOf(domain);
    if (generation === undefined || this.#settled.get(domain) === generation) return;
    if (!(await this.reach(domain))) return;
    const chain = await this.chain(domain);
    const mine = chain.filter((known) => isUnsignedBy(known, self));
    const signed = mine.map((certificate) => countersigned(certificate, this.#parts));
    await metadata.custody.put(signed, { sync: true });
    const last = chain.at(-1);
    const news = last === undefined || mine.includes(last) ? signed : [...signed, last];
    const isTold = await this.#tell(news);
    if (isTold && chain.at(-1)?.certificate.generation === generation) this.#settled.set(domain, generation);
  }

  /**
   * Whether the chain is known here up to the present generation; asks the source when it is not. Also before the
   * domain is handed on: who comes next could not tell what this certificate follows.
   */
  async reach(domain: string): Promise<boolean> {
    const generation = await this.#generationOf(domain);
    if (generation === undefined) return true;
    const chain = await this.chain(domain);
    if (chain.at(-1)?.certificate.generation === generation) return true;
    const source = await this.#sourceOf(domain, generation);
    return source !== undefined && (await this.#fetch(domain, source, chain));
  }

  /** Of a domain that was handed over to this host, or adopted here. */
  async #generationOf(domain: string): Promise<number | undefined> {
    const record = await this.#parts.metadata.domains.get(domain);
    if (record === undefined || record.owner !== this.#parts.self || record.generation === 1)
      return undefined;
    return record.generation;
  }

  /** Takes over what the source knows, if it is sound together with what is known here. */
  async #fetch(domain: string, source: string, known: readonly SignedCertificate[]): Promise<boolean> {
    const { metadata, log } = this.#parts;
    const theirs = await this.shownBy(source, domain);
    if (theirs === undefined) return false;
    const { chain, problems } = merged(known, theirs, { domain, crypto: custodyCrypto });
    if (problems.length > 0) {
      log.error("a chain of custody is not sound", { domain, source, problems: problems.slice(0, 8) });
      return false;
    }
    await metadata.custody.put(chain, { sync: true });
    return true;
  }

  /** Tells the other ends what this host has signed, and the newest once more: nobody knows what they have heard. */
  async #tell(news: readonly SignedCertificate[]): Promise<boolean> {
    const { asker, self, log } = this.#parts;
    const peers = new Map<string, SignedCertificate[]>();
    for (const record of news.slice(-CERTIFICATES_PER_MESSAGE_MAX)) {
      const { from, to, kind } = record.certificate;
      const peer = from === self ? to : from;
      if (peer !== self && kind !== "adopted") peers.set(peer, [...(peers.get(peer) ?? []), record]);
    }
    for (const [peer, records] of peers) {
      try {
        await asker.signed(peer, records, AbortSignal.timeout(ASK_TIMEOUT_MS));
      } catch (error) {
        log.debug("a countersignature was not heard", { peer, reason: (error as Error).message });
        return false;
      }
    }
    return true;
  }

  async #sourceOf(domain: string, generation: number): Promise<string | undefined> {
    const { metadata, self } = this.#parts;
    for (const { role, domain: of, record } of await metadata.journal.list()) {
      if (
        role === "destination" &&
        of === domain &&
        "source" in record &&
        record.generation === generation - 1
      ) {
        return record.source;
      }
    }
    const replicas = await metadata.replicas.list(domain);
    return replicas.find((replica) => replica.host !== self && replica.generation === generation - 1)?.host;
  }
}
