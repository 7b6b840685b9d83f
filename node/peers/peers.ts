/**
 * The other hosts, as the configuration lists them: who answers, where their bulk listeners are, where they
 * say that domains are. Asked anew every few seconds, and told at once when something changed here.
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
  address: string;
  facts: HostFacts | undefined;
  seenAtMs: number | undefined;
  roundTripMs: number | undefined;
};

type Peer = PeerView & { asker: HostAsker; dataOverride: string | undefined };

const ASK_TIMEOUT_MS = 5_000;
const REFRESH_EVERY_MS = 5_000;

export class Peers {
  readonly #peers: readonly Peer[];
  readonly #metadata: Metadata;
  readonly #clock: Clock;
  readonly #log: Log;
  #timer: NodeJS.Timeout | undefined;
  #refreshing: Promise<void> = Promise.resolve();

  constructor(
    { network, metadata, clock, log }: { network: Network; metadata: Metadata; clock: Clock; log: Log },
    peers: NodeConfig["peers"],
  ) {
    this.#metadata = metadata;
    this.#clock = clock;
    this.#log = log;
    this.#peers = peers.map(({ name, control, data }) => {
      const host = hostIdOf(control);
      return {
        host,
        hostName: name ?? host.slice(-8),
        address: control,
        asker: new HostAsker(network, { host, address: control }),
        dataOverride: data,
        facts: undefined,
        seenAtMs: undefined,
        roundTripMs: undefined,
      };
    });
  }

  start(): void {
    this.#refreshing = this.refresh();
    this.#timer = setInterval(() => {
      this.#refreshing = this.#refreshing.then(() => this.refresh());
    }, REFRESH_EVERY_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all(this.#peers.map(({ asker }) => asker.close()));
    await this.#refreshing;
  }

  views(): readonly PeerView[] {
    return this.#peers;
  }

  /** By name, id or the beginning of an id. Throws HOST_UNKNOWN, HOST_AMBIGUOUS. */
  find(query: string): PeerView {
    const exact = this.#peers.filter(({ host, hostName }) => host === query || hostName === query);
    const matches =
      exact.length > 0 ? exact : this.#peers.filter(({ host }) => query !== "" && host.startsWith(query));
    if (matches.length > 1) {
      throw new NodeError("HOST_AMBIGUOUS", { query, matches: matches.map(({ host }) => host) });
    }
    const [match] = matches;
    if (match === undefined) throw new NodeError("HOST_UNKNOWN", { query });
    return match;
  }

  nameOf(host: string): string {
    return this.#peers.find((peer) => peer.host === host)?.hostName ?? host.slice(-8);
  }

  /** Where the host's bulk listener is; asks when it is not known. Throws HOST_UNKNOWN, PEER_UNREACHABLE. */
  async dataAddressOf(host: string): Promise<string> {
    const peer = this.#peers.find((candidate) => candidate.host === host);
    if (peer === undefined) throw new NodeError("HOST_UNKNOWN", { query: host });
    if (peer.dataOverride !== undefined) return peer.dataOverride;
    if (peer.facts === undefined) await this.ask(host);
    const [address] = peer.facts?.dataAddresses ?? [];
    if (address === undefined) {
      throw new NodeError("PEER_UNREACHABLE", { host: peer.hostName, reason: "it has no bulk listener" });
    }
    return address;
  }

  /** Asks one host anew. Throws PEER_UNREACHABLE, PEER_VERSION. */
  async ask(host: string): Promise<HostAsker> {
    const peer = this.#peers.find((candidate) => candidate.host === host);
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

  async refresh(): Promise<void> {
    await Promise.all(
      this.#peers.map(async ({ host }) => {
        try {
          const asker = await this.ask(host);
          await this.learn(host, await asker.placements(AbortSignal.timeout(ASK_TIMEOUT_MS)));
        } catch (error) {
          this.#log.debug("peer does not answer", { peer: host, reason: (error as Error).message });
        }
      }),
    );
  }

  /** Tells every host; those that do not hear it ask later. */
  announce(placements: readonly PlacementRecord[]): void {
    for (const { asker, host } of this.#peers) {
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
}

function hostIdOf(address: string): string {
  const id = multiaddr(address)
    .getComponents()
    .find(({ name }) => name === "p2p")?.value;
  if (id === undefined)
    throw new NodeError("CONFIG_INVALID", { source: "peers", issues: [`${address} names no host`] });
  return id;
}
