/** A question between hosts on the control connection: one JSON request and one JSON answer, both bounded. */

import { z } from "zod";
import { NAME_LENGTH_MAX, VBDS_MAX } from "../../protocol/limits.ts";
import type { Links } from "../membership/links.ts";
import type { Channel, Network } from "../network/network.ts";

const ERROR_LENGTH_MAX = 4096;

/** Of a host or a domain. */
export const IdText = z.string().min(1).max(256);

/** A domain as hosts tell one another of it. */
export const DomainDescribed = z.strictObject({
  id: IdText,
  name: z.string().min(1).max(NAME_LENGTH_MAX),
  hypervisor: z.string().min(1).max(64),
  memoryBytes: z.int().min(0),
  config: z.string().max(1 << 20),
  vbds: z
    .array(z.strictObject({ name: z.string().min(1).max(NAME_LENGTH_MAX), sizeBytes: z.int().min(0) }))
    .max(VBDS_MAX),
});

const Answer = z
  .strictObject({ answer: z.unknown() })
  .or(z.strictObject({ error: z.string().max(ERROR_LENGTH_MAX) }));

/** Answers what other hosts ask on `protocol`. A question that is none gets an error, not a crash. */
export async function answerOn<Question>(
  network: Network,
  { protocol, question }: { protocol: string; question: z.ZodType<Question> },
  answer: (peer: string, asked: Question) => Promise<unknown>,
): Promise<void> {
  await network.handle(protocol, async (channel) => {
    const reply = async (frame: Uint8Array): Promise<unknown> => {
      try {
        return { answer: (await answer(channel.peer, question.parse(decode(frame)))) ?? null };
      } catch (error) {
        return { error: (error instanceof Error ? error.message : String(error)).slice(0, ERROR_LENGTH_MAX) };
      }
    };
    for await (const frame of channel.frames()) await channel.send(encode(await reply(frame)));
    await channel.close();
  });
}

/** What the host answers, unchecked. Rejects with its error's text, and when it cannot be reached. */
export async function askHost(
  links: Links,
  { host, protocol }: { host: string; protocol: string },
  question: unknown,
  signal: AbortSignal,
): Promise<unknown> {
  const connection = await links.connect(host, protocol, signal);
  const channel = await connection.open(protocol, signal);
  try {
    await channel.send(encode(question), signal);
    const answer = Answer.parse(decode(await firstFrame(channel, signal)));
    if ("error" in answer) throw new Error(answer.error);
    return answer.answer;
  } finally {
    await channel.close(signal).catch(() => undefined);
  }
}

async function firstFrame(channel: Channel, signal: AbortSignal): Promise<Uint8Array> {
  for await (const frame of channel.frames(signal)) return frame;
  throw new Error("the peer gave no answer");
}

function encode(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

function decode(frame: Uint8Array): unknown {
  return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(frame));
}
