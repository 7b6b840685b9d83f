/**
 * The other hosts: the members of the cluster, and those that the configuration lists. Who answers, where their
 * bulk listeners are, where they say that domains are. Asked anew every few seconds, and told at once when
 * something changed here; one that does not answer is dialled again and again, ever more seldom.
 */

import { multiaddr } from "@multiformats/multiaddr";
import type { Metadata } from "../../storage/metadata.ts";
import type { PlacementRecord } from "../../storage/records.ts";
import type { Clock } from "../clock.ts";
import type { NodeConfig } from "../config.ts";
import { NodeError } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Network } from "../network/network.ts";
import { HostAsker, type HostFacts } from "./host-questions.ts";

export type PeerView = {
  host: string;
  hostName: string;
  /** The first of those that are tried. */
  address: string;
  facts: HostFacts | undefined;
  seenAtMs: number | undefined;
  roundTripMs: number | undefined;
};

/** A member of the cluster, addresses without its id. */
export type ListedMember = {
  host: string;
  name: string;
  addresses: { control: readonly string[]; data: readonly string[] };
};

type Peer = PeerView & {
  asker: HostAsker;
  /** From the configuration: its addresses go over those that the host itself gives. */
  isStatic: boolean;
  dataOverride: string | undefined;
  dataListed: string | undefined;
  /** Asks in a row without an answer. */
  failures: number;
  askAtMs: number;
};

const ASK_TIMEOUT_MS = 5_000;
const REFRESH_EVERY_MS = 5_000;
const TICK_MS = 250;
const RETRY_MIN_MS = 500;
/** A host that returns dials us besides, and is then asked at once. */
const RETRY_MAX_MS = 15_000;

export class Peers {
  readonly #peers = new Map<string, Peer>();
  readonly #network: Network;
  readonly #metadata: Metadata;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #asking = new Map<string, Promise<void>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    { network, metadata, clock, log }: { network: Network; metadata: Metadata; clock: Clock; log: Log },
    peers: NodeConfig["peers"],
  ) {
    this.#network = network;
    this.#metadata = metadata;
    this.#clock = clock;
    this.#log = log;
    for (const { name, control, data } of peers) {
      const host = hostIdOf(control);
      const peer = this.#add({ host, hostName: name ?? host.slice(-8), addresses: [control] });
      peer.isStatic = true;
      peer.dataOverride = data;
    }
  }

  start(): void {
    this.#askDue();
    this.#timer = setInterval(() => this.#askDue(), TICK_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([...this.#peers.values()].map(({ asker }) => asker.close()));
    await Promise.all(this.#asking.values());
  }

  /** The cluster's members but this host. Hosts of the configuration stay, members or not. */
  setMembers(members: readonly ListedMember[]): void {
    const listed = new Set(members.map(({ host }) => host));
    for (const peer of [...this.#peers.values()]) {
      if (peer.isStatic || listed.has(peer.host)) continue;
      this.#peers.delete(peer.host);
      void peer.asker.close();
    }
    for (const { host, name, addresses } of members) {
      const [control, data] = [addresses.control, addresses.data].map((list) =>
        list.map((address) => `${address}/p2p/${host}`),
      ) as [string[], string[]];
      const peer = this.#peers.get(host) ?? this.#add({ host, hostName: name, addresses: control });
      peer.dataListed = data[0];
      if (peer.facts === undefined) peer.hostName = name;
      if (peer.isStatic) continue;
      if (control.join() !== peer.asker.addresses.join()) peer.askAtMs = 0;
      peer.asker.addresses = control;
      peer.address = control[0] ?? "";
    }
  }

  /** The host has just dialled us: if it did not answer, it may do so now. */
  noteSeen(host: string): void {
    const peer = this.#peers.get(host);
    if (peer !== undefined && peer.failures > 0) peer.askAtMs = 0;
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

  /** Where the host's bulk listener is; asks when it is not known. Throws HOST_UNKNOWN, PEER_UNREACHABLE. */
  async dataAddressOf(host: string): Promise<string> {
    const peer = this.#peers.get(host);
    if (peer === undefined) throw new NodeError("HOST_UNKNOWN", { query: host });
    if (peer.dataOverride !== undefined) return peer.dataOverride;
    if (peer.facts === undefined && peer.dataListed === undefined) await this.ask(host);
    const address = peer.facts?.dataAddresses[0] ?? peer.dataListed;
    if (address === undefined) {
      throw new NodeError("PEER_UNREACHABLE", { host: peer.hostName, reason: "it has no bulk listener" });
    }
    return address;
  }

  /** Asks one host anew. Throws PEER_UNREACHABLE, PEER_VERSION. */
  async ask(host: string): Promise<HostAsker> {
    const peer = this.#peers.get(host);
    if (peer === undefined) throw new NodeError("HOST_UNKNOWN", { query: host });
    const signal = AbortSignal.timeout(ASK_TIMEOUT_MS);
    try {
      peer.facts = await peer.asker.facts(signal);
      peer.hostName = peer.facts.hostName;
      peer.roundTripMs = await peer.asker.ping(signal);
      peer.seenAtMs = this.#clock.wallMs();
      return peer.asker;
    } catch (error) {
      if (error instanceof NodeError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new NodeError("PEER_UNREACHABLE", { host: peer.hostName, reason }, { cause: error });
    }
  }

  /** Asks every host anew, whether it is its turn or not. */
  async refresh(): Promise<void> {
    await Promise.all([...this.#peers.values()].map((peer) => this.#askNow(peer)));
  }

  /** Tells every host; those that do not hear it ask later. */
  announce(placements: readonly PlacementRecord[]): void {
    for (const { asker, host } of this.#peers.values()) {
      asker.announce([...placements], AbortSignal.timeout(ASK_TIMEOUT_MS)).catch((error: unknown) => {
        this.#log.debug("peer was not told", { peer: host, reason: (error as Error).message });
      });
    }
  }

  /** Newest wins: the highest generation, and within one the latest word of its host. */
  async learn(from: string, placements: readonly PlacementRecord[]): Promise<void> {
    for (const placement of placements) {
      // A host speaks for the domains that it has; of others it only repeats what it heard.
      const known = await this.#metadata.placements.get(placement.domain);
      const isNewer =
        known === undefined ||
        placement.generation > known.generation ||
        (placement.generation === known.generation && placement.seq > known.seq);
      if (isNewer) await this.#metadata.placements.put({ ...placement, from }, { sync: false });
    }
  }

  #add({
    host,
    hostName,
    addresses,
  }: {
    host: string;
    hostName: string;
    addresses: readonly string[];
  }): Peer {
    const peer: Peer = {
      host,
      hostName,
      address: addresses[0] ?? "",
      asker: new HostAsker(this.#network, { host, addresses }),
      isStatic: false,
      dataOverride: undefined,
      dataListed: undefined,
      facts: undefined,
      seenAtMs: undefined,
      roundTripMs: undefined,
      failures: 0,
      askAtMs: 0,
    };
    this.#peers.set(host, peer);
    return peer;
  }

  #askDue(): void {
    const now = this.#clock.nowMs();
    for (const peer of this.#peers.values()) {
      if (peer.askAtMs <= now) void this.#askNow(peer);
    }
  }

  /** One question at a time to each host; never rejects. */
  #askNow(peer: Peer): Promise<void> {
    const running = this.#asking.get(peer.host);
    if (running !== undefined) return running;
    const asked = this.#learnFrom(peer).finally(() => this.#asking.delete(peer.host));
    this.#asking.set(peer.host, asked);
    return asked;
  }

  async #learnFrom(peer: Peer): Promise<void> {
    // Set before the answer: whoever sets it meanwhile wants another question.
    peer.askAtMs = this.#clock.nowMs() + REFRESH_EVERY_MS;
    try {
      const asker = await this.ask(peer.host);
      await this.learn(peer.host, await asker.placements(AbortSignal.timeout(ASK_TIMEOUT_MS)));
      peer.failures = 0;
    } catch (error) {
      peer.failures += 1;
      const delayMs = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(peer.failures, 10));
      // Not all hosts at the same moment after a power cut.
      if (peer.askAtMs !== 0) peer.askAtMs = this.#clock.nowMs() + delayMs * (0.5 + Math.random());
      this.#log.debug("peer does not answer", { peer: peer.host, reason: (error as Error).message });
    }
  }
}

function hostIdOf(address: string): string {
  const id = multiaddr(address)
    .getComponents()
    .find(({ name }) => name === "p2p")?.value;
  if (id === undefined)
    throw new NodeError("CONFIG_INVALID", { source: "peers", issues: [`${address} names no host`] });
  return id;
}
