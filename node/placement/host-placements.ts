/**
 * Where the cluster's domains are, as this host has heard it, and what it says itself: its own records are signed and
 * gossiped when they change; others' are judged before gossip takes them further; digests repair what that lost. Kept
 * in the metadata, so that a host that was restarted answers at once.
 */

import {
  contradiction,
  joinPlacement,
  type Placement,
  placementOctets,
  type SignedPlacement,
} from "../../protocol/placement.ts";
import {
  encodePlacementMessage,
  PLACEMENT_PROTOCOL,
  type PlacementMessage,
  recordMessages,
  summaryOf,
} from "../../protocol/placement-messages.ts";
import { PlacementTable, type Verdict } from "../../protocol/placement-table.ts";
import type { Metadata } from "../../storage/metadata.ts";
import type { Clock } from "../clock.ts";
import type { HostSigner, HostVerifier } from "../host-signer.ts";
import type { Log } from "../log.ts";
import type { HostMembership } from "../membership/host-membership.ts";
import type { Links } from "../membership/links.ts";
import { PeerChannels } from "../membership/peer-channels.ts";
import type { KeyedNetwork } from "../network/key-ring.ts";
import { OffenceLog } from "../offence-log.ts";
import { decodeFrom, PlacementNews } from "./news.ts";
import { NewsBudget } from "./news-budget.ts";
import { isSameWord, ownPlacement } from "./own-placement.ts";

export type HostPlacementsParts = {
  self: string;
  hostName: string;
  metadata: Pick<Metadata, "placements" | "domains" | "replicas">;
  membership: Pick<HostMembership, "active" | "isMember" | "onChange">;
  network: KeyedNetwork;
  links: Links;
  clock: Clock;
  log: Log;
  sign: HostSigner;
  verify: HostVerifier;
};

/** Per generation: how many blocks a replica of it lacks now; undefined where nobody can tell. */
export type MeasureReplicas = (
  domain: string,
  generations: readonly number[],
) => Promise<(number | undefined)[]>;

export type HostPlacementsOptions = { exchangeEveryMs: number; openTimeoutMs: number };

/** A domain as this host has heard of it. More than one claim is a conflict. */
export type DomainView = { claim: Placement; others: readonly Placement[] };

/** A small question has a large answer: one for each host in a second. */
const ANSWER_EVERY_MS = 1_000;
/** Somebody else's claim to a domain of ours: the handover may be on its way through our own journal. */
const DISPUTE_AFTER_MS = 3_000;
const DISPUTE_RENEW_MS = 10 * 60_000;

export class HostPlacements {
  readonly #parts: HostPlacementsParts;
  readonly #options: HostPlacementsOptions;
  readonly #table: PlacementTable;
  readonly #channels: PeerChannels;
  readonly #offences: OffenceLog;
  readonly #budget = new NewsBudget();
  readonly #news: PlacementNews;
  readonly #listeners = new Set<(domain: string) => void>();
  readonly #answeredAtMs = new Map<string, number>();
  readonly #disputes = new Map<string, NodeJS.Timeout>();
  #exchange: NodeJS.Timeout | undefined;
  #lastSeq = 0;
  #writing: Promise<unknown> = Promise.resolve();
  #updating: Promise<void> = Promise.resolve();
  #isStopped = false;
  #measure: MeasureReplicas = async () => [];

  constructor(parts: HostPlacementsParts, options: HostPlacementsOptions) {
    const { self, membership, network, links, log, verify } = parts;
    this.#parts = parts;
    this.#options = options;
    this.#table = new PlacementTable({
      isMember: (host) => membership.isMember(host),
      verify: (host, octets, signature) => verify(host, octets, signature),
    });
    this.#offences = new OffenceLog(log, "placement");
    this.#news = new PlacementNews({
      ...{ gossip: network.gossip, membership, offences: this.#offences, budget: this.#budget },
      judge: (author, bytes, by) => this.#judge(author, bytes, by),
    });
    this.#channels = new PeerChannels(
      { network, links, log },
      {
        protocol: PLACEMENT_PROTOCOL,
        isMember: (host) => host !== self && membership.isMember(host),
        onFrame: (host, frame) => this.#receive(host, frame),
        onOpen: () => {},
        onLost: () => {},
        openTimeoutMs: options.openTimeoutMs,
        framesPerSecondMax: 500,
        queueFramesMax: 256,
        queueSizeMax: 8 << 20,
      },
    );
  }

  /** Before the network starts. */
  async serve(): Promise<void> {
    const { network, membership } = this.#parts;
    await this.#channels.serve();
    this.#news.serve();
    // The dialler asks: one comparison for each connection is enough.
    network.onConnection(({ peer, direction }) => {
      if (direction === "outbound" && membership.isMember(peer)) this.compareWith(peer);
    });
  }

  /** Knows again what was known before the restart, and says where this host's domains are. */
  async start(): Promise<void> {
    await this.#load();
    await this.updateAll();
    this.#armExchange();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#news.stop();
    clearTimeout(this.#exchange);
    for (const timer of this.#disputes.values()) clearTimeout(timer);
    await this.#updating;
    this.#channels.stop();
    await this.#writing;
  }

  /** Every domain that is said to be somewhere. */
  views(): DomainView[] {
    return [...this.#table.domains()].flatMap((domain) => this.view(domain) ?? []);
  }

  view(domain: string): DomainView | undefined {
    const [claim, ...others] = this.#table.claims(domain);
    return claim === undefined || claim.state === "gone" ? undefined : { claim, others };
  }

  /** By id or name. */
  find(query: string): DomainView | undefined {
    return this.view(query) ?? this.views().find(({ claim }) => claim.name === query);
  }

  /** Equal on hosts that know the same. */
  summary(): string {
    return summaryOf(this.#table.digest())
      .map((half) => half.toString(16).padStart(8, "0"))
      .join("");
  }

  /** Calls `listener` with each domain about which something became known; returns how to stop. */
  onChange(listener: (domain: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** From now on a word says, too, how far each replica is behind when it is given. */
  measureWith(measure: MeasureReplicas): void {
    this.#measure = measure;
  }

  /** The host is no member any more. */
  forget(host: string): void {
    this.#channels.drop(host);
    for (const domain of this.#table.forget(host)) {
      this.#write(() => this.#parts.metadata.placements.remove(domain, { host, sync: false }));
      this.#tellListeners(domain);
    }
  }

  async updateAll(): Promise<void> {
    const known = [...this.#table.all()].map(({ placement }) => placement);
    const mine = known.filter(({ host }) => host === this.#parts.self).map(({ domain }) => domain);
    const domains = (await this.#parts.metadata.domains.list()).map(({ id }) => id);
    for (const domain of new Set([...mine, ...domains])) await this.update(domain);
  }

  /** How far replicas are behind changes with every write, and nobody tells. A quarrel has its own time. */
  async #measureAgain(): Promise<void> {
    const { self } = this.#parts;
    const mine = [...this.#table.all()].filter(({ placement: { host, replicas, domain } }) => {
      return host === self && replicas.length > 0 && !this.#disputes.has(domain);
    });
    for (const { placement } of mine) await this.update(placement.domain);
  }

  /** Says where the domain is if it is here and that is news. One at a time: each word has its own number. */
  update(domain: string): Promise<void> {
    const updated = this.#updating.then(() => this.#update(domain, { isRenewed: false }));
    this.#updating = updated.catch(() => undefined);
    return updated;
  }

  /** Finds out whether both know the same; if not, both do soon. */
  compareWith(host: string): void {
    this.#send(host, { type: "summary", summary: summaryOf(this.#table.digest()) });
  }

  async #update(domain: string, { isRenewed }: { isRenewed: boolean }): Promise<void> {
    if (this.#isStopped) return;
    const { metadata, self, hostName, clock } = this.#parts;
    const known = this.#table.claimOf(domain, self);
    const record = await metadata.domains.get(domain);
    // Handed over: its new host speaks for it.
    if (record !== undefined && record.owner !== self) return this.#giveIn(known);
    if (record === undefined && (known === undefined || known.state === "gone")) return;
    const replicas = record === undefined ? [] : await metadata.replicas.list(domain);
    const rival = this.#rivalOf(domain, record?.generation);
    const generations = [...new Set(replicas.map(({ generation }) => generation))];
    // Who cannot tell now, because the bytes' process is being started, tells the rest nevertheless.
    const lacking = await this.#measure(domain, generations).catch(() => []);
    const dirtyBlocks = new Map(
      generations.flatMap((generation, index) => {
        const blocks = lacking[index];
        return blocks === undefined ? [] : [[generation, blocks] as const];
      }),
    );
    const said = ownPlacement({ self, hostName, record, replicas, dirtyBlocks, known, rival });
    if (said === undefined) return;
    if (!isRenewed && known !== undefined && isSameWord(said, known)) return;
    const timeMs = Math.floor(clock.wallMs());
    this.#lastSeq = Math.max(this.#lastSeq + 1, timeMs);
    this.#publish({ ...said, seq: this.#lastSeq, timeMs });
  }

  /** This host disputed another's claim, and its journal has given way: else all would see a quarrel for a while. */
  #giveIn(known: Placement | undefined): void {
    if (known?.disputes === undefined) return;
    const { disputes: _, ...said } = known;
    const timeMs = Math.floor(this.#parts.clock.wallMs());
    this.#lastSeq = Math.max(this.#lastSeq + 1, timeMs);
    this.#publish({ ...said, seq: this.#lastSeq, timeMs });
  }

  #publish(placement: Placement): void {
    const { log, self } = this.#parts;
    const wrong = contradiction(placement);
    if (wrong !== undefined) {
      log.error("this host would contradict itself", { domain: placement.domain, reason: wrong });
      return;
    }
    const octets = placementOctets(placement);
    const signed = joinPlacement(placement, { octets, signature: this.#parts.sign(octets) });
    const { kind } = this.#judge(self, signed.octets, { broughtBy: self });
    if (kind === "news") this.#news.tell(signed);
  }

  /** Somebody who claims a domain that this host's journal still has. */
  #rivalOf(domain: string, generation: number | undefined): Placement | undefined {
    if (generation === undefined || !this.#disputes.has(domain)) return undefined;
    const { self } = this.#parts;
    return this.#table.claims(domain).find((claim) => claim.host !== self && claim.generation > generation);
  }

  #receive(from: string, frame: Uint8Array): void {
    const message = decodeFrom(from, { octets: frame, offences: this.#offences });
    if (message === undefined) throw new Error("it brings what is no message");
    switch (message.type) {
      case "records":
        for (const record of message.records) {
          const verdict = this.#judge(from, record, { broughtBy: from });
          if (verdict.kind !== "refused" || verdict.offence.by !== from) continue;
          if (this.#budget.offended(from)) throw new Error("it brings what nobody said");
        }
        return;
      case "summary": {
        const ours = this.#table.digest();
        const [high, low] = summaryOf(ours);
        if (message.summary[0] === high && message.summary[1] === low) return;
        this.#send(from, { type: "digest", wantsAnswer: true, hosts: ours });
        return;
      }
      case "digest":
        if (!this.#mayAnswer(from)) return;
        for (const each of recordMessages(this.#table.lackedBy(message.hosts))) this.#send(from, each);
        if (!message.wantsAnswer) return;
        this.#send(from, { type: "digest", wantsAnswer: false, hosts: this.#table.digest() });
        return;
    }
  }

  #judge(from: string, bytes: Uint8Array, { broughtBy }: { broughtBy: string }): Verdict {
    const { clock } = this.#parts;
    const verdict = this.#table.offer(bytes, { from, nowMs: clock.wallMs() });
    if (verdict.kind === "refused" || (verdict.kind === "news" && verdict.offence !== undefined)) {
      const { offence } = verdict as { offence: NonNullable<typeof verdict.offence> };
      const { by, kind, reason } = offence;
      this.#offences.note(by, kind, { reason, broughtBy });
    }
    if (verdict.kind !== "news") return verdict;
    const { signed, dropped } = verdict;
    const { placement } = signed;
    this.#keep(signed, from);
    for (const { domain, host } of dropped) {
      this.#write(() => this.#parts.metadata.placements.remove(domain, { host, sync: false }));
    }
    this.#watchForRivals(placement);
    this.#tellListeners(placement.domain);
    return verdict;
  }

  #watchForRivals(placement: Placement): void {
    const { self, log } = this.#parts;
    const { domain, generation } = placement;
    const [top, ...others] = this.#table.claims(domain);
    if (top !== undefined && others.length > 0) {
      const hosts = [top, ...others].map(({ host }) => host);
      log.error("several hosts claim one domain", {
        domain,
        name: top.name,
        generation: top.generation,
        hosts,
      });
    }
    if (placement.host === self) {
      // A word of ours that we do not know, from before a loss, or a dispute that somebody had not heard the end of:
      // what is true now is said over it.
      if (placement.seq > this.#lastSeq || placement.disputes !== undefined) {
        this.#lastSeq = Math.max(this.#lastSeq, placement.seq);
        void this.update(domain).catch((error: unknown) => log.error("placement", { domain, error }));
      }
      return;
    }
    if (!this.#disputes.has(domain)) this.#disputeLater(domain, generation, DISPUTE_AFTER_MS);
  }

  /** Ours, by our own journal, and another's, by its word: said again and again while it lasts. */
  #disputeLater(domain: string, generation: number, afterMs: number): void {
    const { metadata, self, log } = this.#parts;
    const look = async (): Promise<void> => {
      this.#disputes.delete(domain);
      const record = await metadata.domains.get(domain);
      const [top] = this.#table.claims(domain);
      if (this.#isStopped || record?.owner !== self || top === undefined) return;
      if (top.host === self || top.generation <= record.generation) return;
      log.error("another host claims a domain of this one", {
        domain,
        by: top.host,
        generation: { theirs: top.generation, ours: record.generation },
      });
      this.#disputeLater(domain, top.generation, DISPUTE_RENEW_MS);
      await this.#update(domain, { isRenewed: true });
    };
    const timer = setTimeout(() => {
      this.#updating = this.#updating
        .then(look)
        .catch((error: unknown) => log.error("placement", { domain, generation, error }));
    }, afterMs);
    timer.unref();
    this.#disputes.set(domain, timer);
  }

  #send(host: string, message: PlacementMessage): void {
    this.#channels.send(host, encodePlacementMessage(message));
  }

  #mayAnswer(host: string): boolean {
    const now = this.#parts.clock.nowMs();
    if (now - (this.#answeredAtMs.get(host) ?? Number.NEGATIVE_INFINITY) < ANSWER_EVERY_MS) return false;
    this.#answeredAtMs.set(host, now);
    return true;
  }

  #armExchange(): void {
    const { exchangeEveryMs } = this.#options;
    this.#exchange = setTimeout(
      () => {
        const active = this.#parts.membership.active();
        const host = active[Math.floor(Math.random() * active.length)];
        if (host !== undefined) this.compareWith(host);
        this.#measureAgain().catch((error: unknown) => this.#parts.log.error("placement", { error }));
        for (const { domain, host: gone } of this.#table.sweep(this.#parts.clock.wallMs())) {
          this.#write(() => this.#parts.metadata.placements.remove(domain, { host: gone, sync: false }));
          this.#tellListeners(domain);
        }
        this.#armExchange();
      },
      exchangeEveryMs * (0.75 + Math.random() / 4),
    );
  }

  async #load(): Promise<void> {
    const { metadata, self, clock, log } = this.#parts;
    let lost = 0;
    for (const { signed } of await metadata.placements.list()) {
      const bytes = signed === undefined ? undefined : Buffer.from(signed, "base64");
      const verdict = bytes && this.#table.offer(bytes, { from: self, nowMs: clock.wallMs() });
      if (verdict?.kind !== "news") lost += 1;
      else if (verdict.signed.placement.host === self) {
        this.#lastSeq = Math.max(this.#lastSeq, verdict.signed.placement.seq);
      }
    }
    if (lost > 0) log.info("placements of before were left out", { lost, known: this.#table.size });
  }

  #keep({ placement, octets }: SignedPlacement, from: string): void {
    const { domain, name, host, hostName, generation, state, seq, timeMs } = placement;
    const signed = Buffer.from(octets).toString("base64");
    const record = { domain, name, host, hostName, generation, state, seq, updatedAt: timeMs, from, signed };
    this.#write(() => this.#parts.metadata.placements.put(record, { sync: false }));
  }

  /** In the order of the calls. What is not written is heard again. */
  #write(work: () => Promise<void>): void {
    this.#writing = this.#writing
      .then(work)
      .catch((error: unknown) => this.#parts.log.warn("a placement was not written", { error }));
  }

  #tellListeners(domain: string): void {
    for (const listener of this.#listeners) listener(domain);
  }
}
