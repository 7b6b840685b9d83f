/**
 * `Gossip` over @libp2p/gossipsub, among hosts that were admitted and nobody else.
 *
 * gossipsub is made for open networks, and some of its ways would silently deliver nothing here; each has a test.
 *
 *   - It holds a dozen hosts behind one address for one attacker: the weight of that is 0.
 *   - It learns of a peer from libp2p's identify, and opens its stream to a peer once for all connections: lost with
 *     one of two connections, it is never opened again. So it gets its peers from us (`GossipRegistrar`), and again
 *     every few seconds those to which it has no stream.
 *   - When the stream from a peer breaks it forgets the peer and stops to read whatever other stream that has opened
 *     meanwhile, and the peer goes on sending into it. So a stream whose reader has closed its own side is given up.
 *   - A message that is published while nobody is connected throws: `allowPublishToZeroTopicPeers`.
 *   - A fresh mesh takes a heartbeat to form: what a host says itself goes to all that it is connected with
 *     (`floodPublish`), and only what others said follows the mesh.
 *
 * It has no limits on how much a peer may send: `RpcBudget` is that.
 */

import {
  type GossipSub,
  type GossipSubComponents,
  type GossipsubOpts,
  gossipsub,
  type Message,
  TopicValidatorResult,
} from "@libp2p/gossipsub";
import type { Connection, PeerId, Stream, StreamHandler, Topology } from "@libp2p/interface";
import { assert } from "../../protocol/errors.ts";
import { GOSSIP_DATA_SIZE_MAX, type Gossip, type GossipJudge, type GossipVerdict } from "./gossip.ts";
import type { NetworkLog } from "./libp2p-network.ts";
import type { HostId } from "./network.ts";
import { RPC_LIMITS, RpcBudget } from "./rpc-budget.ts";

export type GossipOptions = {
  /** Names who does what no honest host does. */
  onOffence(peer: HostId, kind: "flood" | "oversized" | "ignored", detail: Record<string, unknown>): void;
};

export type GossipsubParts = {
  log: NetworkLog;
  /** Why there is to be no gossip on that connection. */
  refusal(connection: Connection): string | undefined;
  cut(connection: Connection, reason: string): void;
};

/** The one version that all hosts of a cluster speak: a stream of it is open without a round trip. */
const PROTOCOL = "/meshsub/1.2.0";
const ATTACH_EVERY_MS = 3_000;
const ATTACH_AFTER_MS = 50;
const OPEN_TIMEOUT_MS = 2_000;
/** A peer whose score is below is not listened to: nine messages that no honest host passes on, within minutes. */
const GRAYLIST_SCORE = -80;

export class GossipsubGossip implements Gossip {
  readonly #parts: GossipsubParts;
  readonly #options: GossipOptions;
  readonly #judges = new Map<string, GossipJudge>();
  readonly #registrar: GossipRegistrar;
  #pubsub: GossipSub | undefined;

  constructor(parts: GossipsubParts, options: GossipOptions) {
    this.#parts = parts;
    this.#options = options;
    this.#registrar = new GossipRegistrar(parts, options);
  }

  listen(topic: string, judge: GossipJudge): void {
    assert(this.#pubsub === undefined, "topics are known before the network starts");
    assert(!this.#judges.has(topic), `two judges of ${topic}`);
    this.#judges.set(topic, judge);
  }

  publish(topic: string, data: Uint8Array): void {
    assert(data.byteLength <= GOSSIP_DATA_SIZE_MAX, "a message over its size");
    this.#pubsub?.publish(topic, data).catch((error: unknown) => {
      this.#parts.log.debug("not published", { topic, reason: (error as Error).message });
    });
  }

  /** For libp2p. */
  service() {
    return (components: GossipSubComponents): GossipSub => {
      const make = gossipsub(settings([...this.#judges.keys()]));
      const { privateKey, peerId, peerStore, connectionManager, logger } = components;
      this.#registrar.under(components.registrar);
      const registrar = this.#registrar as unknown as GossipSubComponents["registrar"];
      const pubsub = make({ privateKey, peerId, peerStore, connectionManager, logger, registrar });
      pubsub.protocols = [PROTOCOL];
      for (const [topic, judge] of this.#judges) {
        pubsub.topicValidators.set(topic, (from, message) => this.#verdict(judge, { from, message }));
      }
      pubsub.addEventListener("gossipsub:heartbeat", () => this.#nameIgnored(pubsub));
      this.#pubsub = pubsub;
      return pubsub;
    };
  }

  /** When libp2p has started. */
  start(): void {
    for (const topic of this.#judges.keys()) this.#pubsub?.subscribe(topic);
    this.#registrar.start();
  }

  stop(): void {
    this.#registrar.stop();
  }

  opened(connection: Connection): void {
    this.#registrar.opened(connection);
  }

  async #verdict(
    judge: GossipJudge,
    { from, message }: { from: PeerId; message: Message },
  ): Promise<TopicValidatorResult> {
    if (message.type !== "signed" || message.data.byteLength > GOSSIP_DATA_SIZE_MAX) {
      return TopicValidatorResult.Reject;
    }
    const { data, from: author } = message;
    try {
      return RESULT[await judge({ author: author.toString(), from: from.toString(), data })];
    } catch (error) {
      this.#parts.log.warn("gossip was not judged", { peer: from.toString(), error });
      return TopicValidatorResult.Ignore;
    }
  }

  #nameIgnored(pubsub: GossipSub): void {
    for (const peer of pubsub.getPeers()) {
      const score = (pubsub as ScoredPubsub).score.score(peer.toString());
      if (score >= GRAYLIST_SCORE) continue;
      const reason = "it brought messages that no honest host passes on";
      this.#options.onOffence(peer.toString(), "ignored", { reason });
    }
  }
}

/** What gossipsub has beyond its public interface. */
type ScoredPubsub = GossipSub & { score: { score(peer: string): number } };

const RESULT: Record<GossipVerdict, TopicValidatorResult> = {
  accept: TopicValidatorResult.Accept,
  ignore: TopicValidatorResult.Ignore,
  reject: TopicValidatorResult.Reject,
};

/**
 * libp2p's registrar as gossipsub sees it: inbound streams pass a check of their connection and get a budget, and
 * peers are those that we hand out.
 */
class GossipRegistrar {
  readonly #parts: GossipsubParts;
  readonly #options: GossipOptions;
  readonly #budgets = new Map<HostId, RpcBudget>();
  readonly #connections = new Map<HostId, Set<Connection>>();
  #real: GossipSubComponents["registrar"] | undefined;
  #topology: Topology | undefined;
  #attaching: NodeJS.Timeout | undefined;

  constructor(parts: GossipsubParts, options: GossipOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  under(real: GossipSubComponents["registrar"]): void {
    this.#real = real;
  }

  start(): void {
    this.#attaching = setInterval(() => this.#attachAll(), ATTACH_EVERY_MS);
    this.#attaching.unref();
    this.#attachAll();
  }

  stop(): void {
    clearInterval(this.#attaching);
  }

  async handle(protocol: string, handler: StreamHandler, limits?: object): Promise<void> {
    await this.#real?.handle(
      protocol,
      (stream, connection) => {
        const reason = this.#parts.refusal(connection);
        if (reason !== undefined) return this.#parts.cut(connection, reason);
        this.#govern(stream, connection);
        return handler(stream, bounded(connection));
      },
      limits,
    );
  }

  async unhandle(protocol: string): Promise<void> {
    await this.#real?.unhandle(protocol);
  }

  async register(_protocol: string, topology: Topology): Promise<string> {
    this.#topology = topology;
    return "ours";
  }

  unregister(_id: string): void {
    this.#topology = undefined;
  }

  opened(connection: Connection): void {
    if (this.#parts.refusal(connection) !== undefined) return;
    const peer = connection.remotePeer.toString();
    const all = this.#connections.get(peer) ?? new Set();
    this.#connections.set(peer, all.add(connection));
    connection.addEventListener("close", () => this.#closed(connection), { once: true });
    this.#attach(connection);
  }

  #closed(connection: Connection): void {
    const peer = connection.remotePeer.toString();
    const rest = this.#connections.get(peer);
    rest?.delete(connection);
    if (rest === undefined) return;
    if (rest.size > 0) {
      // When gossipsub has noticed as well.
      setTimeout(() => this.#keepAttached(rest), ATTACH_AFTER_MS).unref();
      return;
    }
    this.#connections.delete(peer);
    void this.#topology?.onDisconnect?.(connection.remotePeer);
  }

  #attachAll(): void {
    for (const all of this.#connections.values()) this.#keepAttached(all);
  }

  #keepAttached(all: ReadonlySet<Connection>): void {
    const streams = [...all].flatMap((connection) => connection.streams.filter(isOutboundGossip));
    const unread = streams.filter(({ remoteWriteStatus }) => remoteWriteStatus === "closed");
    for (const stream of unread) stream.abort(new Error("the peer does not read it any more"));
    const any = [...all].find(({ status }) => status === "open");
    if (streams.length === unread.length && any !== undefined) this.#attach(any);
  }

  #attach(connection: Connection): void {
    if (connection.status !== "open") return;
    void this.#topology?.onConnect?.(connection.remotePeer, bounded(connection));
  }

  #govern(stream: Stream, connection: Connection): void {
    const peer = connection.remotePeer.toString();
    const budget = this.#budgets.get(peer) ?? new RpcBudget();
    this.#budgets.set(peer, budget);
    budget.govern(stream, {
      onOversized: (sizeBytes) => {
        this.#options.onOffence(peer, "oversized", { sizeBytes });
        this.#parts.cut(connection, `a message of ${sizeBytes} octets`);
      },
      onFlood: () => this.#options.onOffence(peer, "flood", { reason: "it gossips more than it may" }),
    });
  }
}

/** gossipsub opens its streams one after the other: one that hangs must not hold up the rest. */
function bounded(connection: Connection): Connection {
  const newStream: Connection["newStream"] = (protocols, options) =>
    connection.newStream(protocols, { ...options, signal: AbortSignal.timeout(OPEN_TIMEOUT_MS) });
  return Object.create(connection, { newStream: { value: newStream } }) as Connection;
}

function isOutboundGossip({ protocol, direction, status }: Stream): boolean {
  return protocol === PROTOCOL && direction === "outbound" && status === "open";
}

function settings(topics: readonly string[]): Partial<GossipsubOpts> {
  return {
    globalSignaturePolicy: "StrictSign",
    allowPublishToZeroTopicPeers: true,
    ignoreDuplicatePublishError: true,
    fallbackToFloodsub: false,
    floodPublish: true,
    // One encoding for all receivers.
    batchPublish: true,
    emitSelf: false,
    doPX: false,
    tagMeshPeers: false,
    // "Do not send me that" to every neighbour costs more than a small message that comes twice.
    idontwantMinDataSize: 8 << 10,
    ...{ D: 6, Dlo: 4, Dhi: 12, Dlazy: 6 },
    allowedTopics: [...topics],
    // The signature stands for the message: of a copy it is checked no second time.
    fastMsgIdFn: ({ signature }) => Buffer.from(signature ?? []).toString("latin1"),
    maxInboundDataLength: RPC_LIMITS.rpcSizeMax,
    // What a peer does not take: then its stream is reset, and attached anew.
    maxOutboundBufferSize: 4 << 20,
    maxInboundStreams: 4,
    maxOutboundStreams: 4,
    decodeRpcLimits: {
      maxSubscriptions: 16,
      maxMessages: 64,
      maxIhaveMessageIDs: 1_000,
      maxIwantMessageIDs: 1_000,
      maxIdontwantMessageIDs: 512,
      maxControlMessages: 32,
      maxPeerInfos: 0,
    },
    scoreThresholds: { gossipThreshold: -20, publishThreshold: -40, graylistThreshold: GRAYLIST_SCORE },
    scoreParams: {
      IPColocationFactorWeight: 0,
      // A host that stood still for a minute has promised messages that it did not send: no offence.
      behaviourPenaltyWeight: 0,
      topics: Object.fromEntries(topics.map((topic) => [topic, TOPIC_SCORE])),
    },
  };
}

/** Only what is provably wrong counts: in a cluster a slow host is no bad one. */
const TOPIC_SCORE = {
  topicWeight: 1,
  timeInMeshWeight: 0,
  timeInMeshQuantum: 1,
  timeInMeshCap: 1,
  firstMessageDeliveriesWeight: 0,
  firstMessageDeliveriesDecay: 0.5,
  firstMessageDeliveriesCap: 1,
  meshMessageDeliveriesWeight: 0,
  meshMessageDeliveriesDecay: 0.5,
  meshMessageDeliveriesCap: 1,
  meshMessageDeliveriesThreshold: 1,
  meshMessageDeliveriesWindow: 0,
  meshMessageDeliveriesActivation: 1000,
  meshFailurePenaltyWeight: 0,
  meshFailurePenaltyDecay: 0.5,
  invalidMessageDeliveriesWeight: -1,
  // Half of it is forgotten in a minute.
  invalidMessageDeliveriesDecay: 0.988,
};
