/** Hosts with everything that gossips, over real networks on loopback, in one process. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateKeyPair } from "@libp2p/crypto/keys";
import type { Ed25519PrivateKey } from "@libp2p/interface";
import { peerIdFromPrivateKey } from "@libp2p/peer-id";
import { systemClock } from "../../../node/clock.ts";
import { verifyByHost } from "../../../node/cluster/signing.ts";
import { type HostSigner, hostSigner, hostVerifier } from "../../../node/host-signer.ts";
import { createLog, type Log } from "../../../node/log.ts";
import { HostMembership } from "../../../node/membership/host-membership.ts";
import { Links } from "../../../node/membership/links.ts";
import type { GossipOptions } from "../../../node/network/gossipsub.ts";
import { Libp2pNetwork } from "../../../node/network/libp2p-network.ts";
import { OffenceLog } from "../../../node/offence-log.ts";
import { HostPlacements } from "../../../node/placement/host-placements.ts";
import { LAN, type MembershipConfig } from "../../../protocol/membership/config.ts";
import { MemoryMetadata, MemoryStore } from "../../../storage/memory-metadata.ts";

/** Ten times as fast as a LAN's, so that tests need not wait; probes have time enough on a loaded machine. */
export const FAST: MembershipConfig = {
  ...LAN,
  probeIntervalMs: 400,
  probeTimeoutMs: 200,
  nackAfterMs: 150,
  gossipIntervalMs: 40,
  suspicionMult: 2,
  reconnectIntervalMs: 1000,
  announceIntervalMs: 50,
};

const PATIENCE_MS = 25_000;

function noteOn(log: Log): GossipOptions["onOffence"] {
  const offences = new OffenceLog(log, "gossip");
  return (peer, kind, detail) => offences.note(peer, kind, detail);
}

export type LogLine = { level: string; message: string } & Record<string, unknown>;

export class GossipHost {
  readonly name: string;
  readonly privateKey: Ed25519PrivateKey;
  readonly id: string;
  readonly network: Libp2pNetwork;
  readonly links: Links;
  readonly membership: HostMembership;
  readonly placements: HostPlacements;
  /** The disk. */
  readonly store: MemoryStore;
  readonly metadata: MemoryMetadata;
  readonly lines: LogLine[] = [];
  readonly #onLine = new Set<() => void>();
  readonly sign: HostSigner;
  #isStopped = false;

  constructor(name: string, privateKey: Ed25519PrivateKey, parts: { folder: string; store?: MemoryStore }) {
    this.name = name;
    this.privateKey = privateKey;
    this.id = peerIdFromPrivateKey(privateKey).toString();
    const log: Log = createLog({
      level: "info",
      sink: (line) => {
        this.lines.push(JSON.parse(line) as LogLine);
        for (const listener of this.#onLine) listener();
      },
    });
    const clock = systemClock;
    this.network = new Libp2pNetwork(
      { privateKey, log },
      { role: "control", listen: ["/ip4/127.0.0.1/tcp/0"], gossip: { onOffence: noteOn(log) } },
    );
    this.links = new Links({ network: this.network, clock }, { dialTimeoutMs: 1000 });
    this.store = parts.store ?? new MemoryStore();
    this.metadata = new MemoryMetadata(this.store);
    this.sign = hostSigner(privateKey);
    const common = { self: this.id, network: this.network, links: this.links, clock, log };
    this.membership = new HostMembership(
      {
        ...common,
        sign: hostSigner(privateKey, "test membership"),
        verify: hostVerifier(verifyByHost, "test membership"),
        describe: async () => ({ name, addresses: [], freeBytes: 1 << 30, domainCount: 0 }),
      },
      { config: FAST, incarnationFile: join(parts.folder, `${name}.incarnation`) },
    );
    this.placements = new HostPlacements(
      {
        ...common,
        hostName: name,
        metadata: this.metadata,
        membership: this.membership,
        sign: this.sign,
        verify: verifyByHost,
      },
      { exchangeEveryMs: 500, openTimeoutMs: 1000 },
    );
  }

  async listen(): Promise<void> {
    await this.membership.serve();
    await this.placements.serve();
    await this.network.start();
  }

  /** With those as the other members. */
  async start(others: readonly GossipHost[]): Promise<void> {
    this.meet(others);
    await this.placements.start();
    await this.membership.start();
  }

  meet(others: readonly GossipHost[]): void {
    for (const other of others)
      if (other !== this) this.links.setAddresses(other.id, other.network.addresses());
    this.membership.setMembers(others.map(({ id }) => id).filter((id) => id !== this.id));
  }

  /** Resolves when that is so, looked at whenever something was heard. */
  async until(isSo: () => boolean, what: string): Promise<void> {
    if (isSo()) return;
    await new Promise<void>((resolve, reject) => {
      const forget: (() => void)[] = [];
      const look = (): void => {
        if (!isSo()) return;
        for (const each of forget) each();
        resolve();
      };
      const late = setTimeout(() => {
        for (const each of forget) each();
        reject(new Error(`${this.name} never heard that ${what}`));
      }, PATIENCE_MS);
      forget.push(this.membership.onChange(look), this.placements.onChange(look), () => clearTimeout(late));
    });
  }

  /** Resolves when that is so, looked at whenever a line was written. */
  async untilLogged(isSo: () => boolean, what: string): Promise<void> {
    if (isSo()) return;
    const logged = Promise.withResolvers<void>();
    const look = (): void => {
      if (isSo()) logged.resolve();
    };
    const late = setTimeout(
      () => logged.reject(new Error(`${this.name} never logged that ${what}`)),
      PATIENCE_MS,
    );
    this.#onLine.add(look);
    await logged.promise.finally(() => {
      clearTimeout(late);
      this.#onLine.delete(look);
    });
  }

  /** A crash: nobody is told. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    await this.membership.stop();
    await this.placements.stop();
    await this.network.stop();
  }

  offences(): LogLine[] {
    return this.lines.filter(({ message }) => message === "offence");
  }
}

export class GossipHosts {
  readonly hosts: GossipHost[] = [];
  #folder = "";

  async make(count: number): Promise<GossipHost[]> {
    this.#folder = await mkdtemp(join(tmpdir(), "sojourn-gossip-"));
    for (let index = 0; index < count; index++) {
      this.hosts.push(
        new GossipHost(`host-${index}`, await generateKeyPair("Ed25519"), { folder: this.#folder }),
      );
    }
    for (const host of this.hosts) await host.listen();
    return this.hosts;
  }

  /** The same host anew: same key, same folder, same disk. */
  async again(host: GossipHost, store: MemoryStore): Promise<GossipHost> {
    const next = new GossipHost(host.name, host.privateKey, { folder: this.#folder, store });
    await next.listen();
    this.hosts[this.hosts.indexOf(host)] = next;
    return next;
  }

  async stop(): Promise<void> {
    await Promise.all(this.hosts.splice(0).map((host) => host.stop()));
    await rm(this.#folder, { recursive: true, force: true });
  }
}
