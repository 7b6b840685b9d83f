/**
 * The control connection with each host: one, whoever dialled it, for everything that hosts say to one another
 * beside bulk bytes. Made when somebody wants to speak, and again after it was lost; nobody is dialled twice at a
 * time, and a host that does not answer ever more seldom. A host without any address is summoned: somebody who has a
 * connection with it asks it to dial this one.
 */

import type { Clock } from "../clock.ts";
import type { KeyedNetwork } from "../network/key-ring.ts";
import type { Connection } from "../network/network.ts";

export type LinkOptions = {
  /** One address of a host that does not answer costs no more than this. */
  dialTimeoutMs: number;
};

const RETRY_MIN_MS = 400;
const RETRY_MAX_MS = 8_000;
/** Of one host, beside those that it says itself. */
const HINTS_MAX = 8;

/** Has the host dial this one, by way of somebody who has a connection with it. Rejects when nobody could ask it. */
export type Summon = (host: string, signal: AbortSignal) => Promise<void>;

type Link = {
  addresses: readonly string[];
  /** Where others say that it is: tried after its own addresses. */
  hints: readonly string[];
  dialling: Promise<Connection> | undefined;
  /** Dials in a row that failed. */
  failures: number;
  retryAtMs: number;
};

export class Links {
  readonly #network: KeyedNetwork;
  readonly #clock: Clock;
  readonly #options: LinkOptions;
  readonly #links = new Map<string, Link>();
  /** Given up, and perhaps not closed yet. */
  readonly #dropped = new WeakSet<Connection>();
  /** Who waits for a host to dial this one. */
  readonly #arrivals = new Map<string, (connection: Connection) => void>();
  #summon: Summon | undefined;

  constructor({ network, clock }: { network: KeyedNetwork; clock: Clock }, options: LinkOptions) {
    this.#network = network;
    this.#clock = clock;
    this.#options = options;
    network.onConnection((connection) => {
      const { peer, direction } = connection;
      if (direction === "outbound") return;
      // It lives, and where it dialled from it can most likely be dialled.
      const link = this.#links.get(peer);
      if (link !== undefined) this.#reset(link);
      this.#arrivals.get(peer)?.(connection);
    });
  }

  summonBy(summon: Summon): void {
    this.#summon = summon;
  }

  /** Where the host can be dialled, best first, each with its id. Others may come at any time. */
  setAddresses(host: string, addresses: readonly string[]): void {
    const link = this.#linkOf(host);
    if (link.addresses.join() !== addresses.join()) this.#reset(link);
    link.addresses = addresses;
  }

  addressesOf(host: string): readonly string[] {
    const { addresses = [], hints = [] } = this.#links.get(host) ?? {};
    return [...new Set([...addresses, ...hints])];
  }

  /** Somebody else says that the host is there: the configuration, the local network. */
  hint(host: string, addresses: readonly string[]): void {
    const link = this.#linkOf(host);
    if (addresses.every((address) => link.hints.includes(address))) return;
    link.hints = [...new Set([...addresses, ...link.hints])].slice(0, HINTS_MAX);
    this.#reset(link);
  }

  /** The host is none of ours any more: who cuts its connections is the network. */
  forget(host: string): void {
    this.#links.delete(host);
  }

  /** An open connection on which `protocol` may be spoken; it may have died without a word. */
  existing(host: string, protocol: string): Connection | undefined {
    return this.#network
      .connections()
      .find(
        (connection) =>
          connection.peer === host &&
          !this.#dropped.has(connection) &&
          (this.#network.keyOf(connection)?.allows(protocol) ?? true),
      );
  }

  /** False while a host that did not answer is left alone. */
  isDue(host: string): boolean {
    const link = this.#links.get(host);
    return link === undefined || link.dialling !== undefined || this.#clock.nowMs() >= link.retryAtMs;
  }

  /**
   * The open connection, or a new one. Dials also a host that is left alone: whoever gossips asks `isDue` before.
   * Rejects with what the last address failed with.
   */
  async connect(host: string, protocol: string, signal?: AbortSignal): Promise<Connection> {
    const existing = this.existing(host, protocol);
    if (existing !== undefined) return existing;
    const link = this.#linkOf(host);
    link.dialling ??= this.#dial(host, link).finally(() => {
      link.dialling = undefined;
    });
    if (signal === undefined) return link.dialling;
    signal.throwIfAborted();
    const aborted = Promise.withResolvers<never>();
    const onAbort = (): void => aborted.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await Promise.race([link.dialling, aborted.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Cuts what is open: the host is dead, and a connection that hangs would hide that it came back. */
  drop(host: string): void {
    for (const connection of this.#network.connections()) {
      if (connection.peer !== host) continue;
      this.#dropped.add(connection);
      void connection.close().catch(() => undefined);
    }
  }

  async #dial(host: string, link: Link): Promise<Connection> {
    const { dialTimeoutMs } = this.#options;
    const addresses = this.addressesOf(host);
    const ways = addresses.map(
      (address) => () => this.#network.dial(address, AbortSignal.timeout(dialTimeoutMs)),
    );
    if (ways.length === 0) ways.push(() => this.#arrival(host, AbortSignal.timeout(2 * dialTimeoutMs)));
    let failure: unknown;
    for (const way of ways) {
      try {
        const connection = await way();
        this.#reset(link);
        return connection;
      } catch (error) {
        failure = error;
      }
    }
    link.failures += 1;
    const delayMs = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(link.failures - 1, 10));
    // Not all hosts at the same moment after a power cut.
    link.retryAtMs = this.#clock.nowMs() + delayMs * (0.5 + Math.random());
    throw failure;
  }

  async #arrival(host: string, signal: AbortSignal): Promise<Connection> {
    if (this.#summon === undefined) throw new Error("no address of it is known");
    const arrival = Promise.withResolvers<Connection>();
    const onAbort = (): void =>
      arrival.reject(new Error("it announces no address, and does not dial this host"));
    signal.addEventListener("abort", onAbort, { once: true });
    this.#arrivals.set(host, arrival.resolve);
    this.#summon(host, signal).catch(arrival.reject);
    try {
      return await arrival.promise;
    } finally {
      this.#arrivals.delete(host);
      signal.removeEventListener("abort", onAbort);
    }
  }

  #linkOf(host: string): Link {
    const known = this.#links.get(host);
    if (known !== undefined) return known;
    const link: Link = { addresses: [], hints: [], dialling: undefined, failures: 0, retryAtMs: 0 };
    this.#links.set(host, link);
    return link;
  }

  #reset(link: Link): void {
    link.failures = 0;
    link.retryAtMs = 0;
  }
}
