/**
 * Keeps this host in touch beyond what membership asks for: the seeds of the configuration are dialled at the start
 * and while no member is reached; a host that nobody can dial keeps a connection with every member open itself; and
 * who says by mDNS that it is near is dialled. Each of them no more often than `Links` allows.
 */

import { HOSTS_PROTOCOL } from "../../protocol/limits.ts";
import type { Network } from "../network/network.ts";
import type { Links } from "./links.ts";

export type RedialParts = {
  network: Network;
  links: Links;
  isMember(host: string): boolean;
  /** Members that are alive. */
  active(): readonly string[];
  /** All members but this host. */
  members(): readonly string[];
};

export type RedialOptions = {
  /** Each with its host's id at its end. */
  seeds: readonly string[];
};

const REDIAL_EVERY_MS = 2_000;
/** So many hosts are dialled at a time, so that a cluster of a thousand is not all at once. */
const AT_ONCE = 4;

export class Redial {
  readonly #parts: RedialParts;
  readonly #seeds: readonly string[];
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: RedialParts, { seeds }: RedialOptions) {
    this.#parts = parts;
    for (const seed of seeds) parts.links.hint(hostOf(seed), [seed]);
    this.#seeds = [...new Set(seeds.map(hostOf))];
  }

  /** When the network listens and the member list was read. */
  start(): void {
    this.#dial(this.#seeds.slice(0, AT_ONCE));
    this.#timer = setInterval(() => this.#round(), REDIAL_EVERY_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** The local network says that the host is there; what it says is believed when the handshake has proven it. */
  found(host: string, addresses: readonly string[]): void {
    const { links, isMember } = this.#parts;
    if (!isMember(host)) return;
    links.hint(
      host,
      addresses.map((address) => (address.includes("/p2p/") ? address : `${address}/p2p/${host}`)),
    );
    this.#dial([host]);
  }

  #round(): void {
    const { network, active, members } = this.#parts;
    if (this.#isAlone()) this.#dial(some([...this.#seeds, ...members()]));
    else if (network.addresses().length === 0) this.#dial(active());
  }

  #isAlone(): boolean {
    const { network, isMember } = this.#parts;
    return !network.connections().some(({ peer }) => isMember(peer));
  }

  #dial(hosts: readonly string[]): void {
    const { network, links, isMember } = this.#parts;
    const due = hosts.filter(
      (host) =>
        host !== network.self &&
        isMember(host) &&
        links.existing(host, HOSTS_PROTOCOL) === undefined &&
        links.addressesOf(host).length > 0 &&
        links.isDue(host),
    );
    // What fails is tried again: `Links` remembers when.
    for (const host of due.slice(0, AT_ONCE)) links.connect(host, HOSTS_PROTOCOL).catch(() => undefined);
  }
}

function some(hosts: readonly string[]): string[] {
  return [...new Set(hosts)].sort(() => Math.random() - 0.5);
}

function hostOf(address: string): string {
  return address.slice(address.lastIndexOf("/") + 1);
}
