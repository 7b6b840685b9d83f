/**
 * A network that also reaches hosts that nobody can dial: it has them asked to dial back.
 *
 *   this host                         the other one, behind a NAT
 *     │ over the control connection: dial me, nonce   │
 *     │ ────────────────────────────────────────────▶ │
 *     │ ◀──────────────────────── a new connection    │
 *     │ ◀──────────────────── DIAL_BACK, the nonce    │
 *
 * From then on it is a connection like any that was dialled here, and one of its own: the nonce says for which of
 * several dials. Whoever presents a nonce that this peer was not given is cut.
 */

import { randomBytes } from "node:crypto";
import { NetworkError } from "./errors.ts";
import type { Channel, ChannelHandler, Connection, HostId, Network } from "./network.ts";

export const DIAL_BACK_PROTOCOL = "/sojourn/dial-back/1.0.0";

const NONCE_SIZE = 16;
export const NONCE_LENGTH = 2 * NONCE_SIZE;
const DIAL_BACK_TIMEOUT_MS = 15_000;
const SAY_TIMEOUT_MS = 5_000;

/** How a host is dialled that announces no address. */
export function nowhere(host: HostId): string {
  return `/p2p/${host}`;
}

export type DialBackParts = {
  network: Network;
  /** Has `host` dial this one and present `nonce`. Rejects when that is refused. */
  ask(host: HostId, nonce: string): Promise<void>;
};

export class DialBackNetwork implements Network {
  readonly #network: Network;
  readonly #ask: DialBackParts["ask"];
  /** By peer and nonce. */
  readonly #expected = new Map<string, (connection: Connection) => void>();

  constructor({ network, ask }: DialBackParts) {
    this.#network = network;
    this.#ask = ask;
  }

  get self(): HostId {
    return this.#network.self;
  }

  addresses(): readonly string[] {
    return this.#network.addresses();
  }

  connections(): readonly Connection[] {
    return this.#network.connections();
  }

  handle(protocol: string, handler: ChannelHandler): Promise<void> {
    return this.#network.handle(protocol, handler);
  }

  async start(): Promise<void> {
    await this.#network.handle(DIAL_BACK_PROTOCOL, (channel, connection) =>
      this.#accept(channel, connection),
    );
    await this.#network.start();
  }

  stop(): Promise<void> {
    return this.#network.stop();
  }

  /** `address` may be several with commas between them, tried in their order. */
  async dial(address: string, signal?: AbortSignal): Promise<Connection> {
    let failure: unknown;
    for (const each of address.split(",")) {
      try {
        const host = /^\/p2p\/([^/]+)$/.exec(each)?.[1];
        return await (host === undefined ? this.#network.dial(each, signal) : this.#await(host, signal));
      } catch (error) {
        if (signal?.aborted) throw signal.reason;
        failure = error;
      }
    }
    throw failure;
  }

  /** As it was asked: dials and says for which request. The connection is the peer's from then on. */
  async dialBack(address: string, nonce: string): Promise<void> {
    const signal = AbortSignal.timeout(DIAL_BACK_TIMEOUT_MS);
    const connection = await this.dial(address, signal);
    try {
      const channel = await connection.open(DIAL_BACK_PROTOCOL, signal);
      await channel.send(Buffer.from(nonce), signal);
      await channel.close(signal);
    } catch (error) {
      await connection.close();
      throw error;
    }
  }

  async #await(host: HostId, signal: AbortSignal | undefined): Promise<Connection> {
    const nonce = randomBytes(NONCE_SIZE).toString("hex");
    const timeout = AbortSignal.timeout(DIAL_BACK_TIMEOUT_MS);
    const bounded = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
    const arrival = Promise.withResolvers<Connection>();
    const onAbort = (): void => arrival.reject(bounded.reason);
    bounded.addEventListener("abort", onAbort, { once: true });
    this.#expected.set(keyOf(host, nonce), arrival.resolve);
    this.#ask(host, nonce).catch(arrival.reject);
    try {
      return await arrival.promise;
    } catch (cause) {
      const reason = `it has no address, and did not dial back: ${cause instanceof Error ? cause.message : cause}`;
      throw new NetworkError({ code: "NETWORK_UNREACHABLE", address: nowhere(host), reason }, { cause });
    } finally {
      bounded.removeEventListener("abort", onAbort);
      this.#expected.delete(keyOf(host, nonce));
    }
  }

  async #accept(channel: Channel, connection: Connection): Promise<void> {
    const nonce = await firstFrame(channel);
    const expected = this.#expected.get(keyOf(channel.peer, nonce));
    if (expected === undefined) {
      await connection.close();
      throw new Error("nobody asked this host to dial back");
    }
    await channel.close(AbortSignal.timeout(SAY_TIMEOUT_MS));
    expected(connection);
  }
}

async function firstFrame(channel: Channel): Promise<string> {
  for await (const frame of channel.frames(AbortSignal.timeout(SAY_TIMEOUT_MS))) {
    return Buffer.from(frame.subarray(0, NONCE_LENGTH)).toString();
  }
  return "";
}

function keyOf(host: HostId, nonce: string): string {
  return `${host} ${nonce}`;
}
