/**
 * The cluster as a running daemon has it: brings what changes in it to everybody who acts on it, the keys first, so
 * that a host that was revoked is cut before anything else happens.
 */

import type { Clock } from "../clock.ts";
import { clusterFile } from "../data-folder.ts";
import { NodeError } from "../errors.ts";
import type { Identity } from "../identity.ts";
import type { Log } from "../log.ts";
import type { KeyedNetwork } from "../network/key-ring.ts";
import type { Peers } from "../peers/peers.ts";
import { Cluster, type Described } from "./cluster.ts";
import { type AdmissionSnapshot, ClusterKeys } from "./cluster-keys.ts";
import { ClusterGossip } from "./gossip.ts";
import { requestMembership, serveJoins } from "./join.ts";
import { reachable } from "./reachable.ts";
import { parseToken } from "./token.ts";

export type HostClusterParts = {
  dataDir: string;
  hostName: string;
  identity: Identity;
  clock: Clock;
  log: Log;
};

/** Who acts on the cluster. */
export type Attached = {
  network: KeyedNetwork;
  peers: Peers;
  data: { addresses(): readonly string[]; admit(snapshot: AdmissionSnapshot): void };
};

/** After news about us: two daemons with one key would contradict each other as fast as they can. */
const RENEW_DELAY_MS = 2_000;

export class HostCluster {
  readonly cluster: Cluster;
  readonly keys: ClusterKeys;
  readonly #parts: HostClusterParts;
  #attached: Attached | undefined;
  #gossip: ClusterGossip | undefined;
  #renewal: NodeJS.Timeout | undefined;

  private constructor(parts: HostClusterParts, cluster: Cluster) {
    this.#parts = parts;
    this.cluster = cluster;
    this.keys = new ClusterKeys(parts.clock, cluster.admission());
  }

  /** Throws CLUSTER_FILE_EXPOSED, CLUSTER_FILE_CORRUPT. */
  static async load(parts: HostClusterParts): Promise<HostCluster> {
    const { dataDir, identity, clock, log } = parts;
    const cluster = await Cluster.load({ file: clusterFile(dataDir), identity, clock, log });
    if (cluster.id === undefined) log.info("no cluster: this host is alone until `sojourn join`");
    else log.info("cluster", { cluster: cluster.id, members: cluster.members().length });
    return new HostCluster(parts, cluster);
  }

  /** For the data process: what concerns joining stays here. */
  snapshot(): AdmissionSnapshot {
    return { ...this.cluster.admission(), invitations: [] };
  }

  /** Before the network starts. */
  async attach(attached: Attached): Promise<void> {
    const { network } = attached;
    const { log } = this.#parts;
    const { cluster, keys } = this;
    this.#attached = attached;
    this.#act();
    cluster.onChange(() => {
      this.#act();
      this.#renewal ??= setTimeout(() => this.#renewSoon(), RENEW_DELAY_MS).unref();
    });
    this.#gossip = new ClusterGossip({ cluster, keys, network, log });
    await this.#gossip.start();
    await serveJoins(network, { cluster, log });
  }

  /** Tells the members where this host is. Once both of its networks listen. */
  async announce(): Promise<void> {
    await this.cluster.renew(this.#described());
  }

  /** Throws CLUSTER_NONE, USAGE where nobody could come. */
  async invite(options: {
    expiresMs: number;
    uses: number;
  }): Promise<{ token: string; expiresAtMs: number }> {
    const { control } = this.#described().addresses;
    if (control.length === 0) {
      throw new NodeError("USAGE", { reason: "this host announces no address: invite from another member" });
    }
    return this.cluster.invite({ ...options, addresses: control });
  }

  /** Throws TOKEN_INVALID, CLUSTER_ALREADY, JOIN_REFUSED, PEER_UNREACHABLE. */
  async join(text: string): Promise<void> {
    const { identity, log } = this.#parts;
    const token = parseToken(text);
    if (token.inviter === this.cluster.self) {
      throw new NodeError("USAGE", { reason: "this host made that token itself" });
    }
    this.cluster.refuseJoining(token.cluster);
    const membership = await requestMembership(token, { identity, log, described: this.#described() });
    await this.cluster.adopt(membership, token);
    await this.announce();
  }

  async stop(): Promise<void> {
    clearTimeout(this.#renewal);
    await this.#gossip?.stop();
  }

  #act(): void {
    if (this.#attached === undefined) return;
    const { network, peers, data } = this.#attached;
    this.keys.update(this.cluster.admission());
    network.recheck();
    data.admit(this.snapshot());
    peers.setMembers(this.cluster.members().filter(({ host }) => host !== this.cluster.self));
  }

  #renewSoon(): void {
    this.#renewal = undefined;
    this.announce().catch((error: unknown) => this.#parts.log.warn("our addresses were not told", { error }));
  }

  #described(): Described {
    const { network, data } = this.#attached ?? {};
    const addresses = {
      control: reachable(network?.addresses() ?? []),
      data: reachable(data?.addresses() ?? []),
    };
    return { name: this.#parts.hostName, addresses };
  }
}
