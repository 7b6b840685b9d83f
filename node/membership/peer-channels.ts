/**
 * One long-lived channel with each host for one protocol of gossip: opened when there is something to say, read
 * whoever opened it. Nothing here waits for a host and nothing grows with one: what it does not take in time is
 * dropped, and gossip repairs that.
 */

import type { Log } from "../log.ts";
import { NetworkError } from "../network/errors.ts";
import type { Channel, Network } from "../network/network.ts";
import type { Links } from "./links.ts";

export type PeerChannelsParts = { network: Network; links: Links; log: Log };

export type PeerChannelsOptions = {
  protocol: string;
  /** Whoever is none is not listened to. */
  isMember(host: string): boolean;
  /** A frame that throws ends the channel that it came on, and its host is named in the log. */
  onFrame(host: string, frame: Uint8Array): void;
  /** There is a channel where there was none. */
  onOpen(host: string): void;
  /** The channel was lost, or none could be opened. */
  onLost(host: string): void;
  openTimeoutMs: number;
  /** More from one host in a second is dropped. */
  framesPerSecondMax: number;
  /** What waits for a host that is being dialled, or that takes nothing. The oldest goes first. */
  queueFramesMax: number;
  queueSizeMax: number;
};

type Peer = {
  channel: Channel | undefined;
  isPumping: boolean;
  queue: Uint8Array[];
  queuedSize: number;
  second: number;
  frames: number;
};

export class PeerChannels {
  readonly #parts: PeerChannelsParts;
  readonly #options: PeerChannelsOptions;
  readonly #peers = new Map<string, Peer>();
  readonly #stopped = new AbortController();

  constructor(parts: PeerChannelsParts, options: PeerChannelsOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** Before the network starts. */
  async serve(): Promise<void> {
    await this.#parts.network.handle(this.#options.protocol, async (channel) => {
      if (!this.#options.isMember(channel.peer)) throw new Error("not a member");
      this.#adopt(channel);
      await this.#read(channel).catch((error: unknown) => {
        // Hosts come and go; only what they say wrong is worth a line.
        if (!(error instanceof NetworkError) && !this.#stopped.signal.aborted) throw error;
      });
    });
  }

  /** May be lost. */
  send(host: string, frame: Uint8Array): void {
    if (this.#stopped.signal.aborted || !this.#options.isMember(host)) return;
    const peer = this.#peerOf(host);
    if (peer.channel === undefined && !peer.isPumping && !this.#isReachable(host)) return;
    peer.queue.push(frame);
    peer.queuedSize += frame.length;
    const { queueFramesMax, queueSizeMax } = this.#options;
    while (peer.queue.length > queueFramesMax || peer.queuedSize > queueSizeMax) {
      peer.queuedSize -= peer.queue.shift()?.length ?? 0;
    }
    if (!peer.isPumping) void this.#pump(host, peer);
  }

  isOpen(host: string): boolean {
    return this.#peers.get(host)?.channel !== undefined;
  }

  /** Gives up what waits, and the channel. */
  drop(host: string): void {
    const peer = this.#peers.get(host);
    if (peer === undefined) return;
    clear(peer);
    peer.channel?.abort(new Error("given up"));
    peer.channel = undefined;
  }

  stop(): void {
    this.#stopped.abort(new Error("this host stops"));
    for (const { channel } of this.#peers.values()) void channel?.close().catch(() => undefined);
    this.#peers.clear();
  }

  #isReachable(host: string): boolean {
    const { links } = this.#parts;
    return links.existing(host, this.#options.protocol) !== undefined || links.isDue(host);
  }

  /** Sends what waits, one frame after the other; never rejects. */
  async #pump(host: string, peer: Peer): Promise<void> {
    peer.isPumping = true;
    try {
      while (peer.queue.length > 0) {
        const channel = peer.channel ?? (await this.#open(host));
        const frame = peer.queue.shift();
        if (frame === undefined) continue;
        peer.queuedSize -= frame.length;
        await channel.send(frame, this.#stopped.signal);
      }
    } catch (error) {
      clear(peer);
      if (this.#stopped.signal.aborted) return;
      this.#parts.log.debug("peer is not told", { peer: host, reason: (error as Error).message });
      if (peer.channel === undefined) this.#options.onLost(host);
    } finally {
      peer.isPumping = false;
    }
  }

  async #open(host: string): Promise<Channel> {
    const { protocol, openTimeoutMs } = this.#options;
    const signal = AbortSignal.any([AbortSignal.timeout(openTimeoutMs), this.#stopped.signal]);
    const connection = await this.#parts.links.connect(host, protocol, signal);
    const known = this.#peers.get(host)?.channel;
    if (known !== undefined) return known;
    const channel = await connection.open(protocol, signal);
    void this.#read(channel).catch(() => undefined);
    this.#adopt(channel);
    return channel;
  }

  #adopt(channel: Channel): void {
    const peer = this.#peerOf(channel.peer);
    if (peer.channel !== undefined) return;
    peer.channel = channel;
    this.#options.onOpen(channel.peer);
  }

  /** Until it ends, for whatever reason. Rejects when the peer said something wrong. */
  async #read(channel: Channel): Promise<void> {
    const host = channel.peer;
    try {
      for await (const frame of channel.frames(this.#stopped.signal)) {
        if (this.#isFlood(host)) continue;
        this.#options.onFrame(host, frame);
      }
      await channel.close(AbortSignal.timeout(this.#options.openTimeoutMs));
    } catch (error) {
      channel.abort(error instanceof Error ? error : new Error(String(error)));
      throw error;
    } finally {
      const peer = this.#peers.get(host);
      if (peer?.channel === channel) {
        peer.channel = undefined;
        if (!this.#stopped.signal.aborted) this.#options.onLost(host);
      }
    }
  }

  #isFlood(host: string): boolean {
    const peer = this.#peerOf(host);
    const second = Math.floor(performance.now() / 1000);
    if (peer.second !== second) {
      peer.second = second;
      peer.frames = 0;
    }
    peer.frames += 1;
    const { framesPerSecondMax, protocol } = this.#options;
    if (peer.frames === framesPerSecondMax + 1) {
      this.#parts.log.warn("a member floods this host", { peer: host, protocol });
    }
    return peer.frames > framesPerSecondMax;
  }

  #peerOf(host: string): Peer {
    const known = this.#peers.get(host);
    if (known !== undefined) return known;
    const peer: Peer = {
      channel: undefined,
      isPumping: false,
      queue: [],
      queuedSize: 0,
      second: 0,
      frames: 0,
    };
    this.#peers.set(host, peer);
    return peer;
  }
}

function clear(peer: Peer): void {
  peer.queue = [];
  peer.queuedSize = 0;
}
