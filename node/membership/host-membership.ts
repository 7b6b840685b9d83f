/**
 * Membership as a running daemon has it: gives the state machine of `protocol/membership` the network, the clock and
 * this host's key, and tells the rest of the daemon what it believes.
 *
 * What is believed here starts nothing: *suspect* is shown, *dead* removes a target.
 */

import { ProtocolError } from "../../protocol/errors.ts";
import type { MembershipConfig } from "../../protocol/membership/config.ts";
import {
  ADDRESS_LENGTH_MAX,
  ADDRESSES_MAX,
  HOST_NAME_LENGTH_MAX,
  MEMBERSHIP_PROTOCOL,
} from "../../protocol/membership/limits.ts";
import {
  initial,
  type MembershipContext,
  type MembershipEffect,
  type MembershipEvent,
  type MembershipState,
  step,
} from "../../protocol/membership/membership.ts";
import type { HostDescription, MemberStatus } from "../../protocol/membership/messages.ts";
import { decodeMessage, encodeMessage } from "../../protocol/membership/wire.ts";
import type { Clock } from "../clock.ts";
import type { HostSigner, HostVerifier } from "../host-signer.ts";
import type { Log } from "../log.ts";
import type { Network } from "../network/network.ts";
import { OffenceLog } from "../offence-log.ts";
import { readIncarnation, writeIncarnation } from "./incarnation-file.ts";
import type { Links } from "./links.ts";
import { PeerChannels } from "./peer-channels.ts";

export type HostMembershipParts = {
  self: string;
  network: Network;
  links: Links;
  clock: Clock;
  log: Log;
  sign: HostSigner;
  verify: HostVerifier;
  /** What this host says of itself now. */
  describe(): Promise<HostDescription>;
};

export type HostMembershipOptions = { config: MembershipConfig; incarnationFile: string };

/** A member as this host believes it. */
export type MemberView = {
  host: string;
  name: string;
  status: MemberStatus;
  incarnation: number;
  addresses: readonly string[];
  freeBytes: number;
  domainCount: number;
  rttMs: number | undefined;
  /** Who says that it is suspect or dead. */
  accusers: readonly string[];
  /** Since when this host believes the status, and when it last heard the host itself; by `clock.nowMs()`. */
  sinceMs: number;
  heardAtMs: number | undefined;
};

export type MembershipChange = { host: string; from: MemberStatus | undefined; to: MemberStatus | undefined };

/** At a start, and every so often, hosts of the member list that never were heard of are asked. */
const SEEDS_AT_ONCE = 3;
const SEEK_EVERY_MS = 2_000;
const SEEK_SOON_MS = 1_000;
/** What this host says of itself is looked at this often, and said when it changed enough. */
const DESCRIBE_EVERY_MS = 10_000;
const FREE_BYTES_STEP = 0.05;
const FUTURE_INCARNATION_MS = 24 * 60 * 60_000;
/** A cluster at rest sends a host a few in a second, and in a storm a few of each host. */
const FRAMES_PER_SECOND_MAX = 500;

export class HostMembership {
  readonly #parts: HostMembershipParts;
  readonly #options: HostMembershipOptions;
  readonly #state: MembershipState;
  readonly #channels: PeerChannels;
  readonly #offences: OffenceLog;
  readonly #timers = new Map<string, NodeJS.Timeout>();
  readonly #heard = new Map<string, number>();
  readonly #listeners = new Set<(change: MembershipChange) => void>();
  readonly #left = Promise.withResolvers<void>();
  #members: ReadonlySet<string> = new Set();
  #described: HostDescription | undefined;
  #intervals: NodeJS.Timeout[] = [];
  #seeking: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  #isStopped = false;

  constructor(parts: HostMembershipParts, options: HostMembershipOptions) {
    const { self, network, links, log } = parts;
    const { config } = options;
    this.#parts = parts;
    this.#options = options;
    this.#state = initial({ self, config });
    this.#offences = new OffenceLog(log, "membership");
    this.#channels = new PeerChannels(
      { network, links, log },
      {
        protocol: MEMBERSHIP_PROTOCOL,
        isMember: (host) => this.#members.has(host),
        onFrame: (host, frame) => this.#receive(host, frame),
        onOpen: (host) => this.#step({ type: "connected", host }),
        onLost: (host) => this.#step({ type: "unreachable", host }),
        openTimeoutMs: 2 * config.probeIntervalMs + config.probeTimeoutMs,
        framesPerSecondMax: FRAMES_PER_SECOND_MAX,
        queueFramesMax: 64,
        queueSizeMax: 1 << 20,
      },
    );
  }

  /** Before the network starts. */
  async serve(): Promise<void> {
    await this.#channels.serve();
  }

  /** When the network listens: what this host says of itself names its addresses. */
  async start(): Promise<void> {
    const { clock } = this.#parts;
    const { incarnationFile } = this.#options;
    const incarnation = Math.max(clock.wallMs(), (await readIncarnation(incarnationFile)) + 1);
    await writeIncarnation(incarnationFile, incarnation);
    const description = await this.#describe();
    this.#described = description;
    this.#step({ type: "start", incarnation, description });
    this.#seek(SEEDS_AT_ONCE);
    this.#intervals = [
      setInterval(() => this.#seek(1), SEEK_EVERY_MS),
      setInterval(() => void this.announce(), DESCRIBE_EVERY_MS),
    ];
  }

  /** The hosts that may be members, this one not among them: nobody else is believed or listened to. */
  setMembers(hosts: Iterable<string>): void {
    const next = new Set(hosts);
    const gone = [...this.#members].filter((host) => !next.has(host));
    const isNews = [...next].some((host) => !this.#members.has(host));
    this.#members = next;
    for (const host of gone) {
      this.#heard.delete(host);
      this.#step({ type: "remove", host });
      this.#channels.drop(host);
    }
    if (!isNews) return;
    // Alone, it asks at once. Otherwise gossip brings the newcomer first: it need not be dialled by all at one moment.
    if (this.#state.table.active.length === 0) this.#seek(SEEDS_AT_ONCE);
    else this.#seekSoon();
  }

  isMember(host: string): boolean {
    return host === this.#parts.self || this.#members.has(host);
  }

  /** Says anew what this host is and has, if that changed. Never rejects. */
  async announce(): Promise<void> {
    try {
      const description = await this.#describe();
      if (this.#described !== undefined && isAlike(description, this.#described)) return;
      this.#described = description;
      this.#step({ type: "announce", description });
    } catch (error) {
      this.#parts.log.warn("this host cannot be described", { error });
    }
  }

  /** Everybody but this host. Who was forgotten, or never heard of, is not among them. */
  views(): MemberView[] {
    return [...this.#state.table.members()].map(({ host, update, rttMs, sinceMs }) => ({
      host,
      name: update.record.name,
      status: update.status,
      incarnation: update.record.incarnation,
      addresses: update.record.addresses,
      freeBytes: update.record.freeBytes,
      domainCount: update.record.domainCount,
      rttMs,
      accusers: update.accusations.map(({ from }) => from),
      sinceMs,
      heardAtMs: this.#heard.get(host),
    }));
  }

  view(host: string): MemberView | undefined {
    return this.views().find((view) => view.host === host);
  }

  statusOf(host: string): MemberStatus | undefined {
    return this.#state.table.get(host)?.update.status;
  }

  /** Hosts that are alive or suspect: whom gossip goes to. */
  active(): string[] {
    return this.#state.table.active.map(({ host }) => host);
  }

  get incarnation(): number {
    return this.#state.own?.record.incarnation ?? 0;
  }

  /** Calls `listener` after each change; returns how to stop. */
  onChange(listener: (change: MembershipChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Says farewell; resolves when the others were told, or nobody could be. */
  async leave(): Promise<void> {
    if (this.#state.phase === "idle") return;
    this.#step({ type: "leave" });
    await this.#left.promise;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    for (const interval of this.#intervals) clearInterval(interval);
    clearTimeout(this.#seeking);
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#channels.stop();
    await this.#writing;
  }

  #receive(host: string, frame: Uint8Array): void {
    let message: ReturnType<typeof decodeMessage>;
    try {
      message = decodeMessage(frame);
    } catch (error) {
      if (error instanceof ProtocolError) this.#offences.note(host, "malformed", { reason: error.message });
      throw error;
    }
    this.#heard.set(host, this.#parts.clock.nowMs());
    if (message !== undefined) this.#step({ type: "received", from: host, message });
  }

  #step(event: MembershipEvent): void {
    if (this.#isStopped) return;
    const [, effects] = step(this.#state, event, this.#context());
    for (const effect of effects) this.#perform(effect);
  }

  #context(): MembershipContext {
    const { clock, sign, verify } = this.#parts;
    return {
      config: this.#options.config,
      nowMs: clock.nowMs(),
      random: Math.random,
      sign,
      verify: (host, octets, signature) => this.isMember(host) && verify(host, octets, signature),
      incarnationMax: clock.wallMs() + FUTURE_INCARNATION_MS,
    };
  }

  #perform(effect: MembershipEffect): void {
    const { log } = this.#parts;
    switch (effect.type) {
      case "send":
        this.#channels.send(effect.to, encodeMessage(effect.message));
        return;
      case "set-timer":
        this.#setTimer(effect.timer, effect.afterMs);
        return;
      case "changed":
        this.#changed(effect);
        return;
      case "refuted": {
        const { incarnation, by } = effect;
        log.info("this host was doubted, and has answered", { by });
        this.#writing = this.#writing
          .then(() => writeIncarnation(this.#options.incarnationFile, incarnation))
          .catch((error: unknown) => log.warn("the incarnation was not written", { error }));
        return;
      }
      case "offence": {
        const { kind, ...detail } = effect.offence;
        // Who was admitted just now may be spoken of before the member list has come here.
        if (effect.offence.kind === "forged" && !this.isMember(effect.offence.host)) return;
        this.#offences.note(effect.peer, kind, detail);
        return;
      }
      case "left":
        this.#left.resolve();
        return;
    }
  }

  #setTimer(timer: Extract<MembershipEffect, { type: "set-timer" }>["timer"], afterMs: number): void {
    clearTimeout(this.#timers.get(timer));
    const handle = setTimeout(() => {
      this.#timers.delete(timer);
      this.#step({ type: "timer-fired", timer });
    }, afterMs);
    this.#timers.set(timer, handle);
  }

  #changed({ host, from, to, by }: Extract<MembershipEffect, { type: "changed" }>): void {
    const { log, links } = this.#parts;
    const name = this.#state.table.get(host)?.update.record.name;
    if (from !== to)
      log.info("member", { member: host, name, from: from ?? "unknown", to: to ?? "forgotten", by });
    if (to === "dead" || to === "left") {
      this.#channels.drop(host);
      links.drop(host);
    }
    for (const listener of this.#listeners) listener({ host, from, to });
  }

  /** Asks some of those that the list has and nobody spoke of: a cluster that never met, or a host that is down. */
  #seek(count: number): void {
    if (this.#state.phase !== "running") return;
    const unknown = [...this.#members].filter((host) => this.#state.table.get(host) === undefined);
    const seeds = shuffled(unknown).slice(0, count);
    if (seeds.length > 0) this.#step({ type: "join", seeds });
  }

  #seekSoon(): void {
    clearTimeout(this.#seeking);
    this.#seeking = setTimeout(() => this.#seek(1), (0.5 + Math.random()) * SEEK_SOON_MS);
  }

  async #describe(): Promise<HostDescription> {
    const { name, addresses, freeBytes, domainCount } = await this.#parts.describe();
    return {
      name: name.slice(0, HOST_NAME_LENGTH_MAX),
      addresses: addresses.filter(({ length }) => length <= ADDRESS_LENGTH_MAX).slice(0, ADDRESSES_MAX),
      freeBytes: Math.max(0, Math.floor(freeBytes)),
      domainCount,
    };
  }
}

function isAlike(one: HostDescription, other: HostDescription): boolean {
  const step = Math.max(one.freeBytes, other.freeBytes) * FREE_BYTES_STEP;
  return (
    one.name === other.name &&
    one.domainCount === other.domainCount &&
    one.addresses.join() === other.addresses.join() &&
    Math.abs(one.freeBytes - other.freeBytes) <= step
  );
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, order: Math.random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item);
}
