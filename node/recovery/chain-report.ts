/** A chain of custody for people and programs: checked, with names; and read back from what was printed of one. */

import { z } from "zod";
import { CERTIFICATES_MAX, type SignedCertificate, verifyChain } from "../../protocol/custody.ts";
import { CustodyRecord } from "../../storage/records.ts";
import type { CustodyChain } from "../control/api.ts";
import { NodeError } from "../errors.ts";
import { custodyCrypto } from "./certificates.ts";

/** A chain of as many certificates as a host keeps is smaller. */
export const CHAIN_TEXT_SIZE_MAX = 16 << 20;

const { certificate, fromSignature, toSignature } = CustodyRecord.shape;

/** As `history --verify --json` prints it; what is there for people is left out. */
const PrintedChain = z.object({
  certificates: z
    .array(z.object({ ...certificate.shape, fromSignature, toSignature }))
    .min(1)
    .max(CERTIFICATES_MAX),
});

export function reportOf(
  chain: readonly SignedCertificate[],
  nameOf: (host: string) => string,
): CustodyChain {
  const certificates = chain.map(({ certificate: facts, ...signatures }) => ({
    ...facts,
    fromName: nameOf(facts.from),
    toName: nameOf(facts.to),
    signedBy: [
      ...(signatures.fromSignature === undefined ? [] : [nameOf(facts.from)]),
      ...(signatures.toSignature === undefined ? [] : [nameOf(facts.to)]),
    ],
    ...signatures,
  }));
  return { certificates, ...verifyChain(chain, custodyCrypto) };
}

/** Checks a chain that somebody printed. Nothing but the text is needed: host ids are keys. Throws USAGE. */
export function readChain(text: string, file: string): CustodyChain {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new NodeError("USAGE", { reason: `${file} is not JSON` }, { cause });
  }
  const parsed = PrintedChain.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const reason = `${file} is no chain of custody: ${issue?.path.join(".")}: ${issue?.message}`;
    throw new NodeError("USAGE", { reason });
  }
  const chain = parsed.data.certificates.map(
    ({ fromSignature: from, toSignature: to, ...facts }): SignedCertificate => ({
      certificate: facts,
      ...(from === undefined ? {} : { fromSignature: from }),
      ...(to === undefined ? {} : { toSignature: to }),
    }),
  );
  return reportOf(chain, (host) => host.slice(-8));
}
