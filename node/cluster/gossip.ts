/**
 * Carries what this host knows of its cluster to the other members and theirs to it. Statements are gossiped when they
 * are made, and judged before they are told on; secrets go from member to member, each to those that it is connected
 * with. Both are compared at every connect and every 30 s with one member at random.
 */

import { ProtocolError } from "../../protocol/errors.ts";
import { decodeExchange, encodeExchange, itemFrames } from "../../protocol/members/exchange.ts";
import type { Log } from "../log.ts";
import type { GossipMessage, GossipVerdict } from "../network/gossip.ts";
import type { KeyedNetwork } from "../network/key-ring.ts";
import type { Connection } from "../network/network.ts";
import { OffenceLog } from "../offence-log.ts";
import type { Cluster, ClusterChange } from "./cluster.ts";
import { type ClusterKeys, MEMBERS_PROTOCOL, SECRETS_PROTOCOL } from "./cluster-keys.ts";
import { Exchange } from "./exchange.ts";
import { encodeSecret } from "./secrets.ts";

const COMPARE_EVERY_MS = 30_000;
/** In one message: an admission has a kilobyte at most. */
const NEWS_SIZE_MAX = 32 << 10;

export type ClusterGossipParts = { cluster: Cluster; keys: ClusterKeys; network: KeyedNetwork; log: Log };

export class ClusterGossip {
  readonly #parts: ClusterGossipParts;
  readonly #members: Exchange;
  readonly #secrets: Exchange;
  readonly #offences: OffenceLog;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: ClusterGossipParts) {
    const { cluster, log } = parts;
    this.#parts = parts;
    this.#offences = new OffenceLog(log, "members");
    this.#members = new Exchange(
      {
        protocol: MEMBERS_PROTOCOL,
        set: () => cluster.list(),
        learn: (items, from) => cluster.learnStatements(items, { from, by: "comparison" }),
      },
      log,
    );
    this.#secrets = new Exchange(
      {
        protocol: SECRETS_PROTOCOL,
        set: () => cluster.secrets(),
        learn: (items, from) => cluster.learnSecrets(items, from),
      },
      log,
    );
  }

  /** Before the network starts: no connection may come before there is somebody to answer on it. */
  async start(): Promise<void> {
    const { cluster, network } = this.#parts;
    await this.#members.serve(network);
    await this.#secrets.serve(network);
    network.gossip.listen(MEMBERS_PROTOCOL, (message) => this.#overhear(message));
    network.onConnection((connection) => {
      // The dialler asks: one comparison for each connection is enough.
      if (connection.direction === "outbound" && this.#isMember(connection)) void this.compare(connection);
    });
    cluster.onChange((change) => this.#spread(change));
    this.#timer = setInterval(() => {
      const connections = this.#connections();
      const any = connections[Math.floor(Math.random() * connections.length)];
      if (any !== undefined) void this.compare(any);
    }, COMPARE_EVERY_MS);
    this.#timer.unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
  }

  /** Resolves also when it failed: the next one repairs that. */
  async compare(connection: Connection): Promise<void> {
    for (const exchange of [this.#members, this.#secrets]) {
      await exchange.run(connection).catch((error: unknown) => this.#failed(connection, error));
    }
  }

  #spread({ news, secrets, from }: ClusterChange): void {
    const { cluster, network } = this.#parts;
    for (const frame of itemFrames(news, { sizeMax: NEWS_SIZE_MAX })) {
      network.gossip.publish(MEMBERS_PROTOCOL, encodeExchange(frame));
    }
    const newest = cluster.secrets()?.all()[0];
    if (!secrets || newest === undefined) return;
    for (const connection of this.#connections()) {
      if (connection.peer === from) continue;
      const failed = (error: unknown): void => this.#failed(connection, error);
      this.#secrets.push(connection, [encodeSecret(newest)]).catch(failed);
    }
  }

  /** A statement proves itself, so it does not matter who publishes it. */
  async #overhear({ author, from, data }: GossipMessage): Promise<GossipVerdict> {
    const { cluster } = this.#parts;
    const items = itemsOf(data);
    if (items === undefined) {
      this.#offences.note(author, "malformed", { broughtBy: from });
      return "reject";
    }
    const { added } = await cluster.learnStatements(items, { from, by: "gossip" });
    return added > 0 ? "accept" : "ignore";
  }

  /** One connection for each member. */
  #connections(): Connection[] {
    const byPeer = new Map<string, Connection>();
    for (const connection of this.#parts.network.connections()) {
      if (this.#isMember(connection)) byPeer.set(connection.peer, connection);
    }
    return [...byPeer.values()];
  }

  #isMember(connection: Connection): boolean {
    const key = this.#parts.network.keyOf(connection);
    return key !== undefined && this.#parts.keys.isMemberKey(key);
  }

  #failed({ peer }: Connection, error: unknown): void {
    this.#parts.log.debug("members were not compared", { peer, reason: (error as Error).message });
  }
}

function itemsOf(data: Uint8Array): readonly Uint8Array[] | undefined {
  try {
    const frame = decodeExchange(data);
    return frame.type === "items" ? frame.items : undefined;
  } catch (error) {
    if (error instanceof ProtocolError) return undefined;
    throw error;
  }
}
