/**
 * A `Network` over libp2p: TCP, Noise or TLS, yamux.
 *
 * libp2p is made for open networks of many strangers; a cluster is few hosts that stream for minutes. The
 * settings below say which of its defaults would break that, and the tests of this folder show each of them.
 */

import { type Identify, identify } from "@libp2p/identify";
import type { Connection as Libp2pStreams, PrivateKey, Stream } from "@libp2p/interface";
import { mdns } from "@libp2p/mdns";
import { peerIdFromPrivateKey } from "@libp2p/peer-id";
import { type Ping, ping } from "@libp2p/ping";
import { CODE_P2P, type Multiaddr, multiaddr } from "@multiformats/multiaddr";
import { createLibp2p, type Libp2p } from "libp2p";
import { assert } from "../../protocol/errors.ts";
import { Admission, type AdmissionOptions } from "./admission.ts";
import { boundedYamux } from "./bounded-yamux.ts";
import type { StreamChannelOptions } from "./channel.ts";
import { countedTcp } from "./counted-tcp.ts";
import { dialFailure } from "./dial-failure.ts";
import { NetworkError } from "./errors.ts";
import { GOSSIP_ADMISSION, type Gossip } from "./gossip.ts";
import { type GossipOptions, GossipsubGossip, type GossipsubParts } from "./gossipsub.ts";
import type { AdmissionKey, KeyedNetwork, KeyRing } from "./key-ring.ts";
import { keyOf } from "./keyed-admission.ts";
import { CHANNELS_MAX, Libp2pConnection } from "./libp2p-connection.ts";
import type { ChannelHandler, Connection, HostId, Network } from "./network.ts";
import { Turns } from "./turns.ts";

/**
 * The receive window of every stream, from its first byte: 4 MiB keep 10 Gbit/s busy over 3 ms.
 *
 * A constant of the cluster and no option: yamux announces no window, each side assumes its own to be the
 * peer's, and a difference ends the whole connection. It does not grow either: a paused stream may receive a
 * whole window more, and above the read buffer libp2p resets it.
 */
export const STREAM_WINDOW_SIZE = 4 << 20;
const READ_BUFFER_SIZE_MAX = 2 * STREAM_WINDOW_SIZE;

export type NetworkLog = {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
};

/** `role`: one process each. `control` gossips and answers, `data` moves bulk bytes. */
export type Libp2pNetworkOptions = AdmissionOptions & {
  /** Multiaddrs, e.g. /ip4/0.0.0.0/tcp/4701; port 0 lets the system choose. Empty: only dials. */
  listen: readonly string[];
  /** Multiaddrs to tell others instead, e.g. behind a port forward. Empty: nobody can dial this host. */
  announce?: readonly string[];
  /** Says on the local network where this host listens, and hears it of others. */
  mdns?: { onFound(peer: HostId, addresses: readonly string[]): void };
  channel?: StreamChannelOptions;
  dialTimeoutMs?: number;
  closeTimeoutMs?: number;
  /** Without it this network carries no gossip. */
  gossip?: GossipOptions;
};

type Services = { identify: Identify; ping: Ping };

export class Libp2pNetwork implements KeyedNetwork {
  readonly self: HostId;

  readonly #privateKey: PrivateKey;
  readonly #log: NetworkLog;
  readonly #options: Libp2pNetworkOptions;
  readonly #dialTimeoutMs: number;
  readonly #handlers = new Map<string, ChannelHandler>();
  readonly #connections = new Map<Libp2pStreams, Libp2pConnection>();
  /** By peer; as many as this host ever dialled. */
  readonly #dials = new Map<string, Turns>();
  readonly #admission: Admission;
  readonly #onConnection = new Set<(connection: Connection) => void>();
  readonly #gossip: GossipsubGossip | undefined;
  #node: Libp2p<Services> | undefined;
  #stopping: Promise<void> | undefined;

  constructor(
    { privateKey, log }: { privateKey: PrivateKey; log: NetworkLog },
    options: Libp2pNetworkOptions,
  ) {
    this.#privateKey = privateKey;
    this.#log = log;
    this.#options = options;
    this.#admission = new Admission(log, options);
    this.#dialTimeoutMs = options.dialTimeoutMs ?? 10_000;
    this.self = peerIdFromPrivateKey(privateKey).toString();
    const gossiped: GossipsubParts = {
      log,
      refusal: (streams) => this.#admission.refusal(streams, GOSSIP_ADMISSION),
      cut: (streams, reason) => this.#cut(this.#connectionOf(streams), reason),
    };
    this.#gossip = options.gossip === undefined ? undefined : new GossipsubGossip(gossiped, options.gossip);
  }

  get gossip(): Gossip {
    assert(this.#gossip !== undefined, "a network without gossip");
    return this.#gossip;
  }

  addresses(): readonly string[] {
    if (this.#options.announce?.length === 0) return [];
    return this.#node?.getMultiaddrs().map(String) ?? [];
  }

  connections(): readonly Connection[] {
    return [...this.#connections.values()];
  }

  onConnection(listener: (connection: Connection) => void): void {
    this.#onConnection.add(listener);
  }

  keyOf(connection: Connection): AdmissionKey | undefined {
    return connection instanceof Libp2pConnection ? keyOf(connection) : undefined;
  }

  recheck(): void {
    for (const [streams, connection] of [...this.#connections]) {
      const reason = this.#admission.refusal(streams);
      if (reason !== undefined) this.#cut(connection, reason);
    }
  }

  async start(): Promise<void> {
    assert(this.#node === undefined, "a network starts once");
    const node = await this.#createNode();
    this.#node = node;
    node.addEventListener("connection:open", ({ detail }) => {
      const connection = this.#connectionOf(detail);
      this.#gossip?.opened(detail);
      for (const listener of this.#onConnection) listener(connection);
    });
    node.addEventListener("peer:discovery", ({ detail: { id, multiaddrs } }) => {
      this.#options.mdns?.onFound(id.toString(), multiaddrs.map(String));
    });
    for (const [protocol, handler] of this.#handlers) await this.#register(node, protocol, handler);
    try {
      await node.start();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const addresses = this.#options.listen.join(" ");
      throw new NetworkError({ code: "NETWORK_LISTEN_FAILED", addresses, reason }, { cause: error });
    }
    this.#gossip?.start();
    this.#log.info("network started", { role: this.#options.role, addresses: this.addresses() });
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async handle(protocol: string, handler: ChannelHandler): Promise<void> {
    assert(!this.#handlers.has(protocol), `two handlers of ${protocol}`);
    this.#handlers.set(protocol, handler);
    if (this.#node !== undefined) await this.#register(this.#node, protocol, handler);
  }

  async dial(address: string, signal?: AbortSignal): Promise<Connection> {
    const target = parse(address);
    const key = peerIn(target) ?? address;
    // libp2p merges dials of one peer that run at the same time, `force` or not: one after the other.
    const turns = this.#dials.get(key) ?? new Turns();
    this.#dials.set(key, turns);
    return turns.run(() => this.#dialOnce(target, signal), signal);
  }

  async #dialOnce(target: Multiaddr, signal: AbortSignal | undefined): Promise<Connection> {
    signal?.throwIfAborted();
    const node = this.#node;
    if (node === undefined || this.#stopping !== undefined) {
      throw new NetworkError({ code: "NETWORK_CLOSED", peer: this.self, what: "network" });
    }
    const address = target.toString();
    const timeout = AbortSignal.timeout(this.#dialTimeoutMs);
    const bounded = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
    try {
      const connection = this.#connectionOf(await node.dial(target, { force: true, signal: bounded }));
      await this.#admitted(connection, address, bounded);
      return connection;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof NetworkError) throw error;
      if (timeout.aborted) {
        const reason = `no answer within ${this.#dialTimeoutMs} ms`;
        throw new NetworkError({ code: "NETWORK_UNREACHABLE", address, reason }, { cause: error });
      }
      throw dialFailure(error, address);
    }
  }

  /** A dialler is done before the other side has looked at its identity: only an answer proves admission. */
  async #admitted(connection: Libp2pConnection, address: string, signal: AbortSignal): Promise<void> {
    try {
      await connection.ping(signal);
    } catch (error) {
      connection.abort(new Error("not admitted"));
      if (signal.aborted) throw signal.reason;
      const reason = "closed by the peer after the handshake";
      throw new NetworkError({ code: "NETWORK_REFUSED", address, reason }, { cause: error });
    }
  }

  async #stop(): Promise<void> {
    this.#gossip?.stop();
    await Promise.all([...this.#connections.values()].map((connection) => connection.close()));
    await this.#node?.stop();
    this.#log.info("network stopped", { role: this.#options.role });
  }

  async #register(node: Libp2p, protocol: string, handler: ChannelHandler): Promise<void> {
    const onStream = (stream: Stream, streams: Libp2pStreams): void => {
      const connection = this.#connectionOf(streams);
      // Before anything else happens: what arrives now needs its reader.
      const channel = connection.adopt(stream);
      const reason = this.#stopping === undefined ? this.#admission.refusal(streams, protocol) : "we stop";
      if (reason !== undefined) {
        this.#cut(connection, reason);
        return;
      }
      runHandler(handler, channel, connection).catch((error: unknown) => {
        this.#log.warn("channel handler failed", { protocol, peer: channel.peer, error });
        channel.abort(error instanceof Error ? error : new Error(String(error)));
      });
    };
    const limits = { maxInboundStreams: CHANNELS_MAX, maxOutboundStreams: CHANNELS_MAX };
    await node.handle(protocol, onStream, limits);
  }

  #connectionOf(streams: Libp2pStreams): Libp2pConnection {
    let connection = this.#connections.get(streams);
    if (connection === undefined) {
      const { channel = {}, closeTimeoutMs = 10_000 } = this.#options;
      connection = new Libp2pConnection(streams, { channel, closeTimeoutMs });
      if (streams.status === "open") {
        this.#connections.set(streams, connection);
        streams.addEventListener("close", () => this.#connections.delete(streams), { once: true });
      }
    }
    return connection;
  }

  #cut(connection: Libp2pConnection, reason: string): void {
    this.#admission.log({ peer: connection.peer, reason });
    connection.abort(new Error(`no longer admitted: ${reason}`));
  }

  #createNode(): Promise<Libp2p<Services>> {
    const { listen, announce = [], mdns: discovery } = this.#options;
    for (const address of [...listen, ...announce]) parse(address);
    return createLibp2p<Services>({
      start: false,
      privateKey: this.#privateKey,
      addresses: { listen: [...listen], announce: [...announce] },
      transports: [
        countedTcp({
          ...TCP,
          onUpgradeFailed: (raw, error) => this.#admission.outboundFailure(raw, error),
          onInboundFailed: (raw, error) => this.#admission.inboundFailed(raw, error),
        }),
      ],
      connectionEncrypters: this.#admission.encrypters(),
      streamMuxers: [boundedYamux(YAMUX, STREAM_WINDOW_SIZE)],
      connectionGater: this.#admission.gater(() => this.#stopping !== undefined),
      peerDiscovery: discovery === undefined ? [] : [mdns({ serviceTag: MDNS_SERVICE })],
      // It pings, waits behind the bulk bytes for the answer, and aborts the busiest connections first.
      connectionMonitor: { enabled: false },
      connectionManager: {
        maxConnections: 4096,
        // By source address and second; a cluster behind one address dials at once after a power cut.
        inboundConnectionThreshold: 1000,
        maxIncomingPendingConnections: 200,
        dialTimeout: this.#dialTimeoutMs,
        addressDialTimeout: this.#dialTimeoutMs,
      },
      services: {
        identify: identify(),
        ping: ping({ maxInboundStreams: 64, maxOutboundStreams: 64 }),
        ...(this.#gossip === undefined ? {} : { gossip: this.#gossip.service() }),
      },
    });
  }
}

/** A network that nobody can dial, under keys of its own: for one question, beside whatever else runs here. */
export function dialOnlyNetwork(parts: { privateKey: PrivateKey; log: NetworkLog }, keys: KeyRing): Network {
  return new Libp2pNetwork(parts, { role: "control", listen: [], keys });
}

/** Other programs of this machine's network have other names. */
const MDNS_SERVICE = "_sojourn._udp.local";

/** noDelay is tcp's default. Without traffic the system probes: a host that lost power is noticed in 25 s. */
const TCP = {
  inboundSocketInactivityTimeout: 0,
  outboundSocketInactivityTimeout: 0,
  dialOpts: { keepAlive: true, keepAliveInitialDelay: 15_000 },
  listenOpts: { keepAlive: true, keepAliveInitialDelay: 15_000 },
};

const YAMUX = {
  // The system probes (above), and membership does. Pings between all hosts, twice a minute, cost a cluster of twenty a
  // quarter of what it does at rest, and end no connection that does not answer.
  enableKeepAlive: false,
  maxInboundStreams: CHANNELS_MAX,
  maxOutboundStreams: CHANNELS_MAX,
  /** Streams that arrive before the inbound side has finished its own set-up; above it ends the connection. */
  maxEarlyStreams: CHANNELS_MAX,
  streamOptions: {
    initialStreamWindowSize: STREAM_WINDOW_SIZE,
    maxStreamWindowSize: STREAM_WINDOW_SIZE,
    maxReadBufferLength: READ_BUFFER_SIZE_MAX,
  },
};

async function runHandler(handler: ChannelHandler, ...channel: Parameters<ChannelHandler>): Promise<void> {
  await handler(...channel);
}

function parse(address: string): Multiaddr {
  try {
    return multiaddr(address);
  } catch (error) {
    throw new NetworkError({ code: "NETWORK_BAD_ADDRESS", address }, { cause: error });
  }
}

function peerIn(address: Multiaddr): HostId | undefined {
  return address.getComponents().findLast((component) => component.code === CODE_P2P)?.value;
}
