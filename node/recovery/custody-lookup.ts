/** A domain's chain of custody on any host: its own copy, with what the domain's present host knows of it. */

import { merged, type SignedCertificate } from "../../protocol/custody.ts";
import type { CustodyReport } from "../control/api.ts";
import { NodeError } from "../errors.ts";
import type { Log } from "../log.ts";
import { custodyCrypto } from "./certificates.ts";
import { reportOf } from "./chain-report.ts";
import type { CustodyKeeper } from "./custody-keeper.ts";
import type { RecoveryAsker } from "./questions.ts";

export type CustodyLookupParts = {
  self: string;
  hostName: string;
  log: Log;
  custody: Pick<CustodyKeeper, "chain">;
  asker: Pick<RecoveryAsker, "chain">;
  nameOf(host: string): string;
  /** A domain that this host has a record of, or has heard of, and who has it by the newest word. */
  find(query: string): Promise<{ id: string; name: string; owner: string | undefined } | undefined>;
};

const ASK_TIMEOUT_MS = 5_000;

/** Throws DOMAIN_UNKNOWN. Where the other's chain is not sound, this host's is shown, and what is wrong with the other. */
export async function lookUpCustody(parts: CustodyLookupParts, query: string): Promise<CustodyReport> {
  const { self, hostName, custody, nameOf } = parts;
  const found = await parts.find(query);
  if (found === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query });
  const { id, name, owner } = found;
  const known = await custody.chain(id);
  const told = owner === undefined || owner === self ? undefined : await ask(parts, { id, owner });
  if (told === undefined) {
    const note = owner === undefined || owner === self ? {} : { unreached: nameOf(owner) };
    return { domain: id, name, ...reportOf(known, nameOf), seenBy: hostName, ageSeconds: 0, ...note };
  }
  const { chain, problems } = merged(known, told, { domain: id, crypto: custodyCrypto });
  const teller = nameOf(owner!);
  // What cannot be true is not mixed into what this host knows itself.
  const isSound = problems.length === 0 || known.length === 0;
  const report = reportOf(isSound ? chain : known, nameOf);
  return {
    domain: id,
    name,
    ...report,
    problems: isSound ? problems : problems.map((problem) => `as ${teller} shows it: ${problem}`),
    seenBy: teller,
    ageSeconds: 0,
  };
}

async function ask(
  { asker, log }: CustodyLookupParts,
  { id, owner }: { id: string; owner: string },
): Promise<readonly SignedCertificate[] | undefined> {
  try {
    return await asker.chain(owner, id, AbortSignal.timeout(ASK_TIMEOUT_MS));
  } catch (error) {
    log.debug("a chain of custody was not told", {
      domain: id,
      source: owner,
      reason: (error as Error).message,
    });
    return undefined;
  }
}
