/**
 * How a host becomes a member: one channel on a connection that the invitation's secret protects.
 *
 *   joiner                                        inviter
 *     │ u8 version · name · addresses                │
 *     │ ───────────────────────────────────────────▶ │ counts the use and signs the admission, both durably
 *     │ ◀──────────────── u8 1 · text, when refused  │
 *     │ ◀──────────── u8 0; items: the genesis and   │
 *     │               the statements; end            │
 *     │ ◀──────────── items: the secrets; end        │
 *
 * The joiner's identity is the one that the handshake has proven. An answer that is lost costs the use: another
 * token brings the same host in again.
 */

import { ProtocolError } from "../../protocol/errors.ts";
import { NAME_LENGTH_MAX } from "../../protocol/limits.ts";
import { decodeExchange, encodeExchange, itemFrames } from "../../protocol/members/exchange.ts";
import { ADDRESS_LENGTH_MAX, ADDRESSES_MAX } from "../../protocol/members/statement.ts";
import { badField } from "../../protocol/octets.ts";
import { FieldReader, FieldWriter } from "../../protocol/wire/fields.ts";
import { NodeError, nodeErrorOf } from "../errors.ts";
import type { Identity } from "../identity.ts";
import type { Log } from "../log.ts";
import { type KeyedNetwork, type KeyRing, keyIdOf } from "../network/key-ring.ts";
import { dialOnlyNetwork } from "../network/libp2p-network.ts";
import type { Channel, Network } from "../network/network.ts";
import type { Cluster, Described, Membership } from "./cluster.ts";
import { JOIN_PROTOCOL } from "./cluster-keys.ts";
import { decodeSecret, encodeSecret, SECRETS_MAX } from "./secrets.ts";
import type { Token } from "./token.ts";

const VERSION = 1;
const ADMITTED = 0;
const REFUSED = 1;
const JOIN_TIMEOUT_MS = 30_000;
/** As many octets as a member list may have, and some. */
const ANSWER_SIZE_MAX = 20 << 20;
const NO_VBDS = { vbds: undefined, bitmapBytesMax: 0 } as const;

/** Answers joiners. */
export async function serveJoins(
  network: KeyedNetwork,
  { cluster, log }: { cluster: Cluster; log: Log },
): Promise<void> {
  await network.handle(JOIN_PROTOCOL, async (channel, connection) => {
    const signal = AbortSignal.timeout(JOIN_TIMEOUT_MS);
    const keyId = network.keyOf(connection)?.id;
    const request = await firstFrame(channel, signal);
    try {
      if (keyId === undefined)
        throw new NodeError("JOIN_REFUSED", { host: cluster.self, reason: "no invitation" });
      const described = readRequest(request);
      const membership = await cluster.redeem(keyId, channel.peer, described);
      log.info("a host joined", { member: channel.peer, name: described.name });
      for (const frame of answerFrames(membership)) await channel.send(frame, signal);
    } catch (error) {
      const { message } = nodeErrorOf(error);
      log.warn("a host may not join", { peer: channel.peer, reason: message });
      const text = new FieldWriter();
      text.integer(REFUSED);
      text.text(error instanceof NodeError && error.code === "JOIN_REFUSED" ? reasonOf(error) : message);
      await channel.send(text.finish(), signal);
    }
    await channel.close(signal);
  });
}

/**
 * Asks the inviter of `token` to let this host in. A network of its own, that only dials, so that it works while
 * no daemon runs, and beside one. Throws JOIN_REFUSED, PEER_UNREACHABLE.
 */
export async function requestMembership(
  token: Token,
  { identity, log, described }: { identity: Identity; log: Log; described: Described },
): Promise<Membership> {
  const network = dialOnlyNetwork({ privateKey: identity.privateKey, log }, invitationKey(token));
  await network.start();
  try {
    const signal = AbortSignal.timeout(JOIN_TIMEOUT_MS);
    const connection = await dialInviter(network, token, signal);
    const channel = await connection.open(JOIN_PROTOCOL, signal);
    await channel.send(encodeRequest(described), signal);
    const membership = await readAnswer(channel, { token, signal });
    await channel.close(signal);
    return membership;
  } catch (cause) {
    throw explained(cause, token);
  } finally {
    await network.stop();
  }
}

async function dialInviter(network: Network, { inviter, addresses }: Token, signal: AbortSignal) {
  let failure: unknown = new NodeError("PEER_UNREACHABLE", {
    host: inviter,
    reason: "the token names no address",
  });
  for (const address of addresses) {
    try {
      return await network.dial(`${address}/p2p/${inviter}`, signal);
    } catch (error) {
      failure = isRefusal(failure) ? failure : error;
    }
  }
  throw failure;
}

/** In the handshake a refusal has no reason: the joiner can only guess which of them it was. */
function explained(cause: unknown, { inviter, expiresAtMs }: Token): unknown {
  if (cause instanceof NodeError) return cause;
  if (isRefusal(cause)) {
    const when = new Date(expiresAtMs).toISOString();
    const reason = `the token was used, withdrawn or has expired (it says ${when}), or this host was revoked`;
    return new NodeError("JOIN_REFUSED", { host: inviter, reason }, { cause });
  }
  if (cause instanceof ProtocolError) {
    return new NodeError("PEER_MISBEHAVED", { reason: cause.message }, { cause });
  }
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new NodeError("PEER_UNREACHABLE", { host: inviter, reason }, { cause });
}

function isRefusal(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "NETWORK_REFUSED";
}

function invitationKey({ secret, inviter }: Token): KeyRing {
  const key = { id: keyIdOf(secret), secret, allows: (protocol: string) => protocol === JOIN_PROTOCOL };
  return {
    offer: (peer) => (peer === inviter ? [key] : []),
    find: () => undefined,
    refusal: (peer) => (peer === inviter ? undefined : "not the inviter"),
  };
}

function encodeRequest({ name, addresses }: Described): Uint8Array {
  const to = new FieldWriter();
  to.integer(VERSION);
  to.name(name, NAME_LENGTH_MAX);
  for (const list of [addresses.control, addresses.data]) {
    to.integer(list.length);
    for (const address of list) to.name(address, ADDRESS_LENGTH_MAX);
  }
  return to.finish();
}

function readRequest(frame: Uint8Array): Described {
  const from = new FieldReader("join", frame, NO_VBDS);
  from.integer("version", { min: VERSION, max: VERSION });
  const name = from.name("name", NAME_LENGTH_MAX);
  const list = (field: string): string[] => {
    const count = from.integer(field, { min: 0, max: ADDRESSES_MAX });
    return Array.from({ length: count }, () => from.name(field, ADDRESS_LENGTH_MAX));
  };
  const addresses = { control: list("control"), data: list("data") };
  from.end();
  return { name, addresses };
}

function* answerFrames({ genesis, statements, secrets }: Membership): Generator<Uint8Array> {
  yield Uint8Array.of(ADMITTED);
  for (const frame of itemFrames([genesis, ...statements])) yield encodeExchange(frame);
  yield encodeExchange({ type: "end" });
  for (const frame of itemFrames(secrets.map(encodeSecret))) yield encodeExchange(frame);
  yield encodeExchange({ type: "end" });
}

async function readAnswer(
  channel: Channel,
  { token, signal }: { token: Token; signal: AbortSignal },
): Promise<Membership> {
  const frames = channel.frames(signal);
  const first = await frames.next();
  if (first.done === true) throw badField("join.answer", "none");
  const head = new FieldReader("join", first.value, NO_VBDS);
  if (head.integer("answer") !== ADMITTED) {
    throw new NodeError("JOIN_REFUSED", { host: token.inviter, reason: head.text("reason") });
  }
  const [genesis, ...statements] = await itemsUntilEnd(frames);
  if (genesis === undefined) throw badField("join.genesis", "none");
  const secrets = (await itemsUntilEnd(frames)).slice(0, SECRETS_MAX).map(decodeSecret);
  if (secrets.length === 0) throw badField("join.secrets", "none");
  return { genesis, statements, secrets };
}

async function itemsUntilEnd(frames: AsyncGenerator<Uint8Array>): Promise<Uint8Array[]> {
  const items: Uint8Array[] = [];
  let sizeBytes = 0;
  for (;;) {
    const { value, done } = await frames.next();
    if (done === true) throw badField("join.answer", "it ends early");
    const frame = decodeExchange(value);
    if (frame.type === "end") return items;
    if (frame.type !== "items") throw badField("join.answer", `unexpected ${frame.type}`);
    sizeBytes += value.byteLength;
    if (sizeBytes > ANSWER_SIZE_MAX) throw badField("join.answer", "too large");
    items.push(...frame.items);
  }
}

async function firstFrame(channel: Channel, signal: AbortSignal): Promise<Uint8Array> {
  for await (const frame of channel.frames(signal)) return frame;
  throw badField("join.request", "none");
}

function reasonOf(error: NodeError): string {
  return (error.detail as { reason?: string }).reason ?? error.message;
}
