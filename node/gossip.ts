/**
 * What hosts tell one another without being asked: who is alive, and where the domains are. Puts its parts together
 * and starts them in order; the rest of the daemon asks the parts.
 */

import { join } from "node:path";
import { LAN, type MembershipConfig, WAN } from "../protocol/membership/config.ts";
import type { HostDescription } from "../protocol/membership/messages.ts";
import type { Metadata } from "../storage/metadata.ts";
import type { Clock } from "./clock.ts";
import { verifyByHost } from "./cluster/signing.ts";
import type { NodeConfig } from "./config.ts";
import { hostSigner, hostVerifier } from "./host-signer.ts";
import type { Identity } from "./identity.ts";
import type { Log } from "./log.ts";
import { HostMembership } from "./membership/host-membership.ts";
import { Links } from "./membership/links.ts";
import { Redial } from "./membership/redial.ts";
import type { KeyedNetwork } from "./network/key-ring.ts";
import { HostDialBack } from "./peers/dial-back.ts";
import { Peers } from "./peers/peers.ts";
import { HostPlacements } from "./placement/host-placements.ts";

export type GossipParts = {
  identity: Identity;
  network: KeyedNetwork;
  metadata: Metadata;
  clock: Clock;
  log: Log;
  describe(): Promise<HostDescription>;
  /** Dials on the bulk network, and presents the nonce there. */
  dialBulk(address: string, nonce: string): Promise<void>;
};

const TIMINGS: Record<NodeConfig["membership"]["timings"], MembershipConfig> = { lan: LAN, wan: WAN };
const MEMBERSHIP_PURPOSE = "sojourn membership 1";

export class HostGossip {
  readonly links: Links;
  readonly membership: HostMembership;
  readonly placements: HostPlacements;
  readonly peers: Peers;
  readonly dialBack: HostDialBack;
  readonly redial: Redial;

  constructor(parts: GossipParts, config: NodeConfig) {
    const { identity, network, metadata, clock, log, describe } = parts;
    const { hostId: self, privateKey } = identity;
    const timings = TIMINGS[config.membership.timings];
    // As long as a probe may take: a host that needs longer is as good as dead to its prober.
    const dialTimeoutMs = timings.probeIntervalMs + 2 * timings.probeTimeoutMs;
    this.links = new Links({ network, clock }, { dialTimeoutMs });
    this.peers = new Peers({ links: this.links, clock, log });
    this.membership = new HostMembership(
      {
        ...{ self, network, links: this.links, clock, log, describe },
        sign: hostSigner(privateKey, MEMBERSHIP_PURPOSE),
        verify: hostVerifier(verifyByHost, MEMBERSHIP_PURPOSE),
      },
      { config: timings, incarnationFile: join(config.dataDir, "incarnation") },
    );
    this.placements = new HostPlacements(
      {
        ...{ self, hostName: config.name, metadata, membership: this.membership, network, links: this.links },
        ...{ clock, log },
        // The record begins with a label of its own.
        sign: hostSigner(privateKey),
        verify: verifyByHost,
      },
      { exchangeEveryMs: config.membership.placementExchangeMs, openTimeoutMs: dialTimeoutMs },
    );
    this.membership.onChange(({ host, to }) => {
      const view = to === undefined ? undefined : this.membership.view(host);
      if (view !== undefined) this.peers.learn(host, view);
    });
    const active = (): string[] => this.membership.active();
    this.dialBack = new HostDialBack({
      ...{ self, peers: this.peers, links: this.links, active },
      dialBulk: (address, nonce) => parts.dialBulk(address, nonce),
    });
    this.links.summonBy(this.dialBack.summon);
    this.redial = new Redial(
      {
        ...{ network, links: this.links, active },
        isMember: (host) => this.membership.isMember(host),
        members: () => this.peers.views().map(({ host }) => host),
      },
      config.discovery,
    );
    let known: readonly string[] = [];
    this.peers.watchHosts((hosts) => {
      this.membership.setMembers(hosts.filter((host) => host !== self));
      for (const host of known) if (!hosts.includes(host)) this.placements.forget(host);
      known = hosts;
    });
  }

  /** Before the network starts: nobody may come before there is somebody to answer. */
  async serve(): Promise<void> {
    await this.membership.serve();
    await this.placements.serve();
  }

  /** When the network listens and the member list was read. */
  async start(): Promise<void> {
    await this.placements.start();
    await this.membership.start();
    this.redial.start();
  }

  async stop(): Promise<void> {
    this.redial.stop();
    await this.membership.stop();
    await this.placements.stop();
  }
}
