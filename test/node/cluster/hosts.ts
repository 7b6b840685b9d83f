/** Clusters in folders of their own, and their control networks on loopback: all of a daemon that admission needs. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../../node/clock.ts";
import { Cluster } from "../../../node/cluster/cluster.ts";
import { ClusterKeys } from "../../../node/cluster/cluster-keys.ts";
import { ClusterGossip } from "../../../node/cluster/gossip.ts";
import { requestMembership, serveJoins } from "../../../node/cluster/join.ts";
import { parseToken } from "../../../node/cluster/token.ts";
import type { Identity } from "../../../node/identity.ts";
import { loadOrCreateIdentity } from "../../../node/identity.ts";
import { createLog, type Log } from "../../../node/log.ts";
import { Libp2pNetwork } from "../../../node/network/libp2p-network.ts";

export class ClusterNode {
  readonly name: string;
  readonly folder: string;
  readonly identity: Identity;
  readonly cluster: Cluster;
  readonly keys: ClusterKeys;
  readonly network: Libp2pNetwork;
  readonly lines: string[];
  /** Where it says that bulk bytes go. */
  dataAddresses: readonly string[] = [];
  /** Ahead of the system's clock. */
  static skewMs = 0;

  private constructor(
    parts: Pick<ClusterNode, "name" | "folder" | "identity" | "cluster" | "keys" | "network" | "lines">,
  ) {
    this.name = parts.name;
    this.folder = parts.folder;
    this.identity = parts.identity;
    this.cluster = parts.cluster;
    this.keys = parts.keys;
    this.network = parts.network;
    this.lines = parts.lines;
  }

  static async start(name: string, folder?: string): Promise<ClusterNode> {
    const home = folder ?? (await mkdtemp(join(tmpdir(), "sojourn-cluster-")));
    const lines: string[] = [];
    const log: Log = createLog({ level: "info", sink: (line) => void lines.push(line) });
    const identity = await loadOrCreateIdentity(join(home, "host.key"));
    const clock = { ...systemClock, wallMs: () => systemClock.wallMs() + ClusterNode.skewMs };
    const cluster = await Cluster.load({ file: join(home, "cluster.json"), identity, clock, log });
    const keys = new ClusterKeys(clock, cluster.admission());
    const network = new Libp2pNetwork(
      { privateKey: identity.privateKey, log },
      { role: "control", listen: ["/ip4/127.0.0.1/tcp/0"], keys, gossip: { onOffence: () => undefined } },
    );
    cluster.onChange(() => {
      keys.update(cluster.admission());
      network.recheck();
    });
    await new ClusterGossip({ cluster, keys, network, log }).start();
    await serveJoins(network, { cluster, log });
    await network.start();
    return new ClusterNode({ name, folder: home, identity, cluster, keys, network, lines });
  }

  get id(): string {
    return this.identity.hostId;
  }

  described() {
    return { name: this.name, addresses: { control: this.bare(), data: this.dataAddresses } };
  }

  bare(): string[] {
    return this.network.addresses().map((address) => address.split("/p2p/")[0]!);
  }

  async invite({ uses = 1, expiresMs = 60_000 } = {}): Promise<string> {
    return (await this.cluster.invite({ uses, expiresMs, addresses: this.bare() })).token;
  }

  async join(text: string): Promise<void> {
    const token = parseToken(text);
    const { identity } = this;
    const log = createLog({ level: "info", sink: (line) => void this.lines.push(line) });
    const membership = await requestMembership(token, { identity, log, described: this.described() });
    await this.cluster.adopt(membership, token);
  }

  async stop(): Promise<void> {
    await this.network.stop();
  }

  async remove(): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Resolves when `holds` after a change of the node's cluster. */
export function changed(node: ClusterNode, holds: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (holds()) resolve();
    };
    node.cluster.onChange(look);
    look();
  });
}
