/**
 * Keeps the chains of custody whole. A certificate is made and signed by the source in the commit of its handover,
 * and none of it is in the way of the domain: the new owner fetches the chain afterwards, checks it, signs what
 * names it, and tells the other end. Whatever fails is tried again with the next look.
 */

import { type ChainFindings, joined, type SignedCertificate, verifyChain } from "../../protocol/custody.ts";
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
    const record = await metadata.domains.get(domain);
    if (record === undefined || record.owner !== self) return;
    if (record.generation === 1 || this.#settled.get(domain) === record.generation) return;
    let chain = await this.chain(domain);
    if (chain.at(-1)?.certificate.generation !== record.generation) {
      const source = await this.#sourceOf(domain, record.generation);
      if (source === undefined || !(await this.#fetch(domain, source, chain))) return;
      chain = await this.chain(domain);
    }
    const mine = chain.filter((known) => isUnsigned(known, self));
    const signed = mine.map((certificate) => countersigned(certificate, this.#parts));
    await metadata.custody.put(signed, { sync: true });
    const last = chain.at(-1);
    const news = last === undefined || mine.includes(last) ? signed : [...signed, last];
    const isTold = await this.#tell(news);
    if (isTold && chain.at(-1)?.certificate.generation === record.generation) {
      this.#settled.set(domain, record.generation);
    }
  }

  /** Takes over what the source knows, as far as it is sound and nothing that is known here says otherwise. */
  async #fetch(domain: string, source: string, known: readonly SignedCertificate[]): Promise<boolean> {
    const { asker, metadata, log } = this.#parts;
    try {
      const theirs = await asker.chain(source, domain, AbortSignal.timeout(ASK_TIMEOUT_MS));
      const own = new Map(known.map((record) => [record.certificate.generation, record]));
      const whole = theirs.map((record) => {
        const mine = own.get(record.certificate.generation);
        return mine === undefined ? record : joined(mine, record, custodyCrypto);
      });
      const chain = whole.filter((record) => record !== undefined);
      const { problems } = verifyChain(chain, custodyCrypto);
      const isForeign = chain.some(({ certificate }) => certificate.domain !== domain);
      if (isForeign || chain.length < whole.length || problems.length > 0) {
        log.error("a chain of custody is not sound", { domain, source, problems: problems.slice(0, 8) });
        return false;
      }
      await metadata.custody.put(chain, { sync: true });
      return true;
    } catch (error) {
      log.debug("a chain of custody was not told", { domain, source, reason: (error as Error).message });
      return false;
    }
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

/** A handover's two ends sign it; so do those of one that was taken back: it was given, and given up. */
function isUnsigned({ certificate, fromSignature, toSignature }: SignedCertificate, self: string): boolean {
  const { from, to, kind } = certificate;
  if (to === self && toSignature === undefined) return true;
  return kind !== "adopted" && from === self && fromSignature === undefined;
}
