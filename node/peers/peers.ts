/**
 * The other members of the cluster: their names, where they are dialled, where their bulk listeners are, and how to
 * ask one of them something. Who of them is alive is membership's to say.
 */

import type { Clock } from "../clock.ts";
import { NodeError } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Links } from "../membership/links.ts";
import { nowhere } from "../network/dial-back.ts";
import { type DialBack, HostAsker, type HostFacts } from "./host-questions.ts";

export type PeerView = {
  host: string;
  hostName: string;
  /** The first of those that are tried. */
  address: string;
};

/** A member of the cluster, addresses without its id. */
export type ListedMember = {
  host: string;
  name: string;
  addresses: { control: readonly string[]; data: readonly string[] };
};

type Peer = PeerView & {
  asker: HostAsker;
  /** Where its member list entry says that its bulk listener is. */
  dataListed: readonly string[];
  facts: HostFacts | undefined;
  askedAtMs: number;
  /** What the member list and what the host itself says. */
  listed: readonly string[];
  told: readonly string[];
};

const ASK_TIMEOUT_MS = 5_000;
/** Older answers are asked for anew, beside their use. */
const FACTS_FRESH_MS = 5_000;

export class Peers {
  readonly #peers = new Map<string, Peer>();
  readonly #links: Links;
  readonly #clock: Clock;
  readonly #log: Log;
  #onHosts: (hosts: readonly string[]) => void = () => {};

  constructor({ links, clock, log }: { links: Links; clock: Clock; log: Log }) {
    this.#links = links;
    this.#clock = clock;
    this.#log = log;
  }

  /** Who they are, now and whenever that changes. */
  watchHosts(listener: (hosts: readonly string[]) => void): void {
    this.#onHosts = listener;
    listener([...this.#peers.keys()]);
  }

  /** The cluster's members but this host. */
  setMembers(members: readonly ListedMember[]): void {
    const listed = new Set(members.map(({ host }) => host));
    for (const peer of [...this.#peers.values()]) {
      if (listed.has(peer.host)) continue;
      this.#peers.delete(peer.host);
      this.#links.forget(peer.host);
    }
    for (const { host, name, addresses } of members) {
      const peer = this.#peers.get(host) ?? this.#add({ host, hostName: name });
      peer.dataListed = addresses.data.map((data) => `${data}/p2p/${host}`);
      if (peer.told.length === 0) peer.hostName = name;
      peer.listed = addresses.control;
      this.#setAddresses(peer);
    }
    this.#onHosts([...this.#peers.keys()]);
  }

  /** What the host says of itself, signed: newer than any list. */
  learn(host: string, { name, addresses }: { name: string; addresses: readonly string[] }): void {
    const peer = this.#peers.get(host);
    if (peer === undefined) return;
    peer.hostName = name;
    peer.told = addresses;
    this.#setAddresses(peer);
  }

  views(): readonly PeerView[] {
    return [...this.#peers.values()];
  }

  /** By name, id or the beginning of an id. Throws HOST_UNKNOWN, HOST_AMBIGUOUS. */
  find(query: string): PeerView {
    const peers = this.views();
    const exact = peers.filter(({ host, hostName }) => host === query || hostName === query);
    const matches =
      exact.length > 0 ? exact : peers.filter(({ host }) => query !== "" && host.startsWith(query));
    if (matches.length > 1) {
      throw new NodeError("HOST_AMBIGUOUS", { query, matches: matches.map(({ host }) => host) });
    }
    const [match] = matches;
    if (match === undefined) throw new NodeError("HOST_UNKNOWN", { query });
    return match;
  }

  nameOf(host: string): string {
    return this.#peers.get(host)?.hostName ?? host.slice(-8);
  }

  /**
   * Where the host's bulk listener is, with commas between its addresses; `nowhere` for one that announces none. What
   * is known may be old: it is asked for anew beside its use. Throws HOST_UNKNOWN.
   */
  async dataAddressOf(host: string): Promise<string> {
    const peer = this.#peers.get(host);
    if (peer === undefined) throw new NodeError("HOST_UNKNOWN", { query: host });
    if (this.#clock.nowMs() - peer.askedAtMs > FACTS_FRESH_MS) {
      this.ask(host).catch((error: unknown) => {
        this.#log.debug("peer does not answer", { peer: host, reason: (error as Error).message });
      });
    }
    const addresses = peer.facts?.dataAddresses ?? peer.dataListed;
    return addresses.length === 0 ? nowhere(host) : addresses.join(",");
  }

  /** Asks those that have a connection with `from`, or may have one, to have it dial `to`. Throws PEER_UNREACHABLE. */
  async askToDial(wish: DialBack, by: readonly string[], signal: AbortSignal): Promise<void> {
    let failure: unknown;
    for (const host of by) {
      try {
        return await this.#peers.get(host)?.asker.dialBack(wish, signal);
      } catch (error) {
        failure = error;
      }
    }
    const reason = failure instanceof Error ? failure.message : "no other host is reached";
    throw new NodeError("PEER_UNREACHABLE", { host: this.nameOf(wish.from), reason }, { cause: failure });
  }

  /** Asks one host anew. Throws PEER_UNREACHABLE, PEER_VERSION. */
  async ask(host: string): Promise<HostAsker> {
    const peer = this.#peers.get(host);
    if (peer === undefined) throw new NodeError("HOST_UNKNOWN", { query: host });
    const signal = AbortSignal.timeout(ASK_TIMEOUT_MS);
    peer.askedAtMs = this.#clock.nowMs();
    try {
      peer.facts = await peer.asker.facts(signal);
      peer.hostName = peer.facts.hostName;
      return peer.asker;
    } catch (error) {
      if (error instanceof NodeError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new NodeError("PEER_UNREACHABLE", { host: peer.hostName, reason }, { cause: error });
    }
  }

  #setAddresses(peer: Peer): void {
    const bare = new Set([...peer.told, ...peer.listed]);
    const addresses = [...bare].map((address) => `${address}/p2p/${peer.host}`);
    peer.address = addresses[0] ?? "";
    this.#links.setAddresses(peer.host, addresses);
  }

  #add({ host, hostName }: { host: string; hostName: string }): Peer {
    const peer: Peer = {
      host,
      hostName,
      address: "",
      asker: new HostAsker(this.#links, host),
      dataListed: [],
      facts: undefined,
      askedAtMs: Number.NEGATIVE_INFINITY,
      listed: [],
      told: [],
    };
    this.#peers.set(host, peer);
    return peer;
  }
}
