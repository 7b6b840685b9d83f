/**
 * What hosts ask one another about who owns a domain, on a protocol of its own: a host that is recovering says
 * nothing else. The peer's identity is the connection's; what it says it says for itself only.
 */

import { z } from "zod";
import { CERTIFICATES_MAX, type SignedCertificate } from "../../protocol/custody.ts";
import { NAME_LENGTH_MAX } from "../../protocol/limits.ts";
import type { DomainDescription } from "../../protocol/messages.ts";
import type { Testimony } from "../../protocol/recovery.ts";
import { CustodyRecord } from "../../storage/records.ts";
import type { RecoverReport } from "../control/api.ts";
import type { Links } from "../membership/links.ts";
import type { Network } from "../network/network.ts";
import { answerOn, askHost, DomainDescribed, IdText } from "../peers/question.ts";

export const RECOVERY_PROTOCOL = "/sojourn/recovery/1";

const Generation = z.int().min(0);

const Ends = { migration: IdText, peer: IdText, generation: Generation };

const Testimonial = z.strictObject({
  host: IdText,
  claim: z.strictObject({ owner: IdText, generation: Generation }).nullable(),
  guest: z.enum(["running", "suspended", "incoming", "none"]),
  isStopped: z.boolean(),
  outgoing: z
    .strictObject({ ...Ends, phase: z.enum(["begun", "handed-over", "completed", "aborted"]) })
    .nullable(),
  incoming: z
    .strictObject({
      ...Ends,
      phase: z.enum(["receiving", "prepared", "owner", "synchronised", "aborted"]),
      missingBlocks: z.int().min(0).nullable(),
    })
    .nullable(),
  replica: Generation.nullable(),
});

const Question = z.discriminatedUnion("ask", [
  /** What do your journal and your hypervisor say? */
  z.strictObject({ ask: z.literal("custody"), domain: IdText }),
  /** It is your turn: run `recover` for this domain, asking me. */
  z.strictObject({ ask: z.literal("your-turn"), domain: IdText }),
  /** Somebody at my end wants it recovered, and I have nothing of it: you say to have it. */
  z.strictObject({ ask: z.literal("recover"), domain: IdText }),
  /** The domain's chain of custody, as far as you know it. */
  z.strictObject({ ask: z.literal("chain"), domain: IdText }),
  /** What you and I are the ends of; now it has my signature, too. */
  z.strictObject({ ask: z.literal("signed"), certificates: z.array(CustodyRecord).max(16) }),
]);
type Question = z.infer<typeof Question>;

const CustodyAnswer = z.strictObject({ testimony: Testimonial, description: DomainDescribed.nullable() });
const TurnAnswer = z.strictObject({ did: z.array(z.string().max(4096)).max(16) });
const Line = z.string().max(4096);
const RecoverAnswer = z.strictObject({
  domain: IdText,
  name: z.string().max(NAME_LENGTH_MAX),
  found: z.array(Line).max(16),
  did: z.array(Line).max(16),
  decision: z.string().max(64),
  where: z.string().max(256),
  advice: z.exactOptional(Line),
  adoption: z.exactOptional(z.strictObject({ from: z.string().max(64), generation: Generation })),
});

export type Custody = { testimony: Testimony; description: DomainDescription | undefined };

export type RecoveryAnswers = {
  custody(domain: string): Promise<Custody>;
  yourTurn(peer: string, domain: string): Promise<readonly string[]>;
  recover(domain: string): Promise<RecoverReport>;
  chain(domain: string): Promise<readonly SignedCertificate[]>;
  signed(peer: string, certificates: readonly SignedCertificate[]): Promise<void>;
};

export function answerRecovery(network: Network, answers: RecoveryAnswers): Promise<void> {
  return answerOn(network, { protocol: RECOVERY_PROTOCOL, question: Question }, async (peer, question) => {
    if (question.ask === "recover") return answers.recover(question.domain);
    if (question.ask === "chain") return answers.chain(question.domain);
    if (question.ask === "signed") return answers.signed(peer, question.certificates);
    if (question.ask === "your-turn") return { did: await answers.yourTurn(peer, question.domain) };
    const { testimony, description } = await answers.custody(question.domain);
    return { testimony: nulled(testimony), description: description ?? null };
  });
}

export class RecoveryAsker {
  readonly #links: Links;

  constructor(links: Links) {
    this.#links = links;
  }

  async custody(host: string, domain: string, signal: AbortSignal): Promise<Custody> {
    const answer = await this.#ask(host, { ask: "custody", domain }, signal);
    const { testimony, description } = CustodyAnswer.parse(answer);
    if (testimony.host !== host) throw new Error(`${host} speaks for ${testimony.host}`);
    const { claim, outgoing, incoming, replica, ...rest } = testimony;
    return {
      testimony: {
        ...rest,
        claim: claim ?? undefined,
        outgoing: outgoing ?? undefined,
        incoming:
          incoming === null ? undefined : { ...incoming, missingBlocks: incoming.missingBlocks ?? undefined },
        replica: replica ?? undefined,
      },
      description: description ?? undefined,
    };
  }

  async yourTurn(host: string, domain: string, signal: AbortSignal): Promise<readonly string[]> {
    return TurnAnswer.parse(await this.#ask(host, { ask: "your-turn", domain }, signal)).did;
  }

  async recover(host: string, domain: string, signal: AbortSignal): Promise<RecoverReport> {
    return RecoverAnswer.parse(await this.#ask(host, { ask: "recover", domain }, signal));
  }

  async chain(host: string, domain: string, signal: AbortSignal): Promise<SignedCertificate[]> {
    const answer = await this.#ask(host, { ask: "chain", domain }, signal);
    return z.array(CustodyRecord).max(CERTIFICATES_MAX).parse(answer);
  }

  async signed(host: string, certificates: readonly SignedCertificate[], signal: AbortSignal): Promise<void> {
    await this.#ask(host, { ask: "signed", certificates: [...certificates] }, signal);
  }

  #ask(host: string, question: Question, signal: AbortSignal): Promise<unknown> {
    return askHost(this.#links, { host, protocol: RECOVERY_PROTOCOL }, question, signal);
  }
}

/** JSON has no `undefined`, and a field that is not there is not the same as one that says so. */
function nulled({ claim, outgoing, incoming, replica, ...rest }: Testimony): z.infer<typeof Testimonial> {
  return {
    ...rest,
    claim: claim ?? null,
    outgoing: outgoing ?? null,
    incoming: incoming === undefined ? null : { ...incoming, missingBlocks: incoming.missingBlocks ?? null },
    replica: replica ?? null,
  };
}
