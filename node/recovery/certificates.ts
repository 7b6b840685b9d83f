/** Certificates of custody as this host makes, signs and checks them. */

import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import {
  bitmapsDigest,
  type Certificate,
  type CustodyCrypto,
  certificateId,
  encodeCertificate,
  hex,
  type SignedCertificate,
} from "../../protocol/custody.ts";
import { sha256, verifyByHost } from "../cluster/signing.ts";
import type { HostSigner } from "../host-signer.ts";

export const custodyCrypto: CustodyCrypto = { hash: sha256, verify: verifyByHost };

export type NextCertificate = Omit<Certificate, "previous" | "digest"> & {
  /** The newest that this host knows. */
  before: SignedCertificate | undefined;
  written: readonly BlockBitmap[] | undefined;
};

/** The next certificate of a chain, signed by this host, which is one of its two ends. */
export function certify(
  { before, written, ...facts }: NextCertificate,
  { self, sign }: { self: string; sign: HostSigner },
): SignedCertificate {
  const certificate: Certificate = {
    ...facts,
    previous: before === undefined ? "none" : certificateId(before.certificate, custodyCrypto),
    digest: written === undefined ? "unknown" : bitmapsDigest(written, custodyCrypto),
  };
  return countersigned({ certificate }, { self, sign });
}

/** With this host's signature, where it is one of the two ends. */
export function countersigned(
  signed: SignedCertificate,
  { self, sign }: { self: string; sign: HostSigner },
): SignedCertificate {
  const { certificate } = signed;
  const signature = hex(sign(encodeCertificate(certificate)));
  return {
    ...signed,
    ...(certificate.from === self ? { fromSignature: signature } : {}),
    ...(certificate.to === self ? { toSignature: signature } : {}),
  };
}
